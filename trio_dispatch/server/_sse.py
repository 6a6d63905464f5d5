"""One channel as server-sent events.

A stream has a subscriber's credits, and no way to be granted more: after 1,000 events it is silent
for ever (protocol, "Server-sent events"). It has no ids, no replay and no keepalives.
"""

from __future__ import annotations

from collections import deque
from contextlib import suppress
from types import TracebackType

import trio

from trio_dispatch.server._broker import InvalidTopic, PublishedEvent, Subscriber
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._views import ConnectionView


class EventStream:
    """The events of *channel*, as chunks of an event stream. In force inside its ``with`` block.

    A channel that does not exist gives a stream without events (recording ``sse``).
    """

    def __init__(self, hub: Hub, identity: Identity, channel: str) -> None:
        self._hub = hub
        self._identity = identity
        self._channel = channel
        self._subscriber = Subscriber(self._deliver, hub.quirks)
        self._events: deque[PublishedEvent] = deque()
        self._arrived = trio.Event()
        self._taken = 0

    def __enter__(self) -> None:
        broker = self._hub.broker
        broker.attach(self._subscriber)
        with suppress(InvalidTopic):
            broker.subscribe(self._subscriber, self._channel)
        self._hub.connections[self] = None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._hub.connections.pop(self, None)
        self._hub.broker.detach(self._subscriber)

    def view(self) -> ConnectionView:
        """A frozen copy of the stream's state."""
        return ConnectionView(
            session_id="",
            transport="sse",
            format="json",
            subject=self._identity.subject,
            channels=frozenset(self._subscriber.topics),
            credits=self._subscriber.credits,
            frames=0,
            events_delivered=self._subscriber.delivered,
            events_dropped=self._subscriber.dropped,
            blocked=False,
            peer_gone=False,
        )

    def _deliver(self, event: PublishedEvent) -> None:
        self._events.append(event)
        self._arrived.set()

    async def next_chunk(self) -> bytes:
        """Wait for events, and take all that are there."""
        await self._arrived.wait()
        self._arrived = trio.Event()
        chunk = bytearray()
        self._taken = len(self._events)
        for event in self._events:
            chunk += b"event: " + event.type.encode() + b"\ndata: " + bytes(event.encoded) + b"\n\n"
        self._events.clear()
        return bytes(chunk)

    def sent(self) -> None:
        """Make room again: the last chunk has left."""
        self._subscriber.sent(self._taken)
        self._taken = 0
