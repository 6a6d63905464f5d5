"""The user's handler for frames that answer nothing."""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import trio

from trio_dispatch._wire.codecs import thaw
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import Frame, WireFrame
from trio_dispatch._wire.session import Ready

Handler = Callable[[Frame], "object | Awaitable[object]"]

LOG_PAUSE: Final = 60.0
"""Seconds between two warnings about dropped frames; the later one has the whole count."""

WAITING: Final = 1_024
"""Frames that wait for the handler; the next one is dropped and counted."""


class HandlerTask:
    """Gives frames to a handler, one at a time, in a task of their own: a link's observer.

    Args:
        handler: sync or async; None drops all frames.
    """

    def __init__(self, handler: Handler | None, logger: logging.Logger) -> None:
        self._handler = handler
        self._log = logger
        self.dropped = 0
        """Frames that the handler was too slow for."""
        self._warned_at = -math.inf
        self._send, self._receive = trio.open_memory_channel[WireFrame](WAITING)

    def on_ready(self, ready: Ready) -> None:
        """Nothing to restore."""

    def on_lost(self, since: datetime | None) -> None:
        """Nothing to mark."""

    def on_end(self, error: DispatchError | None) -> None:
        """Nothing to end."""

    def on_channel_lost(self, channel: str) -> None:
        """Nothing was subscribed."""

    def on_push(self, frame: WireFrame) -> None:
        """Queue *frame*."""
        if self._handler is None:
            return
        try:
            self._send.send_nowait(frame)
        except trio.WouldBlock:
            self.dropped += 1
            now = trio.current_time()
            if now >= self._warned_at + LOG_PAUSE:
                self._warned_at = now
                self._log.warning(
                    "the handler is too slow; frames dropped so far: %d", self.dropped
                )

    on_stray = on_push

    async def run(self) -> None:
        """Call the handler for one frame after another. What it raises is logged, and no more."""
        async for frame in self._receive:
            assert self._handler is not None
            try:
                result = self._handler(thaw(frame))
                if inspect.isawaitable(result):
                    await result
            except Exception:  # noqa: BLE001 - users' code
                self._log.exception("the handler failed")
