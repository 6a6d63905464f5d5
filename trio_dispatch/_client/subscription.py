"""The public subscription object: entering, reading, leaving."""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from trio_dispatch._client.subscriber import Subscriber
from trio_dispatch._client.subscriptions import Subscriptions
from trio_dispatch._link.mailbox import Mailbox, Overflow
from trio_dispatch._transport.receiving import BlockChannel
from trio_dispatch._wire.errors import RequestTimeout, fresh
from trio_dispatch._wire.models import Event


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """Counts of the events that a subscription stores and has lost."""

    stored: int
    """Events that wait to be read."""
    stored_bytes: int
    """The size of their data as JSON text, in bytes."""
    buffer: int
    """The most events that it stores."""
    buffer_bytes: int
    """The most bytes of their data that it stores."""
    dropped: int
    """Events lost so far because it was full."""


class Subscription(BlockChannel[Event]):
    """The events of some channels, from the time when its block is entered.

    See `Client.subscribe`. This is an async context manager, and inside the block a
    `trio.abc.ReceiveChannel`. Entering waits until the server has confirmed all channels, and for a
    connection if there is none. If entering is cancelled, no subscription remains. Leaving does not
    wait.

    Several tasks may read from one subscription; each event goes to one of them.
    """

    def __init__(
        self,
        registry: Subscriptions,
        channels: Iterable[str],
        buffer: int,
        overflow: Overflow,
        *,
        patient: bool = False,
    ) -> None:
        super().__init__("client.subscribe(…)")
        self._registry = registry
        self._timeout = None if patient else registry.timeout
        self._mailbox: Mailbox[Event] = Mailbox(buffer, overflow)
        self._subscriber = Subscriber(channels, self._mailbox)

    def __repr__(self) -> str:
        channels = ", ".join(self.channels) or "to nothing"
        return f"<Subscription {channels}: {len(self._mailbox)} stored>"

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that it is subscribed to."""
        return self._subscriber.channels

    @property
    def dropped(self) -> int:
        """How many events were lost because the buffer was full."""
        return self._mailbox.dropped

    def statistics(self) -> SubscriptionStatistics:
        """Return counts of the events that it stores and has lost."""
        box = self._mailbox
        return SubscriptionStatistics(
            stored=len(box),
            stored_bytes=box.stored_bytes,
            buffer=box.capacity,
            buffer_bytes=box.max_bytes,
            dropped=box.dropped,
        )

    async def _open(self) -> None:
        """Subscribe, and wait until the servers have confirmed all channels.

        Raises:
            RequestError: a server refused a channel, for example `PermissionDenied`.
            RequestTimeout: there was no confirmation in time.
            DispatchError: the client ended.
        """
        subscriber = self._subscriber
        self._registry.attach(subscriber)
        with trio.move_on_after(float("inf") if self._timeout is None else self._timeout):
            await subscriber.settled.wait()
        if subscriber.error is not None:
            raise fresh(subscriber.error)
        if not subscriber.entered:
            raise self._timed_out()

    def _timed_out(self) -> RequestTimeout:
        missing = self._subscriber.unconfirmed()
        written = any(feed.was_asked(name) for feed, name in missing)
        channels = ", ".join(dict.fromkeys(name for _, name in missing))
        fate = (
            "it was sent and will be taken back"
            if written
            else "it was never sent (no connection, or too many requests in flight)"
        )
        return RequestTimeout(
            f"subscribe to {channels}: not confirmed within {self._timeout:g} s; {fate}", written
        )

    def _close(self) -> None:
        self._registry.detach(self._subscriber)
        self._mailbox.close()

    async def receive(self) -> Event:
        """Wait for the next event, or for a `StreamGap` if some may be missing.

        This is a checkpoint. If it is cancelled, no event is lost.

        Raises:
            SubscriptionOverflow: the buffer was full, with ``overflow="raise"``. The next call
                returns new events.
            RequestError: the server refused to restore a channel after a reconnect.
            trio.EndOfChannel: `unsubscribe` ended it.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
            DispatchError: the client ended, by this error.
        """
        self._check_inside()
        return await self._mailbox.receive()

    async def __anext__(self) -> Event:
        """Return the next event, for loops: the end of the channel ends the loop.

        You can cancel the loop at each turn. While events are stored, other tasks run at every 16th
        event.
        """
        if not self._inside:
            self._check_inside()
        try:
            return await self._mailbox.receive_in_a_row()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def receive_nowait(self) -> Event:
        """Return the next event if there is one; else raise `trio.WouldBlock`.

        It raises the same errors as `receive`.
        """
        self._check_inside()
        return self._mailbox.receive_nowait()

    async def unsubscribe(self, *channels: str) -> None:
        """Stop receiving the events of *channels*, or of all.

        From now on their events are not stored; events that are already stored can still be read.
        If no channel is left, reading then ends (`trio.EndOfChannel`). The call does not wait for
        the server. It is a checkpoint; even if it is cancelled, it has unsubscribed.

        Raises:
            ValueError: it is not subscribed to one of *channels*.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
        """
        self._check_inside()
        for channel in channels:
            if channel not in self.channels:
                raise ValueError(f"this subscription has no channel {channel!r}")
        self._registry.leave(self._subscriber, channels or self.channels)
        if not self.channels:
            self._mailbox.end()
        await trio.lowlevel.checkpoint()
