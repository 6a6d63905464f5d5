"""All subscriptions of one client: the wanted channels, and their subscribers.

When a connection ends, the server forgets its channels, so this registry keeps the wanted ones. It
asks every feed (one for each server) for the same channels:

    ``Subscription``  the public object: entering, reading, leaving
    ``Subscriber``    whether it is complete, and where its gaps are
    ``Subscriptions`` this registry
    ``Router``        delivers events to subscribers
    ``Feed``          the events of one server
    ``Reconciler``    one channel on one server
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Final

import trio

from trio_dispatch._client.feed import Feed
from trio_dispatch._client.routing import Router
from trio_dispatch._client.subscriber import CallbackSink, Subscriber
from trio_dispatch._link.instruments import Instruments
from trio_dispatch._wire.channels import covering_channel, server_channel, whole_channel
from trio_dispatch._wire.models import Event

MAX_NARROW: Final = 8
"""How many event streams of one kind are for one entity each; further ones share one stream."""


class Subscriptions:
    """All subscriptions of one client.

    Args:
        shared: whether the server sends an event once for all channels, as over a WebSocket. Over
            HTTP a subscription has one source, an event stream that covers all of its channels.
        instruments: called for each event.
        timeout: seconds in which servers must confirm a subscription that is being entered.
        servers: the URLs of the servers, for gaps; one empty name if there is only one server.
    """

    def __init__(
        self,
        *,
        shared: bool = True,
        instruments: Instruments | None = None,
        timeout: float | None = None,
        servers: Iterable[str] = ("",),
    ) -> None:
        self.timeout = timeout
        """Seconds in which a subscription must be confirmed; None for no limit."""
        self._shared = shared
        self._router = Router(Instruments() if instruments is None else instruments)
        self.on_push = self._router.route
        self.feeds = tuple(Feed(self, shared=shared, server=server) for server in servers)
        """One feed for each server."""
        self._subscribers: dict[Subscriber, None] = {}
        self._users: dict[str, dict[Subscriber, None]] = {}
        """The server's channels that are wanted, with their subscribers."""

    def __len__(self) -> int:
        """How many subscribers there are."""
        return len(self._subscribers)

    @property
    def wanted(self) -> frozenset[str]:
        """Return the channels that are wanted from the servers."""
        return frozenset(self._users)

    @property
    def undecodable(self) -> int:
        """Event frames that could not be read."""
        return self._router.undecodable

    def listen(self, *channels: str, on_event: Callable[[Event], None]) -> Listener:
        """Call *on_event* with the events of *channels*, from now on until it is closed."""
        return Listener(self, channels, on_event)

    # Wanting.

    def attach(self, subscriber: Subscriber) -> None:
        """Begin to deliver to *subscriber*, and ask the servers for channels that it lacks.

        Raises:
            ClientClosed: the client has ended, or one of its servers has refused it.
        """
        for feed in self.feeds:
            if subscriber.complete or not feed.ended:
                feed.check_open()
        self._subscribers[subscriber] = None
        for channel in subscriber.channels:
            self._router.add(subscriber, channel)
        subscriber.sources = self._sources_for(subscriber.channels)
        for name in subscriber.sources:
            self._users.setdefault(name, {})
            for feed in self.feeds:
                feed.want(name)
            self._users[name][subscriber] = None
        subscriber.begin(self.feeds)

    def leave(self, subscriber: Subscriber, channels: Iterable[str]) -> None:
        """Stop delivering *channels* to *subscriber*, and unsubscribe from unwanted channels.

        This is a plain call: requests are queued, and nobody waits for their answers.
        """
        leaving = set(channels)
        for channel in leaving:
            self._router.remove(subscriber, channel)
        subscriber.channels = tuple(name for name in subscriber.channels if name not in leaving)
        before = subscriber.sources
        if self._shared or not subscriber.channels:
            subscriber.narrow(self._sources_for(subscriber.channels))
        for name in before:
            if name not in subscriber.sources:
                users = self._users.get(name, {})
                users.pop(subscriber, None)
                if not users and self._users.pop(name, None) is not None:
                    for feed in self.feeds:
                        feed.unwant(name)
        if not subscriber.channels:
            self._subscribers.pop(subscriber, None)

    def detach(self, subscriber: Subscriber) -> None:
        """Stop delivering to *subscriber*."""
        self.leave(subscriber, subscriber.channels)

    def _sources_for(self, channels: Iterable[str]) -> tuple[str, ...]:
        """Return the server's channels that include the events of *channels*."""
        names = tuple(dict.fromkeys(map(server_channel, channels)))
        if self._shared or not names:
            return names
        source = covering_channel(names)
        whole = whole_channel(source)
        if whole != source and source not in self._users:
            narrow = [name for name in self._users if whole_channel(name) == whole]
            if len(narrow) >= MAX_NARROW:
                source = whole
        return (source,)

    # What the feeds report.

    def on_acknowledged(self, feed: Feed, name: str, ts: datetime | None) -> None:
        """A server delivers channel *name*."""
        for subscriber in list(self._users.get(name, ())):
            subscriber.confirm(feed, name, ts)

    def on_refused(self, feed: Feed, name: str, error: Exception) -> None:  # noqa: ARG002
        """A server refused channel *name*."""
        for subscriber in list(self._users.get(name, ())):
            self._fail(subscriber, error)

    def on_lost(self, feed: Feed, since: datetime | None) -> None:
        """The connection to a server is lost."""
        for subscriber in list(self._subscribers):
            subscriber.lose(feed, subscriber.sources, since)

    def on_channel_lost(self, feed: Feed, name: str) -> None:
        """The event stream of channel *name* has ended."""
        for subscriber in list(self._users.get(name, ())):
            subscriber.lose(feed, (name,))

    def on_away(self, feed: Feed) -> None:  # noqa: ARG002
        """A server cannot be reached now."""
        for subscriber in list(self._subscribers):
            subscriber.look_again()

    def on_end(self, feed: Feed, error: Exception) -> None:  # noqa: ARG002
        """A server will not deliver any more events, so no subscriber can be complete."""
        nothing_left = all(feed.ended for feed in self.feeds)
        for subscriber in list(self._subscribers):
            if subscriber.complete or nothing_left:
                self._fail(subscriber, error)
            else:
                subscriber.look_again()

    def _fail(self, subscriber: Subscriber, error: Exception) -> None:
        subscriber.fail(error)
        self.detach(subscriber)


class Listener:
    """An internal function of the client that is called with the events of some channels.

    Args:
        registry: the client's subscriptions.
        channels: the channels to listen to.
        on_event: called with every event, and with a `StreamGap` if some may be missing.
    """

    def __init__(
        self, registry: Subscriptions, channels: Iterable[str], on_event: Callable[[Event], None]
    ) -> None:
        self._registry = registry
        # What waits for something asks for it as well, so it goes on with what can be heard.
        self._subscriber = Subscriber(channels, CallbackSink(on_event), complete=False)
        registry.attach(self._subscriber)

    @property
    def confirmed(self) -> bool:
        """Whether all events arrive now."""
        return self._subscriber.confirmed

    @property
    def settled(self) -> trio.Event:
        """Set when the servers have confirmed the channels, or when they never will."""
        return self._subscriber.settled

    @property
    def error(self) -> Exception | None:
        """The reason why the servers never will."""
        return self._subscriber.error

    def close(self) -> None:
        """Stop listening. This is a plain call, and idempotent."""
        self._registry.detach(self._subscriber)
