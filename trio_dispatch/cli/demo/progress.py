"""What the demo knows while it runs: the scenario writes it, views read it.

Live states come from events, as they arrive; the figures at the end do not come from here.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from datetime import datetime
from typing import Final, Literal, TypeAlias

import attrs
import trio

from trio_dispatch import Event
from trio_dispatch.cli.demo.plan import Kind, Plan, PlannedStep

EVENTS_KEPT: Final = 200
STRANGERS_KEPT: Final = 1000
"""Jobs whose events came before the answer that names them, or that somebody else enqueued."""

_STATE_AFTER: Final = {
    "job.enqueued": "pending",
    "job.started": "running",
    "job.retrying": "retrying",
    "job.completed": "completed",
    "job.failed": "failed",
    "job.dlq": "failed",
}
_LAST: Final = frozenset({"completed", "failed", "cancelled"})

Mood: TypeAlias = 'Literal["plain", "good", "odd", "bad"]'


@attrs.frozen
class Line:
    """Something that happened: when (seconds into the demo), to what, and what it was."""

    at: float
    subject: str
    text: str
    mood: Mood = "plain"


@attrs.define(eq=False)
class Row:
    """The jobs of one kind."""

    kind: Kind
    states: dict[str, str] = attrs.field(factory=dict[str, str])
    """By job id, as far as events have told."""
    skipped: str = ""
    """Why this kind is not run here."""
    unanswered: int = 0
    """Jobs that were sent, and whose ids are not known yet."""
    told: dict[str, datetime] = attrs.field(factory=dict[str, datetime])

    @property
    def planned(self) -> int:
        """How many jobs there should be."""
        return len(self.kind.payloads)

    def open_jobs(self) -> list[str]:
        """The jobs that have not ended, as far as events have told."""
        return [job_id for job_id, state in self.states.items() if state not in _LAST]

    def counts(self) -> Counter[str]:
        """How many jobs are in each state."""
        return Counter(self.states.values())

    @property
    def ended(self) -> bool:
        """Whether all jobs have ended."""
        return len(self.states) == self.planned and set(self.states.values()) <= _LAST


@attrs.define
class Step:
    """A step of the run; `at` is None until it is done."""

    name: str
    label: str
    at: float | None = None


class RunBoard:
    """The workflow run."""

    def __init__(self, name: str, steps: tuple[PlannedStep, ...]) -> None:
        self.name = name
        self.run_id = ""
        self.state = "not started"
        self.mood: Mood = "plain"
        self.waiting = False
        self.sent = False
        """Whether a start was sent that may still need its approval."""
        self.steps = [Step(step.name, step.label) for step in steps]

    def done(self, name: str, at: float) -> None:
        """A step is done, and so is what comes before it: waits and sleeps publish no event."""
        index = next((i for i, step in enumerate(self.steps) if step.name == name), None)
        if index is None:
            self.steps.append(Step(name, name, at))
            return
        self.steps[index].at = at
        before = self.steps[:index]
        if not name.startswith("parallel:"):
            for step in before:
                if step.at is None:
                    step.at = at


class Board:
    """The whole demo.

    Args:
        plan: what is to be done.
        on_line: called with each notable thing that happens.
    """

    def __init__(self, plan: Plan, on_line: Callable[[Line], None] | None = None) -> None:
        self.plan = plan
        self.rows = [Row(kind) for kind in plan.kinds]
        self.run = RunBoard(plan.workflow, plan.steps)
        self.lines: deque[Line] = deque(maxlen=EVENTS_KEPT)
        """What a live view shows: every event of ours, and all that is notable."""
        self.listening = False
        """Whether events come."""
        self.phase = "connecting"
        self.changed = trio.Event()
        self.frozen_at: float | None = None
        self._on_line = on_line
        self._began = trio.current_time()
        self._rows_by_job: dict[str, Row] = {}
        self._strangers: OrderedDict[str, list[Event]] = OrderedDict()

    @property
    def now(self) -> float:
        """Seconds since the demo began."""
        return trio.current_time() - self._began if self.frozen_at is None else self.frozen_at

    def freeze(self) -> None:
        """The clock stops."""
        self.frozen_at = self.now

    def note(self, subject: str, text: str, mood: Mood = "plain", *, show: bool = True) -> None:
        """Tell of something notable; without *show* only where lines are all that there is."""
        line = Line(self.now, subject, text, mood)
        if show:
            self.lines.append(line)
        if self._on_line is not None:
            self._on_line(line)

    def wake(self) -> None:
        """Wake whoever waits for `changed`."""
        self.changed.set()
        self.changed = trio.Event()

    # Jobs

    def add_job(self, row: Row, job_id: str, state: str) -> None:
        """A job of ours has been enqueued; what is already known of it is made up for."""
        row.states[job_id] = state
        self._rows_by_job[job_id] = row
        for event in self._strangers.pop(job_id, ()):
            self._apply(row, job_id, event)

    def job_state(self, job_id: str, state: str) -> None:
        """The server was asked, and said so."""
        row = self._rows_by_job.get(job_id)
        if row is not None:
            row.states[job_id] = state
            self.wake()

    def job_event(self, event: Event, job_id: str) -> None:
        """An event about a job, ours or not."""
        row = self._rows_by_job.get(job_id)
        if row is not None:
            self._apply(row, job_id, event)
            self.wake()
            return
        self._strangers.setdefault(job_id, []).append(event)
        if len(self._strangers) > STRANGERS_KEPT:
            self._strangers.popitem(last=False)

    def _apply(self, row: Row, job_id: str, event: Event) -> None:
        self._tell(row, job_id, event)
        state = _STATE_AFTER.get(event.type)
        if state is None:
            return
        # Order is not guaranteed, not even within one job (protocol, "Events").
        last = row.told.get(job_id)
        if last is not None and event.ts is not None and event.ts < last:
            return
        if state == "pending":
            return  # known already
        if event.ts is not None:
            row.told[job_id] = event.ts
        if row.states[job_id] not in _LAST:
            row.states[job_id] = state

    def _tell(self, row: Row, job_id: str, event: Event) -> None:
        mood: Mood = "plain"
        detail = ""
        on_purpose = row.kind.expected == "failed"
        match event.type:
            case "job.completed":
                mood = "good"
                if (elapsed := event.data.get("elapsed_ms")) is not None:
                    detail = f" in {elapsed} ms"
            case "job.retrying":
                mood = "odd"
                detail = f": attempt {event.data.get('attempt', '?')} failed"
            case "job.failed":
                mood = "odd" if on_purpose else "bad"
                detail = f": {event.data.get('error', '')}"
            case "job.dlq":
                mood = "odd" if on_purpose else "bad"
                detail = ": dead letter queue"
            case _:
                pass
        text = event.type.removeprefix("job.") + detail
        subject = f"{row.kind.name} #{job_id[-4:]}"
        line = Line(self.now, subject, text, mood)
        self.lines.append(line)
        if mood in ("odd", "bad") and self._on_line is not None:
            self._on_line(line)

    def skip_kind(self, row: Row, reason: str) -> None:
        """The server cannot run this kind."""
        row.skipped = reason
        row.states.clear()
        self.note(row.kind.name, f"skipped: {reason}", "odd")
