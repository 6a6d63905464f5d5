"""`Link`: a WebSocket that stays connected, for any server whose messages are correlated frames."""

from __future__ import annotations

from types import TracebackType

from trio_dispatch._link.events import LinkEvents
from trio_dispatch._link.requests import Request
from trio_dispatch._link.supervisor import LinkStatistics, Supervisor
from trio_dispatch._wire.codecs import thaw
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import Frame


class Link:
    """A connection that is replaced whenever it is lost.

    Made by `open_link`; `connected` says whether it is up, `events` when that changes.
    """

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor

    def __repr__(self) -> str:
        return self._supervisor.describe("Link")

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._supervisor.connected

    @property
    def closed(self) -> bool:
        """Whether the link has ended, for good."""
        return self._supervisor.closed

    @property
    def error(self) -> DispatchError | None:
        """The error that ended the link, if one did."""
        return self._supervisor.error

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            DispatchError: the link ends instead; `ClientClosed` if it has ended before.
        """
        await self._supervisor.wait_connected()

    def events(self) -> LinkEvents:
        """Open a stream of `Connected` and `Disconnected`, for the length of a block.

        It begins with the state at the time when the block is entered.
        Every caller gets a stream of its own, and a slow one holds up nobody: the oldest events
        beyond 1,024 unread ones are dropped, and `LinkEvents.dropped` counts them.
        """
        return self._supervisor.events()

    async def send(self, frame: Frame) -> None:
        """Send *frame* without waiting for an answer. Returns when it is written.

        Waits for a connection if there is none. Cancelled before it is written, it is never
        sent. Whatever answers it goes to the handler.

        Raises:
            TypeError, ValueError: *frame* cannot be encoded, or is larger than the maximum.
            DispatchError: the link ended.
        """
        text = self._supervisor.check_frame(frame)
        await self._supervisor.call(Request(frame, text, answered=False))

    async def request(self, frame: Frame) -> Frame:
        """Send *frame* and return the frame that answers it.

        Waits for a connection if there is none. Cancelled before it is written, it is never
        sent; cancelled later, its answer is dropped when it arrives.

        Args:
            frame: with an ``id`` of its own, by which its answer is recognized.

        Raises:
            TypeError, ValueError: *frame* has no id, an id that is in use, or cannot be sent.
            RequestError: the answer is an error frame.
            ConnectionLost: the connection was lost after it was written; `maybe_delivered`.
            DispatchError: the link ended.
        """
        text = self._supervisor.check_frame(frame)
        if not frame.id:
            raise ValueError("a request needs an id, by which its answer is recognized")
        return thaw(await self._supervisor.ask(Request(frame, text)))

    async def wait_closed(self) -> None:
        """Wait until the link has ended, for whatever reason, and nothing of it is left."""
        await self._supervisor.wait_closed()

    async def aclose(self) -> None:
        """Close the link, and wait until nothing of it is left (2 s at most). Idempotent."""
        await self._supervisor.aclose()

    def statistics(self) -> LinkStatistics:
        """Count what the link has done and is doing."""
        return self._supervisor.statistics()

    async def __aenter__(self) -> Link:
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._supervisor.__aexit__(exc_type, exc, traceback)
