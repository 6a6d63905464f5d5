"""A bounded memory channel that never loses anything in silence.

trio's memory channel has two answers to a full buffer: wait, or refuse. Here the sender is the
reader task of a connection, which may do neither, so a mailbox has the two policies of design
rule 3 instead, and marks where something is missing: an overflow behind what was stored, a gap at
the place where the connection was lost. Everything else is a memory channel's: `receive` is atomic
with respect to cancellation, and several tasks may receive from one mailbox, each item going to
one of them.
"""

from __future__ import annotations

from collections import deque
from datetime import datetime
from typing import Final, Generic, Literal, TypeVar

import attrs
import trio

from trio_dispatch._wire.errors import SubscriptionOverflow, fresh
from trio_dispatch._wire.models import StreamGap

T = TypeVar("T")

IN_A_ROW: Final = 16
"""Stored items that a loop reads at a stretch: a turn of the scheduler for each would cost as much
as all else that is done with it (measured: 5 µs of 12).
"""

Overflow = Literal["raise", "drop_oldest"]


@attrs.define(eq=False)
class _Gap:
    """Events are missing here. It is delivered once it is over and its end is known."""

    since: datetime | None
    until: datetime | None = None
    open: bool = True


@attrs.define(eq=False)
class _Missed:
    """The buffer was full here."""

    count: int = 1


class Mailbox(Generic[T]):
    """One reader's share of a stream.

    Args:
        capacity: how many items it stores; marks take no room.
        overflow: what happens to an item that finds it full. ``"raise"``: it is counted and lost,
            and so is all that follows until the reader has read what was stored and been told by
            `SubscriptionOverflow`. ``"drop_oldest"``: the oldest item is lost instead.
    """

    def __init__(self, capacity: int, overflow: Overflow) -> None:
        self.capacity = capacity
        self.overflow = overflow
        self.dropped = 0
        """How many items were lost because the mailbox was full."""
        self._entries: deque[T | _Gap | _Missed] = deque()
        self._stored = 0
        self._missed: _Missed | None = None
        self._ended = False
        self._error: Exception | None = None
        self._closed = False
        self._readers = trio.lowlevel.ParkingLot()
        self._in_a_row = 0
        """Items that were taken since other tasks last had a turn."""

    def __len__(self) -> int:
        """How many items are stored."""
        return self._stored

    # The sending side: plain calls that never block.

    def put(self, item: T) -> None:
        """Store *item*, or lose one by the overflow policy."""
        if self._ended or self._closed:
            return
        if self._missed is not None:
            self._missed.count += 1
            self.dropped += 1
            return
        if self._stored >= self.capacity:
            self.dropped += 1
            if self.overflow == "raise":
                self._missed = _Missed()
                self._entries.append(self._missed)
                return
            self._drop_oldest()
        self._entries.append(item)
        self._stored += 1
        if self._readers:
            self._readers.unpark()

    def open_gap(self, since: datetime | None) -> None:
        """Mark that items are missing from here on. A gap that stands last already is widened."""
        if self._ended or self._closed:
            return
        last = self._entries[-1] if self._entries else None
        if isinstance(last, _Gap):
            last.open = True
        else:
            self._entries.append(_Gap(since))

    def close_gap(self, until: datetime | None) -> None:
        """Say when the open gap ended; its reader may have it now."""
        for entry in self._entries:
            if isinstance(entry, _Gap) and entry.open:
                entry.open = False
                entry.until = until
        self._readers.unpark_all()

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will come: after what is stored, readers get *error* or the end."""
        if not self._ended:
            self._ended = True
            self._error = error
            if error is not None and self._entries:
                if isinstance(last := self._entries[-1], _Gap) and last.open:
                    self._entries.pop()  # the error says why
            self.close_gap(None)  # nobody will say when it ended; what is behind it can be read

    def close(self) -> None:
        """The reader has left: what is stored is dropped, and reading is a mistake."""
        self._closed = True
        self._entries.clear()
        self._stored = 0
        self._readers.unpark_all()

    def _drop_oldest(self) -> None:
        gap = self._entries.popleft()
        if isinstance(gap, _Gap):
            # Marks take no room, so the item to drop is behind it; there are never two in a row.
            self._entries.popleft()
            following = self._entries[0] if self._entries else None
            if isinstance(following, _Gap):
                following.since = gap.since
            else:
                self._entries.appendleft(gap)
        self._stored -= 1

    # The receiving side.

    def _take(self) -> T | StreamGap | None:
        """Take the next item; None when there is none yet.

        Raises whatever the reader has to be told instead.
        """
        if self._closed:
            raise trio.ClosedResourceError("the block that opened this has been left")
        if not self._entries:
            if not self._ended:
                return None
            if self._error is None:
                raise trio.EndOfChannel
            raise fresh(self._error)
        entry = self._entries[0]
        if isinstance(entry, _Gap):
            if entry.open:
                return None
            self._entries.popleft()
            return StreamGap(since=entry.since, until=entry.until)
        self._entries.popleft()
        if isinstance(entry, _Missed):
            self._missed = None
            raise SubscriptionOverflow(entry.count)
        self._stored -= 1
        return entry

    def receive_nowait(self) -> T | StreamGap:
        """Take the next item. Raises `trio.WouldBlock` when there is none."""
        item = self._take()
        if item is None:
            raise trio.WouldBlock
        return item

    async def receive(self) -> T | StreamGap:
        """Take the next item, waiting for it. A checkpoint; cancelled, it takes nothing."""
        return await self.receive_in_a_row(1)

    async def receive_in_a_row(self, count: int = IN_A_ROW) -> T | StreamGap:
        """`receive`, but where items are stored only every *count*th gives other tasks a turn.

        For loops. It can be cancelled each time.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        try:
            item = self._take()
        except BaseException:
            await trio.lowlevel.cancel_shielded_checkpoint()
            raise
        if item is not None:
            self._in_a_row += 1
            if self._in_a_row >= count:
                self._in_a_row = 0
                await trio.lowlevel.cancel_shielded_checkpoint()
            return item
        self._in_a_row = 0
        while item is None:
            await self._readers.park()
            item = self._take()
        return item
