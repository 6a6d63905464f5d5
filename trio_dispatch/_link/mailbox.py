"""A bounded memory channel that reports everything it loses.

If trio's memory channel is full, the sender must wait or fails. Here the sender is the reader task
of a connection, which may do neither. So a mailbox has two other policies, ``"raise"`` and
``"drop_oldest"``, and it marks where something is missing: an overflow after the stored items, or a
gap where a connection was lost. In all other respects it is a memory channel: `receive` is atomic
with respect to cancellation, and several tasks may receive from one mailbox; each item goes to one
of them.

Items may come from several servers. Each server's items and gaps keep their order, and a lost
server does not delay the others. While a server's gap is open (one channel is restored, another is
not yet), its items are stored after the gap, and can be read when the gap is closed.
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
"""How many stored items a loop reads without a turn of the scheduler, which for each item would
cost as much as all other work (measured: 5 µs of 12).
"""

LEAST_BYTES: Final = 16 * 1024 * 1024
BYTES_PER_ITEM: Final = 1024
"""A mailbox stores at most this much for each item of its capacity, or `LEAST_BYTES` if that is
more."""

MAX_MARKS: Final = 64
"""The most gaps and overflows in one mailbox; beyond them, a gap is merged with the last one."""

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
        capacity: how many items it stores; marks take no space.
        overflow: what happens when it is full. ``"raise"``: new items are counted and lost until
            the reader has read the stored ones and got a `SubscriptionOverflow`.
            ``"drop_oldest"``: the oldest items are lost instead.
    """

    def __init__(self, capacity: int, overflow: Overflow) -> None:
        self.capacity = capacity
        self.max_bytes = max(LEAST_BYTES, capacity * BYTES_PER_ITEM)
        """The most bytes of all stored items together; but one item is always stored."""
        self.overflow = overflow
        self.dropped = 0
        """How many items were lost because the mailbox was full."""
        self.stored_bytes = 0
        """The size of all stored items together."""
        # Items are stored as (item, size), so that they can be distinguished from marks.
        self._entries: deque[tuple[T, int] | _Gap | _Missed] = deque()
        self._behind: dict[str, deque[tuple[T, int] | _Gap | _Missed]] = {}
        """By server: its open gap, and the items after it."""
        self._stored = 0
        self._unread_overflows = 0
        self._ended = False
        self._error: Exception | None = None
        self._closed = False
        self._readers = trio.lowlevel.ParkingLot()
        self._in_a_row = 0
        """How many items were taken since other tasks last had a turn."""

    def __len__(self) -> int:
        """How many items are stored."""
        return self._stored

    # The sending side: plain calls that never block.

    def put(self, item: T, size: int = 0, server: str = "") -> int:
        """Store *item*, or drop items by the overflow policy. Returns how many are lost.

        Args:
            item: what to store.
            size: its size in bytes, for the limit on all of them.
            server: the server that it comes from.
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
        """Return whether there is no space for an item of *size*."""
        if self._stored >= self.capacity:
            return True
        return self._stored > 0 and self.stored_bytes + size > self.max_bytes

    def _miss(self, entries: deque[tuple[T, int] | _Gap | _Missed]) -> None:
        """Count an item that does not fit, in an overflow at its place."""
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
        """Mark that items of *server* are missing from now on. Adjacent gaps are merged."""
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
        """Mark that items of *server* are no longer missing; its gap can be read now."""
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
        """Return how many gaps and overflows are stored."""
        behind = sum(map(len, self._behind.values()))
        return len(self._entries) + behind - self._stored

    def _last_gap(self, server: str) -> _Gap | None:
        """Return the gap of *server* that is followed only by other gaps, if there is one."""
        for entry in reversed(self._entries):
            if not isinstance(entry, _Gap):
                return None
            if entry.server == server:
                return entry
        return None

    def _take_last_gap(self, server: str) -> _Gap | None:
        """Remove `_last_gap`, because the gap continues."""
        gap = self._last_gap(server)
        if gap is not None:
            self._entries.remove(gap)
        return gap

    def end(self, error: Exception | None = None) -> None:
        """End the stream: after the stored items, readers get *error* or the end."""
        if self._ended:
            return
        self._ended = True
        self._error = error
        for server, behind in list(self._behind.items()):
            if error is not None and isinstance(behind[-1], _Gap):
                behind.pop()  # the error is the reason
            self.close_gap(None, server)  # its end will never be known
        self._readers.unpark_all()

    def close(self) -> None:
        """The reader has left: drop stored items. Reading now raises `trio.ClosedResourceError`."""
        self._closed = True
        self._entries.clear()
        self._behind.clear()
        self._stored = self.stored_bytes = self._unread_overflows = 0
        self._readers.unpark_all()

    def _drop_oldest(self) -> None:
        """Drop the first item of the stream, else the first one after a gap."""
        for entries in (self._entries, *self._behind.values()):
            # Marks take no space, so the item to drop may come after gaps.
            gaps: dict[str, _Gap] = {}
            dropped = False
            while entries and (not dropped or isinstance(entries[0], _Gap)):
                entry = entries.popleft()
                if isinstance(entry, _Gap):
                    gaps.setdefault(entry.server, entry).until = entry.until
                elif isinstance(
                    entry, tuple
                ):  # never an overflow, which belongs to the other policy
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
        """Take the next item; None if there is none yet.

        If the reader must get an error instead, it is raised.
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
        """Take the next item. Raises `trio.WouldBlock` if there is none."""
        item = self._take()
        if item is None:
            raise trio.WouldBlock
        return item

    async def receive(self) -> T | StreamGap:
        """Wait for the next item. This is a checkpoint. If it is cancelled, no item is lost."""
        return await self.receive_in_a_row(1)

    async def receive_in_a_row(self, count: int = IN_A_ROW) -> T | StreamGap:
        """Do the same as `receive`, but let other tasks run only at every *count*th stored item.

        It is for loops, and can be cancelled each time.
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
