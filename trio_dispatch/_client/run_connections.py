"""The connections that carry ``workflow.start``.

The server answers ``workflow.start`` when the run has ended, and answers nothing else on that
connection meanwhile (protocol, "Session"). So a start never travels on the main connection: each
has one of its own, out of at most ``max_concurrent_runs``, and further starts wait in order.

A connection belongs to a worker task, which takes one start after another. An idle one is kept for
half a minute, and pinged before it is used again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Final

import trio

from trio_dispatch._link.requests import Request
from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._transport.block import in_background
from trio_dispatch._wire.errors import ClientClosed, DispatchError, fresh
from trio_dispatch._wire.frames import Frame, FrameType, WireFrame
from trio_dispatch._wire.session import Ready

IDLE_TIME: Final = 30.0
"""Seconds for which an idle connection is kept."""

CHECK_TIME: Final = 2.0
"""Seconds in which an idle connection must answer a ping to be used again."""


class _Unobserved:
    """A run connection has neither subscriptions nor strays that anybody wants."""

    async def run(self) -> None:
        """Nothing to do."""

    def on_ready(self, ready: Ready) -> None:
        """Nothing to restore."""

    def on_lost(self, since: datetime | None) -> None:
        """Nothing to mark."""

    def on_channel_lost(self, channel: str) -> None:
        """Nothing was subscribed."""

    def on_push(self, frame: WireFrame) -> None:
        """Run connections never subscribe."""

    def on_stray(self, frame: WireFrame) -> None:
        """Nothing was sent besides."""

    def on_end(self, error: DispatchError | None) -> None:
        """The start has its own answer."""


class CarriedRequest:
    """A request that is carried by a connection of its own."""

    def __init__(self, frame: Frame, text: bytes) -> None:
        self.request = Request(frame, text)
        self.answer: WireFrame | None = None
        self.error: Exception | None = None
        self.done = trio.Event()
        self.under_way = trio.Event()
        """Set when it is handed to a connection, or done."""
        self.scope = trio.CancelScope()
        self.counted_out = False

    def settle(self, answer: WireFrame | None, error: Exception | None) -> None:
        """It is answered, or never will be. Only the first word counts."""
        if not self.done.is_set():
            self.answer, self.error = answer, error
            self.done.set()
            self.under_way.set()

    def abandon(self) -> None:
        """Nobody waits any more: unwritten, it is never sent."""
        if not self.request.written:
            self.scope.cancel()

    async def wait(self) -> WireFrame:
        """Wait for the answer. Cancelled before the request is written, it is never sent."""
        try:
            await self.done.wait()
        except trio.Cancelled:
            self.abandon()
            raise
        if self.error is not None:
            raise fresh(self.error)
        assert self.answer is not None
        return self.answer


class RunConnections:
    """A bounded number of connections, each with one start at a time.

    Args:
        settings: how each connection behaves.
        limit: how many there may be at once.
        why_ended: makes the error for a request that was waiting when the client ended.
    """

    def __init__(
        self, settings: LinkSettings, limit: int, why_ended: Callable[[Request], Exception]
    ) -> None:
        self._why_ended = why_ended
        self._settings = settings
        self.limit = limit
        self.in_use = 0
        """Connections that carry a start."""
        self._workers = self._idle = 0
        self._queue: deque[CarriedRequest] = deque()
        self._more = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None

    @property
    def waiting(self) -> int:
        """Starts that wait for a connection."""
        return sum(not carried.scope.cancel_called for carried in self._queue)

    async def run(self) -> None:
        """Keep the nursery that the connections live in."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await trio.sleep_forever()
        finally:
            self._nursery = None
            while self._queue:
                self._settle(self._take())

    def carry(self, frame: Frame, text: bytes) -> CarriedRequest:
        """Send *frame*, whose JSON text is *text*, on a connection of its own when one is free."""
        if self._nursery is None:
            raise ClientClosed("the client is not running")
        carried = CarriedRequest(frame, text)
        if not self._idle and self._workers < self.limit:
            try:
                self._nursery.start_soon(self._work)
            except RuntimeError:  # the client is just ending, and its nursery takes nobody in
                raise self._why_ended(carried.request) from None
            self._workers += 1
        self._queue.append(carried)
        if self._idle:
            self._more.unpark()
        return carried

    async def _work(self) -> None:
        """Carry one start after another, until there are no more."""
        try:
            carried = await self._next(0)
            while carried is not None:
                carried = await self._use_one_connection(carried)
        finally:
            self._workers -= 1

    async def _use_one_connection(self, carried: CarriedRequest) -> CarriedRequest | None:
        """Carry *carried*, and others after it while the connection is good.

        Returns the next start, which needs a connection of its own; None when there is none.
        """
        try:
            link = Supervisor(self._settings, _Unobserved())
            async with in_background(link.run, link):
                while True:
                    with carried.scope:
                        carried.under_way.set()
                        carried.settle(await link.ask(carried.request), None)
                    self._settle(carried)
                    following = await self._next(IDLE_TIME)
                    if following is None or not await self._answers(link):
                        return following
                    carried = following
        except DispatchError as exc:
            self._settle(carried, exc)
        finally:
            self._settle(carried)
        return await self._next(0)

    async def _next(self, patience: float) -> CarriedRequest | None:
        """Take the next start in order, waiting *patience* seconds for one."""
        await trio.lowlevel.checkpoint()
        with trio.move_on_after(patience):
            while not self._queue:
                self._idle += 1
                try:
                    await self._more.park()
                finally:
                    self._idle -= 1
        while self._queue:
            carried = self._take()
            if not carried.scope.cancel_called:
                return carried
            self._settle(carried)
        return None

    def _take(self) -> CarriedRequest:
        self.in_use += 1
        return self._queue.popleft()

    def _settle(self, carried: CarriedRequest, error: Exception | None = None) -> None:
        """*carried* is over: nobody stays waiting, whatever happened."""
        if not carried.counted_out:
            carried.counted_out = True
            self.in_use -= 1
        carried.settle(None, error or self._why_ended(carried.request))

    async def _answers(self, link: Supervisor) -> bool:
        """Whether an idle connection is still good."""
        try:
            with trio.move_on_after(CHECK_TIME):
                await link.ask(Request(Frame(type=FrameType.PING)))
                return True
        except DispatchError:
            return False
        return False
