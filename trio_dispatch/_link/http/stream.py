"""The events of one channel, from one event stream after another.

The keeper opens a stream, waits until it needs a successor, opens that, and lets both run until
they have proved each other alive (``overlap``). If a stream broke, fell silent before its successor
was there, or turns out to have been dead, events may be missing: then the channel is given up, and
whoever wants it subscribes again, with a gap in between.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

import trio

from trio_dispatch._link.http.overlap import (
    CREDITS,
    GRACE,
    RENEW_AFTER,
    Overlap,
    Verdict,
    key_of,
    renewal_due,
    take,
)
from trio_dispatch._link.http.wire import HttpWire, Interrupted, NotAFrame, NotDelivered

RETRY_TIME: Final = 1.0
"""Seconds until a successor that could not be opened is tried again."""

MAX_AGE: Final = 60.0
"""Seconds after which a stream without a successor is given up: nothing shows that it is alive."""


class _EventStream:
    """One event stream."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.failure: Exception | None = None
        """Why it could not be opened, or how it ended."""
        self.opened_at = 0.0
        self.open = False
        """Whether it is, or was."""
        self.in_time = False
        """Whether it was open before its predecessor fell silent."""
        self.events = 0
        self.ended = False

    @property
    def complete(self) -> bool:
        """Whether it has brought everything so far."""
        return not self.ended and self.events < CREDITS

    @property
    def broken(self) -> bool:
        """Whether its connection broke. Then it may have been dead for some time."""
        return isinstance(self.failure, Interrupted) and not self.failure.orderly

    @property
    def due(self) -> bool:
        """Whether it needs a successor."""
        return renewal_due(self.events, trio.current_time() - self.opened_at)


class ChannelStream:
    """Gives the events of *channel* to *on_event*, until closed or lost.

    Args:
        wire: opens the streams.
        channel: what to listen to.
        opening_time: seconds for a stream to be accepted.
        on_event: is given the channel and an event's JSON text.
        on_lost: is told when events may be missing; none come after that.
        logger: where to log.
    """

    def __init__(
        self,
        wire: HttpWire,
        channel: str,
        opening_time: float,
        on_event: Callable[[str, str], None],
        on_lost: Callable[[ChannelStream], None],
        logger: logging.Logger,
    ) -> None:
        self.channel = channel
        self.confirmed = False
        """Whether the server has said that it may be listened to."""
        self.lost = False
        """Whether it has given up."""
        self.opened_at = 0.0
        """When the first stream was open."""
        self.closed = False
        """Whether nobody wants it any more."""
        self.settled = trio.Event()
        """Set when the first stream is open, could not be opened, or is not wanted any more."""
        self.failure: Exception | None = None
        """Why the first stream could not be opened."""
        self._wire = wire
        self._opening_time = opening_time
        self._on_event = on_event
        self._early: list[str] = []
        """What arrived before it was confirmed."""
        self._on_lost = on_lost
        self._log = logger
        self._scope = trio.CancelScope()
        self._current: _EventStream | None = None
        """The stream that leads."""
        self._successor: _EventStream | None = None
        """The one that is compared with it."""
        self._changed = trio.Event()
        self._overlap: Overlap | None = None
        self._repeats: Counter[bytes] = Counter()
        """What was delivered, and may still come once more."""
        self._repeats_until = 0.0
        self._nursery: trio.Nursery

    def close(self) -> None:
        """Nobody wants it any more."""
        self.closed = True
        self.settled.set()
        self._scope.cancel()

    def confirm(self) -> None:
        """The server has said that it may be listened to.

        Only now its events are passed on. If it had been lost before, nobody would have been told
        that the events between it and the next one are missing.
        """
        self.confirmed = True
        early, self._early = self._early, []
        for text in early:
            self._on_event(self.channel, text)

    def _pass_on(self, text: str) -> None:
        if self.confirmed:
            self._on_event(self.channel, text)
        else:
            self._early.append(text)

    async def run(self) -> None:
        """Keep the channel's events coming. Raises nothing; see `settled` and `failure`."""
        try:
            with self._scope:
                async with trio.open_nursery() as self._nursery:
                    await self._keep()
                    self._nursery.cancel_scope.cancel()
        finally:
            self.settled.set()

    async def _keep(self) -> None:
        stream = await self._open()
        if not stream.open:
            self.failure = stream.failure
            return
        self.opened_at = stream.opened_at
        self.settled.set()
        following: _EventStream | None = stream
        while following is not None:
            stream = following
            with trio.move_on_at(stream.opened_at + RENEW_AFTER):
                while stream.complete and not stream.due:
                    await self._change()
            following = await self._replace(stream)
        self.lost = True
        self._on_lost(self)

    async def _replace(self, old: _EventStream) -> _EventStream | None:
        """Find a stream that follows *old* without a gap. None if there was one."""
        while old.complete and trio.current_time() < old.opened_at + MAX_AGE:
            overlap = self._overlap = Overlap()
            new = await self._open(old)
            verdict = await self._compare(old, new, overlap)
            self._overlap = self._successor = None
            if verdict is Verdict.OLD_IS_DEAD:
                self._log.debug("an event stream of %s was dead", self.channel)
                return None
            changing = verdict is Verdict.CHANGE
            (old if changing else new).scope.cancel()
            self._repeats = overlap.repeats(by_new=changing)
            self._repeats_until = trio.current_time() + GRACE
            if changing:
                self._current = new
                for text in overlap.release():
                    self._pass_on(text)
                return new
            with trio.move_on_after(RETRY_TIME):
                while old.complete:
                    await self._change()
        return None

    async def _compare(self, old: _EventStream, new: _EventStream, overlap: Overlap) -> Verdict:
        """Let both run until one of them is to go on."""
        if not new.in_time:
            # It could not be opened, or too late.
            return Verdict.NEW_IS_DEAD if old.complete else Verdict.OLD_IS_DEAD
        while True:
            if not old.complete:
                return overlap.old_ended(broken=old.broken)
            if new.ended:
                return overlap.new_ended()
            verdict = overlap.judge(trio.current_time(), due=new.due)
            if verdict is not Verdict.WAIT:
                return verdict
            with trio.move_on_at(overlap.next_look()):
                await self._change()

    async def _change(self) -> None:
        """Wait until something has happened that the keeper may act on."""
        await self._changed.wait()
        self._changed = trio.Event()

    def _arrived(self, stream: _EventStream, text: str) -> None:
        """An event came over *stream*."""
        if stream is not self._current and stream is not self._successor:
            return  # it is closed, and this had been read already
        now = trio.current_time()
        stream.events += 1
        texts = [text]
        if stream is self._successor:
            assert self._overlap is not None
            texts = self._overlap.new_brought(text, now)
        elif self._overlap is not None:
            texts = self._overlap.old_brought(text, now)
        if stream is self._current and self._is_repeat(text, now) and text in texts:
            texts.remove(text)
        for text in texts:
            self._pass_on(text)
        if self._overlap is not None or not stream.complete or stream.due:
            self._changed.set()

    def _is_repeat(self, text: str, now: float) -> bool:
        """Whether the stream before the current one has brought *text* already."""
        if self._repeats and now > self._repeats_until:
            self._repeats.clear()
        return bool(self._repeats) and take(self._repeats, key_of(text))

    # One stream.

    async def _open(self, old: _EventStream | None = None) -> _EventStream:
        """Open a stream, or fail to. Given up when *old* falls silent."""
        stream = _EventStream()
        if old is None:
            self._current = stream
        else:
            self._successor = stream
        self._nursery.start_soon(self._read, stream)
        while not (stream.open or stream.ended) and (old is None or old.complete):
            await self._change()
        return stream

    async def _read(self, stream: _EventStream) -> None:
        stream.scope.deadline = trio.current_time() + self._opening_time
        try:
            with stream.scope:
                async with self._wire.events(self.channel) as texts:
                    self._opened(stream)
                    async for text in texts:
                        self._arrived(stream, text)
            if stream.scope.cancelled_caught and not stream.open:
                stream.failure = Interrupted(
                    f"the event stream was not answered within {self._opening_time:g} s"
                )
        except (NotDelivered, Interrupted, NotAFrame) as exc:
            stream.failure = exc
        finally:
            if stream.failure is not None:
                self._log.debug("an event stream of %s: %s", self.channel, stream.failure)
            stream.ended = True
            self._changed.set()

    def _opened(self, stream: _EventStream) -> None:
        stream.scope.deadline = float("inf")
        stream.open = True
        stream.opened_at = trio.current_time()
        stream.in_time = self._current is not None and self._current.complete
        if self._overlap is not None:
            self._overlap.opened(stream.opened_at)
        self._changed.set()
