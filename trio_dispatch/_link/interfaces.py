"""What the parts of this layer ask of one another, as protocols.

A supervisor owns one connection at a time, of either kind, and reports to one observer: the layer
above. All methods are plain calls that never block, except the ones that run something.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Protocol

import trio

from trio_dispatch._link.requests import Request, RequestQueue
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import Message
from trio_dispatch._wire.session import Failure, Outcome, Ready, Refused, State


class Session(Protocol):
    """What a connection asks of its session, which alone knows what messages mean.

    The outcomes of ``receive`` and ``start`` are those of ``_wire/session``.
    """

    window: int | None
    """How many requests may be in flight; None for any number."""
    last_ts: datetime | None
    """The server's clock at the last message that named it."""

    @property
    def state(self) -> State:
        """Where the session stands."""
        ...

    @property
    def in_flight(self) -> int:
        """How many requests are written and not answered."""
        ...

    @property
    def has_urgent_data(self) -> bool:
        """Whether the session itself has something to say."""
        ...

    @property
    def bytes_to_send(self) -> int:
        """The size of what `data_to_send` would return now, without what is urgent."""
        ...

    def start(self, token: str | None) -> Outcome | None:
        """Begin. Returns `Ready` if nothing has to be said first."""

    def request(self, message: Any, text: bytes | None = None, /) -> str:
        """Send a request, and expect its answer. Returns its id."""
        ...

    def send(self, message: Any, /) -> None:
        """Send a message that expects nothing."""

    def ping(self) -> str:
        """Send a ping ahead of everything else."""
        ...

    def forget(self, id: str) -> None:
        """Nobody waits for the answer to *id* any more."""

    def answered(self, id: str) -> None:
        """The request *id* expects no further answer."""

    def leave(self, request: Any, /) -> None:
        """Nobody reads the answers to *request* any more."""

    def data_to_send(self) -> list[Message]:
        """Take the messages to write now, in order."""
        ...

    def receive(self, payload: bytes | str) -> list[Outcome]:
        """Take a message that arrived. Raises `ProtocolError` if the session cannot go on."""
        ...

    def error_for(self, failure: Failure, message: Any, /) -> Exception:
        """The error for the caller of the request *message*."""
        ...

    def refusal(self, refused: Refused) -> Exception:
        """The error of a refused session."""
        ...


class Room:
    """Whether everything that arrives can be stored; while it cannot, nothing is read."""

    def __init__(self) -> None:
        self._full: set[object] = set()
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_full(self) -> bool:
        """Whether somebody has no room left."""
        return bool(self._full)

    def block(self, who: object) -> None:
        """*who* has no room left."""
        self._full.add(who)

    def unblock(self, who: object) -> None:
        """*who* has room again, or needs none any more."""
        self._full.discard(who)
        if not self._full:
            self._changed.unpark_all()

    async def wait(self) -> None:
        """Wait until there is room."""
        while self._full:
            await self._changed.park()


class Owner(Protocol):
    """What a connection asks of the supervisor that opened it, and reports to it."""

    queue: RequestQueue
    room: Room | None
    """Whether what arrives can be stored; None: it always can."""

    @property
    def on_connect(self) -> Callable[[], Awaitable[None]] | None:
        """Runs on each new connection, before what waits to be sent goes out."""
        ...

    def on_ready(self, ready: Ready) -> None:
        """The session is established; nothing but credits has been queued yet."""

    def on_settled(self, request: Request, answer: Any, error: Exception | None) -> None:
        """A request is done."""

    def on_push(self, frame: Any, /) -> None:
        """An event came."""

    def on_channel_lost(self, channel: str) -> None:
        """A channel's events come no more, although the connection stays. Only HTTP does that."""

    def on_stray(self, frame: Any, /) -> None:
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

    def leave(self, request: Request) -> None:
        """Tell a server that wants to know that nobody reads further answers to *request*."""

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

    def on_push(self, frame: Any, /) -> None:
        """An event came."""

    def on_stray(self, frame: Any, /) -> None:
        """A frame came that nobody waits for."""

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended, for good: by *error*, or because it was closed."""
