"""Receive channels that are opened by the block that reads them.

`client.subscribe`, `client.watch`, `run.events` and similar methods are plain calls. They return a
channel that does nothing until its block is entered, and that is closed when the block exits. All
of them follow the same rules, which this module implements:

    ============ ======================== ============================ ======================
    stage        enter                    read                         leave
    ============ ======================== ============================ ======================
    new          opens it                 RuntimeError                 closed
    opening      RuntimeError             RuntimeError                 closed, the entry fails
    inside       RuntimeError             what there is to read        closed
    closed       RuntimeError             ClosedResourceError          nothing happens
    ============ ======================== ============================ ======================
"""

from __future__ import annotations

from abc import abstractmethod
from enum import Enum
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import trio

if TYPE_CHECKING:
    from typing_extensions import Self

T_co = TypeVar("T_co", covariant=True)


class _Stage(Enum):
    """The stage of a block."""

    NEW = "new"
    OPENING = "opening"
    INSIDE = "inside"
    CLOSED = "closed"


class BlockChannel(trio.abc.ReceiveChannel[T_co]):
    """The base of receive channels that are opened by ``async with``.

    A subclass implements `_open` and `_close`, and calls `_check_inside` before it reads.

    Args:
        call: the call that made it, for error messages: ``client.subscribe(…)``.
    """

    def __init__(self, call: str) -> None:
        self._call = call
        self._stage = _Stage.NEW
        self._inside = False
        """Whether it can be read now, for those who read often."""

    @abstractmethod
    async def _open(self) -> None:
        """Begin. If this raises or is cancelled, `_close` follows."""

    @abstractmethod
    def _close(self) -> None:
        """End without waiting, and wake all readers. Called once, and only after `_open`."""

    def _check_inside(self) -> None:
        """Refuse to read outside the block.

        Raises:
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
        """
        if self._stage is _Stage.INSIDE:
            return
        if self._stage is _Stage.CLOSED:
            raise trio.ClosedResourceError(f"the block of {self._call} has exited")
        raise RuntimeError(f"enter the block before reading: async with {self._call} as …")

    async def __aenter__(self) -> Self:
        """Open the channel. This is a checkpoint. If it is cancelled, the channel is closed.

        Raises:
            RuntimeError: it has been entered before, or closed.
        """
        if self._stage is not _Stage.NEW:
            raise RuntimeError(f"a block can be entered once: call {self._call} again")
        self._stage = _Stage.OPENING
        try:
            await trio.lowlevel.checkpoint()
            await self._open()
            if self._stage is not _Stage.OPENING:
                raise trio.ClosedResourceError(f"{self._call} was closed while it was opening")
        except BaseException:
            self._stage = _Stage.CLOSED
            self._close()
            raise
        self._stage = _Stage.INSIDE
        self._inside = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # No checkpoint: leaving never waits, and never replaces the body's result by Cancelled.
        self._leave()

    async def aclose(self) -> None:
        """Close the channel: reading it raises `trio.ClosedResourceError`. Idempotent.

        This is a checkpoint. Even if it is cancelled, the channel is closed.
        """
        self._leave()
        await trio.lowlevel.checkpoint()

    def _leave(self) -> None:
        """Do the same as `aclose`, as a plain call that does not wait."""
        stage, self._stage = self._stage, _Stage.CLOSED
        self._inside = False
        if stage is _Stage.INSIDE:
            self._close()
