"""Workflow events and the runs that wait for them.

An event is kept until a wait takes it, so one that is sent early satisfies a later wait. Which of
several kept events comes first, and whether one event can release two waits, depends on the store
that is imitated (protocol, "Runs and steps" and "Several servers on one store").
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Final

import attrs

from trio_dispatch.server._quirks import RECORDED, Quirks

TAKEN_TWICE: Final = 0.1
"""How often an event releases a second wait, where the store allows it."""


@attrs.define(kw_only=True, eq=False)
class EventRow:
    """A workflow event that somebody sent."""

    id: str
    name: str
    payload: bytes | None
    scope_app_id: str
    scope_org_id: str
    created_at: int


class Waiter:
    """One wait for an event. `event` is set, and *notify* called, when it gets one.

    Args:
        run_id: the run that waits.
        names: the events that it waits for.
        notify: called once, when it has got one.
        match: which events of these names it takes.
    """

    def __init__(
        self,
        run_id: str,
        names: Collection[str],
        notify: Callable[[], None],
        match: Callable[[EventRow], bool] = lambda _: True,
    ) -> None:
        self.run_id = run_id
        self.names = names
        self.notify = notify
        self.match = match
        self.event: EventRow | None = None
        self.failed = False
        """Whether the store went away."""

    def accepts(self, event: EventRow) -> bool:
        """Whether *event* ends the wait."""
        return event.name in self.names and self.match(event)

    def take(self, event: EventRow) -> None:
        """End the wait."""
        self.event = event
        self.notify()


class AwaitedEvents:
    """All events that nobody has taken, and all waits that have got none.

    Args:
        rng: which of several events, or waits, comes first.
        keep: how many events are kept; the oldest are forgotten.
    """

    def __init__(
        self, rng: random.Random | None = None, keep: int = 100_000, quirks: Quirks = RECORDED
    ) -> None:
        self._rng = rng or random.Random(0)
        self._keep = keep
        self._in_order = quirks.events_in_order
        self._twice = quirks.events_release_two
        self._events: dict[str, EventRow] = {}
        self._waiters: list[Waiter] = []
        self.waiting: Counter[str] = Counter()
        """How many waits each run is in."""

    def post(self, event: EventRow) -> None:
        """Give *event* to the longest wait that accepts it, or keep it."""
        takers = self._takers(event)
        first = next(takers, None)
        if first is None:
            self._events[event.id] = event
            while len(self._events) > self._keep:
                del self._events[next(iter(self._events))]
            return
        second = next(takers, None) if self._twice else None
        self._give(first, event)
        if second is not None and self._rng.random() < TAKEN_TWICE:
            self._give(second, event)

    def _takers(self, event: EventRow) -> Iterator[Waiter]:
        for waiter in list(self._waiters):
            if waiter.accepts(event) and not self._is_behind(event):
                yield waiter

    def _is_behind(self, event: EventRow) -> bool:
        # Where events come in order a wait looks at the oldest of the name, and no further.
        return self._in_order and any(kept.name == event.name for kept in self._events.values())

    def _give(self, waiter: Waiter, event: EventRow) -> None:
        self._remove(waiter)
        waiter.take(event)

    def wait(self, waiter: Waiter) -> None:
        """Give *waiter* a kept event, or put it in line."""
        self._waiters.append(waiter)
        self.waiting[waiter.run_id] += 1
        event = self._kept_for(waiter)
        if event is not None:
            del self._events[event.id]
            self._give(waiter, event)

    def _kept_for(self, waiter: Waiter) -> EventRow | None:
        if not self._events:
            return None
        if not self._in_order:
            found = [event for event in self._events.values() if waiter.accepts(event)]
            return self._rng.choice(found) if found else None
        oldest: dict[str, EventRow] = {}
        for event in self._events.values():
            oldest.setdefault(event.name, event)
        return next((event for event in oldest.values() if waiter.accepts(event)), None)

    def fail(self) -> None:
        """End all waits, as the store has gone away."""
        for waiter in list(self._waiters):
            self._remove(waiter)
            waiter.failed = True
            waiter.notify()

    def withdraw(self, waiter: Waiter) -> None:
        """Take *waiter* out of the line, if it is still there."""
        if waiter in self._waiters:
            self._remove(waiter)

    def _remove(self, waiter: Waiter) -> None:
        self._waiters.remove(waiter)
        self.waiting -= Counter({waiter.run_id: 1})

    def kept(self) -> list[EventRow]:
        """The events that nobody has taken yet."""
        return list(self._events.values())

    def forget(self) -> None:
        """Drop the events that nobody has taken."""
        self._events.clear()
