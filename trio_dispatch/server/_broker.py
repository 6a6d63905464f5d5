"""Who gets which event: topics, subscriptions, credits, buffers and their counts.

An event has one topic, ``job:<id>`` or ``workflow:<id>``, and reaches whoever subscribed to that,
to the collection it belongs to, or to everything. A subscriber gets it once, however many of its
channels match (recording ``subscriptions``), if it has a credit left and room in its buffer; else
the event is dropped without a word (protocol, "Credits").
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import msgspec

from trio_dispatch.server._clock import rfc3339, to_datetime
from trio_dispatch.server._go_text import quote
from trio_dispatch.server._quirks import RECORDED, Quirks

INITIAL_CREDITS: Final = 1_000
KEPT_EVENTS: Final = 100_000

_COLLECTIONS: Final = {"job": "jobs", "workflow": "workflows"}
_FIREHOSE: Final = "firehose"
_PLAIN_TOPICS: Final = frozenset({"jobs", "workflows", _FIREHOSE})
_ENTITY_TYPES: Final = frozenset({"job", "workflow", "queue"})

_encode = msgspec.json.Encoder().encode


class InvalidTopic(ValueError):
    """A channel that cannot be subscribed, in the words of a Dispatch server."""


class PublishedEvent:
    """One event as the server published it."""

    def __init__(self, type: str, topic: str, data: dict[str, Any], ts_ns: int) -> None:
        self.type = type
        self.topic = topic
        self.data = data
        self.ts_ns = ts_ns

    @property
    def ts(self) -> datetime:
        """When it was published."""
        return to_datetime(self.ts_ns)

    @cached_property
    def encoded(self) -> msgspec.Raw:
        """The event as JSON text: encoded once, however many get it."""
        return msgspec.Raw(
            _encode(
                {
                    "type": self.type,
                    "ts": rfc3339(self.ts_ns),
                    "topic": self.topic,
                    "data": self.data,
                }
            )
        )

    def __repr__(self) -> str:
        return f"PublishedEvent({self.type!r}, {self.topic!r}, {self.data!r})"


def check_topic(channel: str) -> None:
    """Check that *channel* may be subscribed.

    Raises:
        InvalidTopic: it may not (recording ``subscriptions``).
    """
    if channel in _PLAIN_TOPICS:
        return
    entity, _, ident = channel.partition(":")
    if not entity or not ident:
        raise InvalidTopic(f"stream: invalid topic {quote(channel)}")
    if entity not in _ENTITY_TYPES:
        raise InvalidTopic(f"stream: unknown topic entity type {quote(entity)}")


class Subscriber:
    """One WebSocket session or event stream.

    Args:
        deliver: is given each event that gets through. It must not block, and must call `sent`
            when the event has left.
    """

    def __init__(
        self, deliver: Callable[[PublishedEvent], None], quirks: Quirks = RECORDED
    ) -> None:
        self.deliver = deliver
        self.topics: set[str] = set()
        self.credits = INITIAL_CREDITS
        self._spends = quirks.finite_credits
        self._buffer = quirks.event_buffer
        self.unsent = 0
        self.delivered = 0
        self.dropped = 0

    def offer(self, event: PublishedEvent) -> bool:
        """Deliver *event*, or drop it where no credit or no room is left."""
        full = self._buffer is not None and self.unsent >= self._buffer
        if self.credits <= 0 or full:
            self.dropped += 1
            return False
        if self._spends:
            self.credits -= 1
        self.unsent += 1
        self.delivered += 1
        self.deliver(event)
        return True

    def grant(self, credits: int) -> None:
        """Add credits, in 64 bits: too many make a debt."""
        self.credits = (self.credits + credits + 2**63) % 2**64 - 2**63

    def sent(self, count: int = 1) -> None:
        """Make room again: *count* events have left."""
        self.unsent -= count


class Broker:
    """All subscribers, by topic.

    Args:
        keep: how many events are remembered.
    """

    def __init__(self, quirks: Quirks = RECORDED, keep: int = KEPT_EVENTS) -> None:
        self._queues = not quirks.silent_queues
        self._by_topic: dict[str, dict[Subscriber, None]] = {}
        self._subscribers: set[Subscriber] = set()
        self.on_publish: Callable[[PublishedEvent], None] | None = None
        """Called with each event, before it is offered."""
        self.history: deque[PublishedEvent] = deque(maxlen=keep)
        self.published = 0
        """Events published."""
        self.deliveries = 0
        """Events delivered, once for each subscriber: ``total_published`` in ``stats``."""
        self.dropped = 0
        """Deliveries that credits or buffers prevented. ``stats`` never tells them."""

    @property
    def topic_count(self) -> int:
        """Topics that have subscribers."""
        return len(self._by_topic)

    @property
    def subscriber_count(self) -> int:
        """Sessions and streams, whether they subscribed to anything or not."""
        return len(self._subscribers)

    def attach(self, subscriber: Subscriber) -> None:
        """Count *subscriber*."""
        self._subscribers.add(subscriber)

    def detach(self, subscriber: Subscriber) -> None:
        """Forget *subscriber* and its subscriptions."""
        for topic in list(subscriber.topics):
            self.unsubscribe(subscriber, topic)
        self._subscribers.discard(subscriber)

    def subscribe(self, subscriber: Subscriber, topic: str) -> None:
        """Subscribe; subscribing twice counts once.

        Raises:
            InvalidTopic: there is no such topic.
        """
        check_topic(topic)
        self._by_topic.setdefault(topic, {})[subscriber] = None
        subscriber.topics.add(topic)

    def unsubscribe(self, subscriber: Subscriber, topic: str) -> None:
        """Unsubscribe; what was never subscribed is no error."""
        subscriber.topics.discard(topic)
        subscribers = self._by_topic.get(topic)
        if subscribers is not None:
            subscribers.pop(subscriber, None)
            if not subscribers:
                del self._by_topic[topic]

    def channels_of(self, event: PublishedEvent) -> list[str]:
        """The channels that bring *event*, narrowest first."""
        entity = event.topic.partition(":")[0]
        channels = [event.topic, _COLLECTIONS.get(entity, ""), _FIREHOSE]
        if self._queues and "queue" in event.data:
            # The recorded server accepts such a channel and never delivers (protocol, "Events").
            channels.insert(1, f"queue:{event.data['queue']}")
        return channels

    def publish(self, event: PublishedEvent) -> None:
        """Offer *event* to everybody who subscribed to it."""
        self.published += 1
        self.history.append(event)
        if self.on_publish is not None:
            self.on_publish(event)
        targets: dict[Subscriber, None] = {}
        for topic in self.channels_of(event):
            targets.update(self._by_topic.get(topic, {}))
        for subscriber in targets:
            if subscriber.offer(event):
                self.deliveries += 1
            else:
                self.dropped += 1
