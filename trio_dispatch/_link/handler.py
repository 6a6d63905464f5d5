"""The user's handler for messages that answer nothing."""

from __future__ import annotations

import inspect
import logging
import math
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any, Final, Literal

import trio

from trio_dispatch._link.interfaces import Room
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.session import Ready

Handler = Callable[[Any], "object | Awaitable[object]"]
OnFull = Literal["pause", "drop"]

LOG_PAUSE: Final = 60.0
"""Seconds between two warnings about dropped messages; the later one has the whole count."""

WAITING: Final = 1_024
"""Messages that wait for the handler before nothing more is read, or stored."""

IN_A_ROW: Final = 16
"""Messages that an instant handler gets before other tasks have a turn."""


class HandlerTask:
    """Gives messages to a handler, one at a time, in a task of their own: a link's observer.

    Args:
        handler: sync or async; None drops all messages.
        logger: where failures of the handler go.
        room: is full while `WAITING` messages wait, so that nothing more is read.
        on_full: ``"pause"`` does that; ``"drop"`` reads on, and counts what it drops.
    """

    def __init__(
        self,
        handler: Handler | None,
        logger: logging.Logger,
        room: Room | None = None,
        on_full: OnFull = "pause",
    ) -> None:
        self._handler = handler
        self._log = logger
        self._room = Room() if room is None else room
        self._drops = on_full == "drop"
        self.dropped = 0
        """Messages that the handler was too slow for."""
        self._warned_at = -math.inf
        self._queue: deque[Any] = deque()
        self._arrived = trio.lowlevel.ParkingLot()

    def on_ready(self, ready: Ready) -> None:
        """Nothing to restore."""

    def on_lost(self, since: datetime | None) -> None:
        """Nothing to mark."""

    def on_end(self, error: DispatchError | None) -> None:
        """Nothing to end."""

    def on_channel_lost(self, channel: str) -> None:
        """Nothing was subscribed."""

    def on_push(self, frame: Any) -> None:
        """Queue *frame*."""
        if self._handler is None:
            return
        if len(self._queue) >= WAITING:
            if self._drops:
                self._drop()
                return
            self._room.block(self)
        self._queue.append(frame)
        self._arrived.unpark()

    on_stray = on_push

    def _drop(self) -> None:
        self.dropped += 1
        now = trio.current_time()
        if now >= self._warned_at + LOG_PAUSE:
            self._warned_at = now
            self._log.warning("the handler is too slow; messages dropped so far: %d", self.dropped)

    async def run(self) -> None:
        """Call the handler for one message after another. What it raises is logged, and no more."""
        in_a_row = 0
        while True:
            while not self._queue:
                in_a_row = 0
                await self._arrived.park()
            message = self._queue.popleft()
            if len(self._queue) < WAITING // 2:
                self._room.unblock(self)
            assert self._handler is not None
            try:
                result = self._handler(message)
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 - users' code
                self._log.exception("the handler failed")
            in_a_row += 1
            if in_a_row >= IN_A_ROW:
                in_a_row = 0
                await trio.lowlevel.checkpoint()
