"""Hearing every server of a cluster: one connection to each, for subscriptions alone.

Servers that share a store do not share their events (protocol, "Several servers on one store").
With ``events_from="all"`` each server of the list has a feed. The main connection brings the events
of the server that it reaches first. Every other server gets a connection of its own:

    ============================ ==========================================================
    the main connection          the events of the server that it has reached
    ============================ ==========================================================
    is lost                      have a gap, and go on when it is back at the same server
    comes back at another one    get a connection of their own, like those of all others
    ============================ ==========================================================

So each server is heard over one connection at any time, and each event arrives once.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import attrs
import trio

from trio_dispatch._client.feed import Feed
from trio_dispatch._link.events import Disconnected
from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.session import Ready
from trio_dispatch._wire.url import Address


def hear(settings: LinkSettings, feeds: Sequence[Feed]) -> Feed | EventLinks:
    """Who is told of the main connection's events: its feed, or the links of all servers."""
    return feeds[0] if len(feeds) == 1 else EventLinks(settings, feeds)


class _ServerObserver:
    """Passes what one server's own connection reports on to its feed."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.on_push = feed.on_push

    async def run(self) -> None:
        """Nothing to do in the background."""

    def on_ready(self, ready: Ready) -> None:  # noqa: ARG002
        """The server is connected."""
        self._feed.on_ready()

    def on_lost(self, since: datetime | None) -> None:
        """The connection was lost."""
        self._feed.on_lost(since)

    def on_channel_lost(self, channel: str) -> None:
        """One channel was lost."""
        self._feed.on_channel_lost(channel)

    def on_stray(self, frame: WireFrame) -> None:
        """A frame that nobody waits for arrived."""

    def on_end(self, error: DispatchError | None) -> None:
        """The server refuses the client for good; without an error, the client is closing."""
        if error is not None:
            self._feed.on_end(error)


class EventLinks:
    """Which connection brings the events of which server.

    Args:
        settings: of the main connection, with the addresses of all servers.
        feeds: one for each address.
    """

    def __init__(self, settings: LinkSettings, feeds: Sequence[Feed]) -> None:
        self._feeds = dict(zip(settings.addresses, feeds, strict=True))
        self._links: dict[Address, Supervisor] = {}
        for address, feed in self._feeds.items():
            # A server that is away may come back at any time; the client does not depend on it.
            own = attrs.evolve(
                settings,
                addresses=(address,),
                fail_first_connect=False,
                max_reconnect_attempts=None,
            )
            self._links[address] = Supervisor(own, _ServerObserver(feed))
            feed.send_over(self._links[address])
        self._main: Supervisor
        self._main_at: Address | None = None
        """The server whose events the main connection brings."""
        self._started = False
        self._nursery: trio.Nursery | None = None

    @property
    def _main_feed(self) -> Feed | None:
        return None if self._main_at is None else self._feeds[self._main_at]

    def send_over(self, main: Supervisor) -> None:
        """The main connection is *main*'s."""
        self._main = main

    async def run(self) -> None:
        """Keep the connections."""
        try:
            async with trio.open_nursery() as self._nursery:
                await trio.sleep_forever()
        finally:
            self._nursery = None

    def _start(self, address: Address) -> None:
        """Let the server at *address* have a connection of its own."""
        if self._nursery is not None:
            link, feed = self._links[address], self._feeds[address]
            feed.send_over(link)
            self._nursery.start_soon(self._watch, link, feed)
            self._nursery.start_soon(link.run)

    async def _watch(self, link: Supervisor, feed: Feed) -> None:
        """Report failed attempts to connect, so that nobody waits for a server that is away."""
        try:
            async with link.events() as events:
                async for event in events:
                    failed = isinstance(event, Disconnected) and event.reason is not None
                    if failed and not link.connected:
                        feed.on_failed()
        except DispatchError:
            """The link has ended, which the feed is told by the link."""

    # What the main connection reports.

    def on_ready(self) -> None:
        """The main connection has reached a server."""
        at = self._main.address
        if not self._started:
            self._started = True
            self._main_at = at
            self._feeds[at].send_over(self._main)
            for address in self._feeds:
                if address != at:
                    self._start(address)
        elif self._main_at is not None and at != self._main_at:
            self._start(self._main_at)
            self._main_at = None
        if self._main_feed is not None:
            self._main_feed.on_ready()

    def on_lost(self, since: datetime | None) -> None:
        """The main connection is lost."""
        if self._main_feed is not None:
            self._main_feed.on_lost(since)

    def on_channel_lost(self, channel: str) -> None:
        """A channel of the main connection is lost."""
        if self._main_feed is not None:
            self._main_feed.on_channel_lost(channel)

    def on_push(self, frame: WireFrame) -> None:
        """An event arrived over the main connection."""
        if self._main_feed is not None:
            self._main_feed.on_push(frame)

    def on_end(self, error: DispatchError | None) -> None:
        """The client has ended."""
        for feed in self._feeds.values():
            feed.send_over(self._main)
            feed.on_end(error)
