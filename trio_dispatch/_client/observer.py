"""What a client's link reports, and who hears of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime

from trio_dispatch._client.subscriptions import Subscriptions
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.session import Ready


class ClientObserver:
    """Keeps the session's name, and passes everything else on to the subscriptions.

    Args:
        subscriptions: told of connections, losses and events.
        background: what the client runs for as long as the link lives.
        at_end: called when the link has ended.
    """

    def __init__(
        self,
        subscriptions: Subscriptions,
        background: Callable[[], Awaitable[None]],
        at_end: Callable[[], None],
    ) -> None:
        self._subscriptions = subscriptions
        self._background = background
        self._at_end = at_end
        self.on_push = subscriptions.on_push
        """An event arrived. The subscriptions' own method, because events are many."""
        self.session_id: str | None = None
        """The server's name for the last session."""

    async def run(self) -> None:
        """Run the client's own tasks."""
        await self._background()

    def on_ready(self, ready: Ready) -> None:
        """A connection is established."""
        self.session_id = ready.session_id
        self._subscriptions.on_ready()

    def on_lost(self, since: datetime | None) -> None:
        """A connection was lost."""
        self._subscriptions.on_lost(since)

    def on_channel_lost(self, channel: str) -> None:
        """One channel was lost."""
        self._subscriptions.on_channel_lost(channel)

    def on_stray(self, frame: WireFrame) -> None:
        """A frame that nobody waits for arrived: the link has counted it."""

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended."""
        self._subscriptions.on_end(error)
        self._at_end()
