"""The observer of a client's link, which passes on what the link reports."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

import trio

from trio_dispatch._client.event_links import EventLinks
from trio_dispatch._client.feed import Feed
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.session import Ready


class ClientObserver:
    """Keeps the session's id, and passes everything else on to the feed of its server.

    Args:
        feed: gets connections, losses and events; the links of all servers, if all are
            used.
        background: the tasks of the client, which run as long as the link.
        at_end: called when the link has ended.
    """

    def __init__(
        self,
        feed: Feed | EventLinks,
        background: Callable[[], Awaitable[None]],
        at_end: Callable[[], None],
    ) -> None:
        self._feed = feed
        self._background = background
        self._at_end = at_end
        self.on_push = feed.on_push
        """An event arrived. This is the feed's own method, because there are many events."""
        self.session_id: str | None = None
        """The server's id of the last session."""

    async def run(self) -> None:
        """Run the client's own tasks."""
        if not isinstance(self._feed, EventLinks):
            await self._background()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._feed.run)
            await self._background()

    def on_ready(self, ready: Ready) -> None:
        """A connection is established."""
        self.session_id = ready.session_id
        self._feed.on_ready()

    def on_lost(self, since: datetime | None) -> None:
        """A connection was lost."""
        self._feed.on_lost(since)

    def on_channel_lost(self, channel: str) -> None:
        """One channel was lost."""
        self._feed.on_channel_lost(channel)

    def on_stray(self, frame: WireFrame) -> None:
        """A frame arrived that nobody waits for. The link has counted it."""

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended."""
        self._feed.on_end(error)
        self._at_end()
