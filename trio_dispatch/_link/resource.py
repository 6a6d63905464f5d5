"""What every object over a connection that stays has in common: its state, and its block."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from trio_dispatch._link.events import LinkEvents
from trio_dispatch._link.supervisor import Supervisor

if TYPE_CHECKING:
    from typing_extensions import Self


class ConnectedResource:
    """The base of `Client`: a supervisor's state, and ``async with`` that closes it."""

    _link: Supervisor

    def __repr__(self) -> str:
        return self._link.describe(type(self).__name__)

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._link.connected

    @property
    def closed(self) -> bool:
        """Whether it is closed or has ended: no call will succeed any more."""
        return self._link.closed

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            ClientClosed: it is closed, or the error that ended it.
        """
        await self._link.wait_connected()

    def connection_events(self) -> LinkEvents:
        """Open a stream of `Connected` and `Disconnected`, which begins with the present state.

        An async context manager over a `trio.abc.ReceiveChannel`. Every caller gets a stream of
        its own; 1,024 unread events are kept, and then the oldest is dropped.
        """
        return self._link.events()

    async def aclose(self) -> None:
        """Close it: waiting calls raise `ClientClosed`, the server forgets the session.

        Returns when nothing of it is left, after 2 s at the latest. Idempotent. Cancelled, it goes
        on closing in the background, without this wait.
        """
        await self._link.aclose()

    async def __aenter__(self) -> Self:
        await self._link.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._link.__aexit__(exc_type, exc, traceback)
