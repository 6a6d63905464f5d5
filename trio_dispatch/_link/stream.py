"""Many answers to one request."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

import trio

from trio_dispatch._link.interfaces import Room
from trio_dispatch._link.requests import Request
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.errors import fresh

M = TypeVar("M")

STORED: Final = 1_024
"""Unread answers before nothing more is read from the connection."""


class MessageStream(trio.abc.ReceiveChannel[M], Generic[M]):
    """The answers to one request, as they arrive, for the length of a block.

    Made by `Link.stream`. An async context manager over a `trio.abc.ReceiveChannel`. The request is
    sent when the block is entered. None of its answers is lost: when 1,024 are unread, nothing more
    is read from the connection until there is room.
    """

    def __init__(self, supervisor: Supervisor, message: M, text: bytes, room: Room) -> None:
        self._supervisor = supervisor
        self._room = room
        self._answers: deque[M] = deque()
        self._request = Request(message, text, on_done=self._end)
        self._request.on_part = self._put
        self._entered = self._left = False
        self._readers = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> MessageStream[M]:
        """Send the request. Waits for nothing.

        Raises:
            ClientClosed: the link is closed.
        """
        if self._entered:
            raise RuntimeError("a stream can be entered once; call stream() again")
        self._entered = True
        await trio.lowlevel.checkpoint()
        self._supervisor.submit(self._request, timed=False)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        # No checkpoint: leaving never turns what the body raised into Cancelled.

    def _put(self, answer: Any) -> None:
        self._answers.append(answer)
        if len(self._answers) >= STORED:
            self._room.block(self)
        self._readers.unpark()

    def _end(self, request: Request) -> None:
        if request.error is None and not self._left:
            self._answers.append(request.answer)
        self._readers.unpark_all()

    def _leave(self) -> None:
        if not self._left:
            self._left = True
            self._answers.clear()
            self._room.unblock(self)
            if self._entered and not self._request.finished:
                self._supervisor.leave(self._request)
            self._readers.unpark_all()

    async def receive(self) -> M:
        """Wait for the next answer. Cancelled, it takes none. A checkpoint.

        Raises:
            trio.EndOfChannel: the last answer has been received.
            RequestError: an answer is an error; it is the last.
            ConnectionLost: the connection was lost after the request was written.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has been left.
            DispatchError: the link ended.
        """
        await trio.lowlevel.checkpoint()
        if not self._entered:
            raise RuntimeError("enter the stream first: async with link.stream(…) as answers")
        while True:
            if self._left:
                raise trio.ClosedResourceError("the block that opened this has been left")
            if self._answers:
                answer = self._answers.popleft()
                if len(self._answers) < STORED // 2:
                    self._room.unblock(self)
                return answer
            if self._request.error is not None:
                raise fresh(self._request.error)
            if self._request.finished:
                raise trio.EndOfChannel
            await self._readers.park()

    async def aclose(self) -> None:
        """Read no more answers, and tell a server that wants to know. Idempotent."""
        self._leave()
        await trio.lowlevel.checkpoint()
