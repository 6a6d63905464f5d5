"""The events of one run, kept so that they can be read from the first on, at any time.

A run's events arrive once, on the connection that started it, and several readers may want them,
early or late. So the newest are kept, and a `StreamGap` stands for everything that is missing:
what was forgotten, what was lost with a connection, and what was not heard because the first event
that arrived is not the run's first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

from trio_dispatch._wire.models import Event, StreamGap

EVENTS_KEPT: Final = 10_000
"""Events kept for one run; and for all runs together that one start may turn out to be."""

BYTES_KEPT: Final = 16 * 1024 * 1024
"""The same in bytes, as the events were on the wire."""

FIRST_EVENT: Final = "workflow.started"

END_EVENTS: Final = {"workflow.completed": "completed", "workflow.failed": "failed"}
"""The last event of a run, and the state that it reports."""


class EventLog:
    """The newest events of one run, in the order in which they arrived."""

    def __init__(self) -> None:
        self._entries: deque[tuple[Event, int]] = deque()
        self._forgotten = 0
        self.size = 0
        """Bytes that are kept."""
        self.ended = trio.Event()
        """Set when the run's last event has arrived."""
        self._end_event: Event | None = None
        self._on_end: Callable[[Event], None] | None = None

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._entries)

    def add(self, event: Event, size: int = 0) -> None:
        """Keep *event*, which took *size* bytes; a `StreamGap` merges with a gap before it."""
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
        """Is given the run's last event, now if it has arrived already."""
        return self._on_end

    @on_end.setter
    def on_end(self, function: Callable[[Event], None] | None) -> None:
        self._on_end = function
        if function is not None and self._end_event is not None:
            function(self._end_event)

    def mark_gap(self) -> None:
        """Mark that events may be missing from here on, unless the last one has arrived."""
        if not self.ended.is_set():
            last = self._last
            self.add(StreamGap(since=None if last is None else last.ts))

    @property
    def _last(self) -> Event | None:
        return self._entries[-1][0] if self._entries else None

    def read(self, position: int) -> tuple[Event, int] | None:
        """Return the event at *position*, and the position after it; None if it is still to come.

        The first position is 0. A gap stands at a position whose event is forgotten.
        """
        if position < self._forgotten:
            following = self._entries[0][0] if self._entries else None
            if isinstance(following, StreamGap):
                return StreamGap(until=following.until), self._forgotten + 1
            return StreamGap(until=None if following is None else following.ts), self._forgotten
        index = position - self._forgotten
        return (self._entries[index][0], position + 1) if index < len(self._entries) else None


class Candidates:
    """The runs that one start may turn out to be, and their events so far.

    All together are bounded like the events of one run. When they are too many, the candidates that
    were heard of last go, as a run is among the first that its own connection hears of. Should one
    of them be it all the same, its next event makes it a candidate again, with a gap before it.
    """

    def __init__(self) -> None:
        self._logs: dict[str, EventLog] = {}
        self._events = self._bytes = 0
        """How much is kept, at most: what the logs forgot is counted until it is counted anew."""

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._logs

    def __len__(self) -> int:
        return len(self._logs)

    def add(self, run_id: str, event: Event, size: int) -> None:
        """Keep *event* of *run_id*."""
        log = self._logs.get(run_id)
        if log is None:
            log = self._logs[run_id] = EventLog()
        log.add(event, size)
        self._events += 1
        self._bytes += size
        if self._events > EVENTS_KEPT or self._bytes > BYTES_KEPT:
            self._shrink()

    def _shrink(self) -> None:
        """Count anew, and go down to half of what is allowed, so that this is seldom done."""
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
        """Events of all of them may be missing from here on."""
        for log in self._logs.values():
            log.mark_gap()

    def take(self, run_id: str) -> EventLog:
        """Take the events of *run_id*; none where it is no candidate."""
        return self._logs.pop(run_id, None) or EventLog()

    def discard(self, run_id: str) -> None:
        """*run_id* is no candidate."""
        self._logs.pop(run_id, None)

    def clear(self) -> None:
        """There are no candidates."""
        self._logs.clear()
        self._events = self._bytes = 0
