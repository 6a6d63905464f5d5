"""What is known of the calls of a service, and what is said of each event."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

import attrs

from trio_dispatch.remote import CallEvent, CallInfo, DispatchID, Status

KEPT: Final = 1_000
"""Calls that are kept for the screen."""


@attrs.define
class Row:
    """A call on the screen."""

    info: CallInfo
    depth: int
    delay: float | None = None
    """Seconds until it is tried again, as of its last event."""
    seen: int = 0
    """The number of its last event."""


class Calls:
    """The calls of a service, from its events."""

    def __init__(self) -> None:
        self._rows: dict[DispatchID, Row] = {}
        self._events = 0
        self.statuses: Counter[Status] = Counter()
        """Of the calls that have ended."""
        self.accepted = 0
        self.retries = 0

    @property
    def unfinished(self) -> int:
        """How many calls have not ended."""
        return self.accepted - self.statuses.total()

    def add(self, event: CallEvent) -> bool:
        """Take an event; whether it is worth a line.

        A function that gets some of its results and waits for the others is not.
        """
        call = event.call
        self._events += 1
        row = self._rows.get(call.id)
        if row is None:
            parent = self._rows.get(call.parent) if call.parent else None
            row = self._rows[call.id] = Row(call, parent.depth + 1 if parent else 0)
        made = len(call.children) > len(row.info.children)
        row.info, row.delay, row.seen = call, event.delay, self._events
        if event.type == "accepted":
            self.accepted += 1
        elif event.type == "retrying":
            self.retries += 1
        elif event.type == "ended" and call.status is not None:
            self.statuses[call.status] += 1
        if len(self._rows) > KEPT:
            self._drop()
        return event.type != "resumed" and (event.type != "suspended" or made)

    def _drop(self) -> None:
        ended = (id for id, row in self._rows.items() if row.info.state == "ended")
        oldest = next(ended, next(iter(self._rows)))
        del self._rows[oldest]

    def rows(self, most: int) -> list[Row]:
        """At most so many: those that have not ended first, then the latest, as a tree."""
        wanted = sorted(
            self._rows.values(), key=lambda row: (row.info.state == "ended", -row.seen)
        )[: max(most, 0)]
        shown = {row.info.id: row for row in wanted}
        return [row for row in self._in_tree() if row.info.id in shown]

    def _in_tree(self) -> Iterator[Row]:
        """All rows, each parent before its children."""
        children: dict[DispatchID | None, list[Row]] = {}
        for row in self._rows.values():
            parent = row.info.parent if row.info.parent in self._rows else None
            children.setdefault(parent, []).append(row)
        waiting = children.get(None, [])[::-1]
        while waiting:
            row = waiting.pop()
            yield row
            waiting += children.get(row.info.id, [])[::-1]

    def open_children(self, call: CallInfo) -> int:
        """How many of the calls that a call's function has made have not ended."""
        rows = [self._rows[id] for id in call.children if id in self._rows]
        return sum(row.info.state != "ended" for row in rows)

    def depth(self, id: DispatchID) -> int:
        """How many calls a call is below the one that a client made."""
        row = self._rows.get(id)
        return row.depth if row else 0

    def summary(self) -> str:
        """One line on everything."""
        parts = [f"{number} {status.name}" for status, number in sorted(self.statuses.items())]
        if self.unfinished:
            parts.append(f"{self.unfinished} not ended")
        what = ", ".join(parts) or "none"
        calls = "1 call" if self.accepted == 1 else f"{self.accepted} calls"
        return f"{calls}: {what}; {self.retries} tried again"


def cause(call: CallInfo) -> str:
    """Why the last run of a call has failed; empty if none has."""
    if call.error is None or call.status is None:
        return ""
    what = f"{call.error.type}: {call.error.message}"
    return what if call.error.type == call.status.name else f"{what} ({call.status.name})"


def note(call: CallInfo, delay: float | None, open_children: int) -> str:
    """What is to be said of a call as it is."""
    match call.state:
        case "waiting":
            return "waits for its turn"
        case "running":
            return "runs"
        case "suspended":
            return f"waits for {'1 call' if open_children == 1 else f'{open_children} calls'}"
        case "retrying":
            return f"again in {delay or 0:.1f} s: {cause(call)}"
        case "ended":
            return "OK" if call.status is Status.OK else cause(call)


def line(event: CallEvent, calls: Calls) -> str:
    """An event as a line of text."""
    call = event.call
    attempts = "1 attempt" if call.attempts == 1 else f"{call.attempts} attempts"
    match event.type:
        case "started":
            what = f"attempt {call.attempts}"
        case "tail_call":
            what = f"goes on as {call.function}"
        case "refused":
            what = "made calls that cannot be accepted"
        case "ended":
            what = f"ended after {attempts}: {note(call, None, 0)}"
        case "accepted":
            what = f"accepted, for {call.endpoint}"
        case _:
            what = note(call, event.delay, calls.open_children(call))
    depth = calls.depth(call.id)
    clock = event.time.astimezone().strftime("%H:%M:%S.%f")[:-3]
    return f"{clock}  {'  ' * depth}{call.function}  {call.id[-6:]}  {what}"


def as_value(event: CallEvent) -> dict[str, object]:
    """An event for programs."""
    call = event.call
    try:
        input: object = call.input
    except ValueError:
        input = None
    error = None
    if call.error is not None:
        error = {"type": call.error.type, "message": call.error.message}
    return {
        "type": event.type,
        "time": event.time,
        "delay": event.delay,
        "id": call.id,
        "endpoint": call.endpoint,
        "function": call.function,
        "state": call.state,
        "status": None if call.status is None else call.status.name,
        "error": error,
        "attempts": call.attempts,
        "parent": call.parent,
        "root": call.root,
        "children": call.children,
        "created": call.created,
        "expires": call.expires,
        "ended": call.ended,
        "input": input,
    }
