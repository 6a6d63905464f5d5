"""Delivery of events to subscribers: matches a subscriber's channels with an event's topic.

Each subscriber gets an event once, even if several of its channels match, as its own `Event`.
"""

from __future__ import annotations

import logging

import msgspec

from trio_dispatch._client.feed import Feed
from trio_dispatch._client.subscriber import Subscriber
from trio_dispatch._link.instruments import Instruments
from trio_dispatch._wire.channels import Occurrence, read_occurrence
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.models import Event

_log = logging.getLogger("trio_dispatch.subscriptions")


class Router:
    """Delivers every event to the subscribers that want it.

    Args:
        instruments: called for each event.
    """

    def __init__(self, instruments: Instruments) -> None:
        self._instruments = instruments
        self._tells = bool(instruments)
        self._by_channel: dict[str, dict[Subscriber, None]] = {}
        self._queues = 0
        """How many subscribers want a ``queue:`` channel."""
        self.undecodable = 0
        """Event frames that could not be read."""

    def add(self, subscriber: Subscriber, channel: str) -> None:
        """Deliver events of *channel* to *subscriber* from now on."""
        self._by_channel.setdefault(channel, {})[subscriber] = None
        self._queues += channel.startswith("queue:")

    def remove(self, subscriber: Subscriber, channel: str) -> None:
        """Stop delivering events of *channel* to *subscriber*."""
        subscribers = self._by_channel.get(channel, {})
        if subscriber in subscribers:
            del subscribers[subscriber]
            self._queues -= channel.startswith("queue:")
            if not subscribers:
                del self._by_channel[channel]

    def route(self, feed: Feed, frame: WireFrame) -> None:
        """Read an event frame that arrived from *feed*, and deliver it.

        If the frame is invalid, only this one event is lost, and it is counted.
        """
        try:
            occurrence = read_occurrence(frame)
            if not feed.is_new(occurrence):
                return
            names = occurrence.channels(with_queue=self._queues > 0)
            names = [name for name in names if name in self._by_channel]
            if not names:
                return
            fields = occurrence.fields()
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            self.undecodable += 1
            _log.warning("an event could not be read and was dropped: %s", exc)
            return
        self._deliver(feed, occurrence, fields, names)

    def _deliver(
        self, feed: Feed, occurrence: Occurrence, fields: dict[str, object], names: list[str]
    ) -> None:
        subscribers = list(self._by_channel[names[0]])
        if len(names) > 1:
            users = (user for name in names for user in self._by_channel[name])
            subscribers = list(dict.fromkeys(users))
        if not feed.shared:
            # Each event stream serves the subscribers that it was opened for, and no others.
            subscribers = [user for user in subscribers if occurrence.channel in user.sources]
        type, ts, topic = occurrence.type, occurrence.ts, occurrence.topic
        size, server = len(occurrence.fields_text), feed.server
        matched, event = tuple(names), None
        for subscriber in subscribers:
            if event is not None:
                fields = occurrence.fields()  # a copy for each subscriber, who may change it
            if len(names) > 1:
                matched = tuple(name for name in subscriber.channels if name in names)
            event = Event(type=type, ts=ts, topic=topic, data=fields, channels=matched)
            lost = subscriber.put(event, size, server)
            if lost and self._tells:
                self._instruments.dropped(subscriber.channels, lost)
        if self._tells and event is not None:
            self._instruments.event(event, len(subscribers))
