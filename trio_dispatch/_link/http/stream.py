"""The events of one channel, from one event stream after another.

The keeper opens a stream, waits until it needs a successor (`_overlap`), opens that, lets both run
for a second, and closes the old one. Where a stream broke, or fell silent before its successor was
there, events may be missing: then the channel is given up, and whoever wants it subscribes again,
with a gap in between.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from trio_dispatch._link.http.overlap import CREDITS, RENEW_AFTER, Overlap, renewal_due
from trio_dispatch._link.http.wire import HttpWire, Interrupted, NotAFrame, NotDelivered

OVERLAP_TIME: Final = 1.0
"""Seconds for which a stream goes on when its successor is in force."""

RETRY_TIME: Final = 1.0
"""Seconds until a successor that could not be opened is tried again."""


class _Stream:
    """One event stream."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.opened_at = trio.current_time()
        self.events = 0
        self.ended = False
        self.needs_attention = trio.Event()
        """Set when it needs a successor, or has ended."""

    @property
    def complete(self) -> bool:
        """Whether it has brought everything so far."""
        return not self.ended and self.events < CREDITS

    def count(self) -> None:
        """An event came."""
        self.events += 1
        if renewal_due(self.events, trio.current_time() - self.opened_at):
            self.needs_attention.set()


class ChannelStream:
    """Gives the events of *channel* to *on_event*, until closed or lost.

    Args:
        wire: opens the streams.
        channel: what to listen to.
        on_event: is given the channel and an event's JSON text.
        on_lost: is told when events may be missing; none come after that.
        logger: where to log.
    """

    def __init__(
        self,
        wire: HttpWire,
        channel: str,
        on_event: Callable[[str, str], None],
        on_lost: Callable[[ChannelStream], None],
        logger: logging.Logger,
    ) -> None:
        self.channel = channel
        self.confirmed = False
        """Whether the server has said that it may be listened to."""
        self.lost = False
        """Whether it has given up."""
        self._wire = wire
        self._on_event = on_event
        self._on_lost = on_lost
        self._log = logger
        self._overlap = Overlap()
        self._scope = trio.CancelScope()
        self._nursery: trio.Nursery

    def close(self) -> None:
        """Nobody wants it any more."""
        self._scope.cancel()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the channel's events coming. Started when the server has accepted the first stream.

        Raises:
            NotDelivered, Interrupted, NotAFrame: the first stream could not be opened.
        """
        failure: Exception | None = None
        with self._scope:
            async with trio.open_nursery() as self._nursery:
                try:
                    stream = await self._open()
                except (NotDelivered, Interrupted, NotAFrame) as exc:
                    failure = exc  # raised outside the nursery, which would wrap it
                    self._scope.cancel()
                    await trio.lowlevel.checkpoint()
                    raise  # pragma: no cover - the checkpoint has raised
                task_status.started()
                while stream.complete:
                    with trio.move_on_at(stream.opened_at + RENEW_AFTER):
                        await stream.needs_attention.wait()
                    successor = await self._open_successor(stream)
                    if successor is None:
                        break
                    self._nursery.start_soon(self._retire, stream)
                    stream = successor
                self.lost = True
                self._on_lost(self)
                self._scope.cancel()
        if failure is not None:
            raise failure

    async def _open(self) -> _Stream:
        stream = _Stream()
        self._overlap.begin(stream)
        await self._nursery.start(self._read, stream)
        return stream

    async def _open_successor(self, stream: _Stream) -> _Stream | None:
        """Open a stream that follows *stream* without a gap; None if there was one."""
        while stream.complete:
            try:
                successor = await self._open()
            except (NotDelivered, Interrupted, NotAFrame) as exc:
                self._log.debug("no further event stream of %s: %s", self.channel, exc)
                await trio.sleep(RETRY_TIME)
                continue
            if stream.complete:
                return successor
        return None

    async def _retire(self, stream: _Stream) -> None:
        await trio.sleep(OVERLAP_TIME)
        stream.scope.cancel()

    async def _read(
        self, stream: _Stream, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        opened = False
        try:
            with stream.scope:
                async with self._wire.events(self.channel) as texts:
                    opened = True
                    stream.opened_at = trio.current_time()
                    task_status.started()
                    async for text in texts:
                        stream.count()
                        if self._overlap.is_new(stream, text):
                            self._on_event(self.channel, text)
        except (NotDelivered, Interrupted, NotAFrame) as exc:
            if not opened:
                raise
            self._log.debug("an event stream of %s ended: %s", self.channel, exc)
        finally:
            self._overlap.end(stream)
            stream.ended = True
            stream.needs_attention.set()
