"""A bounded memory channel that reports everything it loses.

trio's memory channel has two answers to a full buffer: wait, or refuse. Here the sender is the
reader task of a connection, which may do neither, so a mailbox has the two policies of design
rule 3 instead, and marks where something is missing: an overflow behind what was stored, a gap at
the place where a connection was lost. Everything else is a memory channel's: `receive` is atomic
with respect to cancellation, and several tasks may receive from one mailbox, each item going to
one of them.

Items may come from several servers. Each server's items keep their order, and its gaps their place
among them; a server that is lost holds up no other. What arrives from a server whose gap is still
open (one channel is restored already, another is not) is stored behind the gap, and can be read
when the gap is closed.
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

LEAST_BYTES: Final = 16 * 1024 * 1024
BYTES_PER_ITEM: Final = 1024
"""A mailbox stores at most this much for each item of its capacity, or `LEAST_BYTES` if that is
more."""

MAX_MARKS: Final = 64
"""Gaps and overflows that stand in one mailbox; beyond them, a gap is merged with the last one."""

Overflow = Literal["raise", "drop_oldest"]


@attrs.define(eq=False)
class _Gap:
    """Items of *server* are missing here."""

    server: str
    since: datetime | None
    until: datetime | None = None


@attrs.define(eq=False)
class _Missed:
    """The buffer was full here."""

    count: int


class Mailbox(Generic[T]):
    """One reader's share of a stream.

    Args:
        capacity: how many items it stores; marks take no room.
        overflow: what happens to an item that finds it full. ``"raise"``: it is counted and lost,
            and so is all that follows until the reader has read what was stored and been told by
            `SubscriptionOverflow`. ``"drop_oldest"``: the oldest items are lost instead.
    """

    def __init__(self, capacity: int, overflow: Overflow) -> None:
        self.capacity = capacity
        self.max_bytes = max(LEAST_BYTES, capacity * BYTES_PER_ITEM)
        """The size of all stored items together at most; but one item is always stored."""
        self.overflow = overflow
        self.dropped = 0
        """How many items were lost because the mailbox was full."""
        self.stored_bytes = 0
        """The size of all stored items together."""
        # Items stand as (item, size), so that marks are told from them whatever they are.
        self._entries: deque[tuple[T, int] | _Gap | _Missed] = deque()
        self._behind: dict[str, deque[tuple[T, int] | _Gap | _Missed]] = {}
        """By server: its open gap, and what stands behind it."""
        self._stored = 0
        self._unread_overflows = 0
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

    def put(self, item: T, size: int = 0, server: str = "") -> int:
        """Store *item*, or lose some by the overflow policy. Returns how many are lost.

        Args:
            item: what to store.
            size: its size in bytes, for the bound on all of them.
            server: which server it comes from.
        """
        if self._ended or self._closed:
            return 0
        entries = self._behind.get(server, self._entries) if self._behind else self._entries
        lost = 0
        if (
            self._stored >= self.capacity
            or self.stored_bytes + size > self.max_bytes
            or self._unread_overflows
        ):
            if self._unread_overflows or (self.overflow == "raise" and self._is_full(size)):
                self._miss(entries)
                return 1
            while self._is_full(size):
                self._drop_oldest()
                lost += 1
        entries.append((item, size))
        self._stored += 1
        self.stored_bytes += size
        if self._readers and entries is self._entries:
            self._readers.unpark()
        return lost

    def _is_full(self, size: int) -> bool:
        """Whether there is no room for an item of *size*."""
        if self._stored >= self.capacity:
            return True
        return self._stored > 0 and self.stored_bytes + size > self.max_bytes

    def _miss(self, entries: deque[tuple[T, int] | _Gap | _Missed]) -> None:
        """Count an item that finds the mailbox full, where it would have stood."""
        self.dropped += 1
        last = entries[-1] if entries else None
        if isinstance(last, _Missed):
            last.count += 1
            return
        entries.append(_Missed(1))
        self._unread_overflows += 1
        if entries is self._entries:
            self._readers.unpark()

    def open_gap(self, since: datetime | None, server: str = "") -> None:
        """Items of *server* are missing from here on. Adjacent gaps of a server are one."""
        if self._ended or self._closed:
            return
        behind = self._behind.get(server)
        if behind is not None:
            # Lost again before all was restored.
            if not isinstance(behind[-1], _Gap) and self._marks < MAX_MARKS:
                behind.append(_Gap(server, since))
            return
        self._behind[server] = deque([self._take_last_gap(server) or _Gap(server, since)])

    def close_gap(self, until: datetime | None, server: str = "") -> None:
        """Items of *server* are not missing any more; its gap can be read now."""
        many = self._marks > MAX_MARKS
        for entry in self._behind.pop(server, ()):
            if not isinstance(entry, _Gap):
                self._entries.append(entry)
                continue
            last = self._last_gap(server)
            if last is None and many:
                gaps = (mark for mark in reversed(self._entries) if isinstance(mark, _Gap))
                last = next((gap for gap in gaps if gap.server == server), None)
            if last is None:
                entry.until = until
                self._entries.append(entry)
            else:
                last.until = until
        self._readers.unpark_all()

    @property
    def _marks(self) -> int:
        """How many gaps and overflows stand here."""
        behind = sum(map(len, self._behind.values()))
        return len(self._entries) + behind - self._stored

    def _last_gap(self, server: str) -> _Gap | None:
        """The gap of *server* that nothing but other gaps stands behind, if there is one."""
        for entry in reversed(self._entries):
            if not isinstance(entry, _Gap):
                return None
            if entry.server == server:
                return entry
        return None

    def _take_last_gap(self, server: str) -> _Gap | None:
        """Take `_last_gap` out, as it goes on."""
        gap = self._last_gap(server)
        if gap is not None:
            self._entries.remove(gap)
        return gap

    def end(self, error: Exception | None = None) -> None:
        """Nothing more will come: after what is stored, readers get *error* or the end."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        for server, behind in list(self._behind.items()):
            if error is not None and isinstance(behind[-1], _Gap):
                behind.pop()  # the error says why
            self.close_gap(None, server)  # nobody will say when it ended
        self._readers.unpark_all()

    def close(self) -> None:
        """The reader has left: what is stored is dropped, and reading is a mistake."""
        self._closed = True
        self._entries.clear()
        self._behind.clear()
        self._stored = self.stored_bytes = self._unread_overflows = 0
        self._readers.unpark_all()

    def _drop_oldest(self) -> None:
        """Drop the first item that stands in the stream, else the first behind a gap."""
        for entries in (self._entries, *self._behind.values()):
            # Marks take no room, so the item to drop may stand behind gaps.
            gaps: dict[str, _Gap] = {}
            dropped = False
            while entries and (not dropped or isinstance(entries[0], _Gap)):
                entry = entries.popleft()
                if isinstance(entry, _Gap):
                    gaps.setdefault(entry.server, entry).until = entry.until
                elif isinstance(entry, tuple):  # and no overflow, which is the other policy's
                    self._stored -= 1
                    self.stored_bytes -= entry[1]
                    self.dropped += 1
                    dropped = True
            entries.extendleft(reversed(gaps.values()))
            if dropped:
                break
        for server, behind in self._behind.items():
            if (gap := self._take_last_gap(server)) is not None:
                behind.popleft()
                behind.appendleft(gap)

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
        entry = self._entries.popleft()
        if type(entry) is tuple:  # the usual case
            item, size = entry
            self._stored -= 1
            self.stored_bytes -= size
            return item
        if isinstance(entry, _Gap):
            return StreamGap(since=entry.since, until=entry.until, server=entry.server)
        assert isinstance(entry, _Missed)
        self._unread_overflows -= 1
        raise SubscriptionOverflow(entry.count)

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
