"""The stored events of one run, which can be read from the first one, at any time.

A run's events arrive once, on the connection that started it, and several readers may want them,
early or late. So this module stores the newest events. A `StreamGap` marks all events that are
missing: dropped events, events that were lost with a connection, and events from before the first
one that arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from trio_dispatch._wire.models import Event, StreamGap

EVENTS_KEPT: Final = 10_000
"""The most events stored for one run, and for all candidates of one start together."""

BYTES_KEPT: Final = 16 * 1024 * 1024
"""The same limit in bytes, by the size of the events on the wire."""

FIRST_EVENT: Final = "workflow.started"

END_EVENTS: Final = {"workflow.completed": "completed", "workflow.failed": "failed"}
"""The events that end a run, and the states that they report."""


class EventLog:
    """The newest events of one run, in the order in which they arrived."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Event, int]] = deque()
        self._forgotten = 0
        self.size = 0
        """How many bytes are stored."""
        self.ended = trio.Event()
        """Set when the run's last event has arrived."""
        self._end_event: Event | None = None
        self._on_end: Callable[[Event], None] | None = None

    def __len__(self) -> int:
        """How many events are stored."""
        return len(self._entries)

    def add(self, event: Event, size: int = 0) -> None:
        """Store *event*, which has *size* bytes; a `StreamGap` merges with a gap before it."""
        last = self._last
        if isinstance(event, StreamGap):
            if isinstance(last, StreamGap):
                self._entries[-1] = (StreamGap(since=last.since, until=event.until), 0)
                return
        elif last is None and not self._forgotten and event.type != FIRST_EVENT:
            self._entries.append((StreamGap(until=event.ts), 0))
        self._entries.append((event, size))
        self.size += size
        while len(self._entries) > EVENTS_KEPT or self.size > BYTES_KEPT:
            self.size -= self._entries.popleft()[1]
            self._forgotten += 1
        if event.type in END_EVENTS:
            self._end_event = event
            self.ended.set()
            if self._on_end is not None:
                self._on_end(event)

    @property
    def on_end(self) -> Callable[[Event], None] | None:
        """Call a function with the run's last event, at once if it has already arrived."""
        return self._on_end

    @on_end.setter
    def on_end(self, function: Callable[[Event], None] | None) -> None:
        self._on_end = function
        if function is not None and self._end_event is not None:
            function(self._end_event)

    def mark_gap(self) -> None:
        """Mark that events may be missing from now on, unless the last one has arrived."""
        if not self.ended.is_set():
            last = self._last
            self.add(StreamGap(since=None if last is None else last.ts))

    @property
    def _last(self) -> Event | None:
        return self._entries[-1][0] if self._entries else None

    def read(self, position: int) -> tuple[Event, int] | None:
        """Return the event at *position* and the next position; None if it has not arrived yet.

        The first position is 0. If the event at a position was dropped, a gap is returned.
        """
        if position < self._forgotten:
            following = self._entries[0][0] if self._entries else None
            if isinstance(following, StreamGap):
                return StreamGap(until=following.until), self._forgotten + 1
            return StreamGap(until=None if following is None else following.ts), self._forgotten
        index = position - self._forgotten
        return (self._entries[index][0], position + 1) if index < len(self._entries) else None


class Candidates:
    """The runs that may belong to one start, and their events so far.

    Their events together have the same limit as the events of one run. Beyond it, the newest
    candidates are dropped, because a start's own run is among the first ones on its connection. If
    a dropped candidate is the right run after all, its next event makes it a candidate again, with
    a gap before that event.
    """

    def __init__(self) -> None:
        self._logs: dict[str, EventLog] = {}
        self._events = self._bytes = 0
        """An upper bound of what is stored: dropped events count until the next full count."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._logs

    def __len__(self) -> int:
        return len(self._logs)

    def add(self, run_id: str, event: Event, size: int) -> None:
        """Store *event* of *run_id*."""
        log = self._logs.get(run_id)
        if log is None:
            log = self._logs[run_id] = EventLog()
        log.add(event, size)
        self._events += 1
        self._bytes += size
        if self._events > EVENTS_KEPT or self._bytes > BYTES_KEPT:
            self._shrink()

    def _shrink(self) -> None:
        """Count again, and drop events down to half of the limit, so that this happens rarely."""
        self._events = sum(map(len, self._logs.values()))
        self._bytes = sum(log.size for log in self._logs.values())
        if self._events <= EVENTS_KEPT and self._bytes <= BYTES_KEPT:
            return
        while len(self._logs) > 1 and (
            self._events > EVENTS_KEPT // 2 or self._bytes > BYTES_KEPT // 2
        ):
            _, log = self._logs.popitem()
            self._events -= len(log)
            self._bytes -= log.size

    def mark_gaps(self) -> None:
        """Events of all candidates may be missing from now on."""
        for log in self._logs.values():
            log.mark_gap()

    def take(self, run_id: str) -> EventLog:
        """Remove and return the events of *run_id*; none if it is not a candidate."""
        return self._logs.pop(run_id, None) or EventLog()

    def discard(self, run_id: str) -> None:
        """Remove *run_id* from the candidates."""
        self._logs.pop(run_id, None)

    def clear(self) -> None:
        """Remove all candidates."""
        self._logs.clear()
        self._events = self._bytes = 0
