"""What ``trio-dispatch top`` knows: events counted. No terminal, no client, no clock of its own."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from datetime import datetime
from typing import Final, cast

import attrs

from trio_dispatch import Event, Stats, StreamGap

WINDOW: Final = 10.0
"""Seconds over which rates are taken."""
REMEMBERED: Final = 10_000
"""Jobs and runs whose states are kept; the oldest are forgotten."""
SLOWEST: Final = 20
FAILURES: Final = 50

_JOB_STATES: Final = {
    "job.enqueued": "pending",
    "job.started": "running",
    "job.retrying": "retrying",
    "job.completed": "completed",
    "job.dlq": "failed",
    "job.cancelled": "cancelled",
}
_ENDS: Final = frozenset({"completed", "failed", "cancelled"})
_RUN_ENDS: Final = frozenset({"workflow.completed", "workflow.failed"})
_FAILURES: Final = frozenset({"job.failed", "job.dlq", "workflow.failed", "workflow.step_failed"})
STATES: Final = ("pending", "running", "retrying", "completed", "failed", "cancelled")


@attrs.define
class SeenJob:
    """A job, as far as events have told."""

    id: str
    name: str = ""
    queue: str = ""
    state: str = "pending"
    ts: datetime | None = None
    """When it came to that state, by the server's clock."""


@attrs.frozen
class Failure:
    """Something that went wrong."""

    ts: datetime | None
    type: str
    name: str
    error: str
    step: str = ""


@attrs.define
class Counts:
    """Everything on the screen, from events and statistics."""

    events: int = 0
    gaps: int = 0
    dropped: int = 0
    stats: Stats | None = None
    connected: bool = True
    connections: int = 0
    servers: int = 1
    """How many servers the URL leads to; the events of one of them are heard."""
    jobs: OrderedDict[str, SeenJob] = attrs.field(factory=OrderedDict[str, SeenJob])
    runs: OrderedDict[str, str] = attrs.field(factory=OrderedDict[str, str])
    """Names of the runs that have not ended, by id."""
    _ended_runs: OrderedDict[str, None] = attrs.field(factory=OrderedDict[str, None])
    failed: OrderedDict[str, Failure] = attrs.field(factory=OrderedDict[str, Failure])
    """What failed, by job or run: each fails once, whatever number of events say so."""
    ended: Counter[str] = attrs.field(factory=Counter[str])
    """How many jobs have ended so, while this watched."""
    _slow: list[tuple[float, str, str]] = attrs.field(factory=list[tuple[float, str, str]])
    _recent: deque[tuple[float, str]] = attrs.field(factory=deque[tuple[float, str]])

    def add(self, event: Event, now: float) -> None:
        """Count an event that came at *now*, in seconds."""
        if isinstance(event, StreamGap):
            self.gaps += 1
            return
        self.events += 1
        self._recent.append((now, event.type))
        name = self._text(event, "job_name") or self._text(event, "name")
        if event.job_id and event.type in _JOB_STATES:
            self._on_job(event, event.job_id, name)
        elif event.run_id:
            self._on_run(event, event.run_id, name)
        if event.type in _FAILURES:
            self._on_failure(event, event.job_id or event.run_id or event.topic, name)

    def _on_failure(self, event: Event, id: str, name: str) -> None:
        """Remember a failure: of a job's `failed` and `dlq`, of a step's and its run's, one."""
        before = self.failed.pop(id, None)
        step, error = self._text(event, "step_name"), self._text(event, "error")
        if before is not None:
            step, error = step or before.step, error or before.error
        self.failed[id] = Failure(event.ts, event.type, name or event.topic, error, step)
        if len(self.failed) > FAILURES:
            self.failed.popitem(last=False)

    def _on_job(self, event: Event, job_id: str, name: str) -> None:
        job = self.jobs.pop(job_id, None) or SeenJob(job_id)
        job.name = name or job.name
        job.queue = self._text(event, "queue") or job.queue
        state = _JOB_STATES[event.type]
        # Order is not guaranteed, not even within one job: the latest by the server's clock counts.
        if job.ts is None or event.ts is None or event.ts >= job.ts:
            if state != job.state and state in _ENDS:
                self.ended[state] += 1
            job.state, job.ts = state, event.ts
        self.jobs[job_id] = job
        if len(self.jobs) > REMEMBERED:
            self.jobs.popitem(last=False)
        elapsed = event.data.get("elapsed_ms")
        if event.type == "job.completed" and isinstance(elapsed, (int, float)):
            heapq.heappush(self._slow, (float(elapsed), job.name, job_id))
            if len(self._slow) > SLOWEST:
                heapq.heappop(self._slow)

    def _on_run(self, event: Event, run_id: str, name: str) -> None:
        self.runs.pop(run_id, None)
        if event.type in _RUN_ENDS:
            self._ended_runs[run_id] = None
            if len(self._ended_runs) > REMEMBERED:
                self._ended_runs.popitem(last=False)
        elif run_id not in self._ended_runs:  # its other events may come after its end
            self.runs[run_id] = name
            if len(self.runs) > REMEMBERED:
                self.runs.popitem(last=False)

    @staticmethod
    def _text(event: Event, key: str) -> str:
        found = event.data.get(key)
        return found if isinstance(found, str) else ""

    def rates(self, now: float) -> dict[str, float]:
        """Events a second, of each type, over the last seconds; ``""`` is all of them."""
        while self._recent and self._recent[0][0] <= now - WINDOW:
            self._recent.popleft()
        counts = Counter(type for _, type in self._recent)
        counts[""] = len(self._recent)
        return {type: count / WINDOW for type, count in counts.items()}

    def states(self) -> dict[str, int]:
        """How many jobs are in each state, of those that this has seen."""
        counts = Counter(job.state for job in self.jobs.values())
        return {state: self.ended.get(state, 0) or counts[state] for state in STATES}

    def queues(self) -> list[tuple[str, Counter[str]]]:
        """The queues with their jobs' states, the busiest first."""
        found: dict[str, Counter[str]] = {}
        for job in self.jobs.values():
            found.setdefault(job.queue or "default", Counter())[job.state] += 1
        open_jobs = ("pending", "running", "retrying")
        return sorted(
            found.items(),
            key=lambda item: (-sum(item[1][state] for state in open_jobs), item[0]),
        )

    def slowest(self) -> list[tuple[float, str, str]]:
        """The jobs that took longest: seconds, name, id."""
        return [(ms / 1000, name, id) for ms, name, id in sorted(self._slow, reverse=True)]

    def failures(self) -> list[Failure]:
        """What failed, the latest first."""
        return list(reversed(self.failed.values()))

    def summary(self, now: float) -> dict[str, object]:
        """All of it as plain values."""
        rates = self.rates(now)
        return {
            "connected": self.connected,
            "connections": self.connections,
            "servers": self.servers,
            "events": self.events,
            "gaps": self.gaps,
            "dropped": self.dropped,
            "rates": {type or "all": rate for type, rate in sorted(rates.items())},
            "jobs": self.states(),
            "runs": len(self.runs),
            "queues": {name: dict(counts) for name, counts in self.queues()},
            "slowest": [
                {"seconds": seconds, "name": name, "job_id": id}
                for seconds, name, id in self.slowest()
            ],
            "failures": cast("list[object]", self.failures()),
            "stats": self.stats,
        }
