"""What the parts of this layer ask of one another, as protocols.

A supervisor owns one connection at a time, of either kind, and reports to one observer: the layer
above. All methods are plain calls that never block, except the ones that run something.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Protocol

from trio_dispatch._link.requests import Outbox, Request
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.session import Ready


class Owner(Protocol):
    """What a connection asks of the supervisor that opened it, and reports to it."""

    outbox: Outbox

    def on_ready(self, ready: Ready) -> None:
        """The session is established; nothing but credits has been queued yet."""

    def on_settled(
        self, request: Request, answer: WireFrame | None, error: Exception | None
    ) -> None:
        """A request is done."""

    def on_push(self, frame: WireFrame) -> None:
        """An event came."""

    def on_channel_lost(self, channel: str) -> None:
        """A channel's events come no more, although the connection stays. Only HTTP does that."""

    def on_stray(self, frame: WireFrame) -> None:
        """A frame came that nobody waits for."""


class AnyConnection(Protocol):
    """What a supervisor asks of a connection, whatever carries it."""

    written: dict[str, Request]
    ending: Exception | None
    was_ready: bool
    frames_sent: int
    frames_received: int

    @property
    def ready(self) -> bool:
        """Whether requests can be written."""
        ...

    @property
    def last_ts(self) -> datetime | None:
        """The server's clock at the last frame that named it."""
        ...

    def wake(self) -> None:
        """There is something to write."""

    def ping(self) -> None:
        """Show the peer, and every proxy on the way, that the connection is in use."""

    def forget(self, request: Request) -> None:
        """Nobody waits any more for the answer to a request that was written here."""

    def forget_all(self) -> list[Request]:
        """Nobody waits any more for anything that was written here; returns what that was."""
        ...

    def close(self) -> None:
        """Begin to close."""

    async def run(self, get_token: Callable[[], Awaitable[str | None]]) -> None:
        """Serve, and return when the connection is over, for whatever reason."""


class Observer(Protocol):
    """What a supervisor reports to the layer above it."""

    def on_ready(self, ready: Ready) -> None:
        """A connection is established. What is queued as `Lane.RESTORE` now goes out first."""

    async def run(self) -> None:
        """What the layer above does in the background, for as long as the link lives."""

    def on_lost(self, since: datetime | None) -> None:
        """A connection that was ready is gone; *since*: the last that its server's clock said."""

    def on_channel_lost(self, channel: str) -> None:
        """A channel's events come no more, although the connection stays."""

    def on_push(self, frame: WireFrame) -> None:
        """An event came."""

    def on_stray(self, frame: WireFrame) -> None:
        """A frame came that nobody waits for."""

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended, for good: by *error*, or because it was closed."""
