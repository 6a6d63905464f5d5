"""What the server remembers: jobs, runs with their steps, and events that wait to be waited for.

Pure state: every method takes the time where it needs one, and nothing here waits. Times are
nanoseconds since 1970. Payloads, inputs and results are JSON text, kept byte for byte (protocol,
"Jobs"). The servers of a cluster share one store.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Container
from typing import Final, Protocol

import attrs

from trio_dispatch.server._awaited_events import AwaitedEvents
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._quirks import RECORDED, Quirks

DEFAULT_QUEUE: Final = "default"
DEFAULT_MAX_RETRIES: Final = 3
DEFAULT_TIMEOUT_S: Final = 300.0
DEFAULT_KEEP: Final = 100_000

PENDING: Final = "pending"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
RETRYING: Final = "retrying"
CANCELLED: Final = "cancelled"

_ENDED: Final = frozenset({COMPLETED, FAILED, CANCELLED})


class StoreAway(Exception):
    """The database cannot be reached."""


class Worker(Protocol):
    """Who makes a job's attempt."""

    def last_beat(self, since: int) -> int | None:
        """When it last said that it is alive, if that was after *since*."""


@attrs.define(kw_only=True, eq=False)
class JobRow:
    """A job."""

    id: str
    name: str
    queue: str
    payload: bytes | None
    """JSON text; None where the request had no payload, which is not the same as a null."""
    priority: int
    max_retries: int
    timeout_ns: int
    scope_app_id: str
    scope_org_id: str
    run_at: int
    created_at: int
    updated_at: int
    state: str = PENDING
    retry_count: int = 0
    last_error: str = ""
    started_at: int | None = None
    completed_at: int | None = None
    last_heartbeat: int | None = None
    worker: Worker | None = None
    """Who is making an attempt."""
    ticket: int = 0
    """The job's one valid place in the line of claimable jobs; 0 for none."""

    @property
    def heartbeat_at(self) -> int | None:
        """When the job's worker last said that it is alive."""
        if self.worker is None or self.started_at is None:
            return self.last_heartbeat
        return self.worker.last_beat(self.started_at) or self.last_heartbeat

    @property
    def last_sign(self) -> int:
        """When anything was last heard of the attempt."""
        return max(self.heartbeat_at or 0, self.started_at or 0)


@attrs.define(kw_only=True, eq=False)
class StepRow:
    """A step that was done."""

    step_name: str
    data: bytes | None
    created_at: int


@attrs.define(kw_only=True, eq=False)
class RunRow:
    """A workflow run."""

    id: str
    name: str
    version: int
    input: bytes | None
    """JSON text; None where the request had no input."""
    identity: Identity
    """Who started it."""
    parent_run_id: str
    started_at: int
    created_at: int
    updated_at: int
    state: str = RUNNING
    error: str = ""
    completed_at: int | None = None
    steps: dict[str, StepRow] = attrs.field(factory=dict[str, StepRow])
    """By name, in the order in which they were done: a name that is used again has its row."""


class Store:
    """All rows, and the line of jobs that wait for a worker.

    Args:
        queues: the queues that workers take; None for every queue. Jobs of other queues stay
            pending for ever.
        rng: for what is left to chance.
        keep: how many jobs that have ended, runs that have ended, and workflow events that nobody
            has taken are remembered, of each.
    """

    def __init__(
        self,
        queues: frozenset[str] | None = None,
        *,
        rng: random.Random | None = None,
        keep: int = DEFAULT_KEEP,
        quirks: Quirks = RECORDED,
    ) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.runs: dict[str, RunRow] = {}
        self.awaited = AwaitedEvents(rng, keep, quirks)
        self.away = False
        """Whether the database cannot be reached."""
        self._queues = queues
        self._failed = RETRYING if quirks.failed_stay_retrying else FAILED
        self._cancelled_jobs_run = quirks.cancelled_jobs_run
        self._keep = keep
        self._open: dict[str, JobRow] = {}
        """Jobs that have not ended."""
        self._ended_jobs: dict[str, None] = {}
        self._ended_runs: dict[str, None] = {}
        self._tickets = 0
        self._ready: list[tuple[int, int, int, JobRow]] = []
        self._later: list[tuple[int, int, JobRow]] = []

    def go_away(self) -> None:
        """Lose the database: whoever waits for an event fails."""
        self.away = True
        self.awaited.fail()

    # Jobs

    def add_job(self, job: JobRow, delay_ns: int = 0) -> None:
        """Store *job* and put it in line, for a worker that comes *delay_ns* after it is due."""
        self.jobs[job.id] = job
        self._open[job.id] = job
        self.line_up(job, job.run_at + delay_ns)

    def line_up(self, job: JobRow, at: int) -> None:
        """Put *job* in line, to be claimed at *at* or later; a place that it had is void."""
        if self._queues is not None and job.queue not in self._queues:
            return
        self._tickets += 1
        job.ticket = self._tickets
        heapq.heappush(self._later, (at, job.ticket, job))

    def claim(self, now: int) -> JobRow | None:
        """Claim the due job of the highest priority, of those the one that was due first.

        The job is running from here on, whether a worker knows its name or not (protocol, "Jobs").
        """
        while self._later and self._later[0][0] <= now:
            _, ticket, job = heapq.heappop(self._later)
            if job.ticket == ticket:
                if job.state == RUNNING:  # its worker is gone, or nobody knew its name
                    self._take_back(job)
                heapq.heappush(self._ready, (-job.priority, job.run_at, ticket, job))
        while self._ready:
            _, _, ticket, job = heapq.heappop(self._ready)
            if job.ticket == ticket:
                self.start_job(job, now)
                return job
        return None

    def start_job(self, job: JobRow, now: int) -> None:
        """Claim *job*, out of line."""
        job.ticket = 0
        self._open[job.id] = job
        self._ended_jobs.pop(job.id, None)
        job.state = RUNNING
        job.started_at = now  # and not updated_at (recording `job_lifecycle`)

    def _take_back(self, job: JobRow) -> None:
        job.state = PENDING
        job.worker = None
        job.started_at = job.last_heartbeat = None

    def has_work(self, known: Container[str]) -> bool:
        """Whether a job of a *known* name is running, or in line for a worker."""
        return any(
            job.name in known and (job.ticket or job.state == RUNNING)
            for job in self._open.values()
        )

    def next_due(self) -> int | None:
        """When the next job that is not due yet will be."""
        while self._later and self._later[0][2].ticket != self._later[0][1]:
            heapq.heappop(self._later)
        return self._later[0][0] if self._later else None

    def complete_job(self, job: JobRow, now: int) -> None:
        """Record that an attempt succeeded, also where the job was cancelled meanwhile."""
        job.state = COMPLETED
        job.completed_at = job.updated_at = now
        self._end_attempt(job)

    def fail_job(self, job: JobRow, error: str, now: int, delay_ns: int) -> bool:
        """Record that an attempt failed; return whether another follows, after *delay_ns*.

        ``max_retries`` 3 means four attempts and a ``retry_count`` of 4 in the end; a job that
        failed for good has no ``completed_at`` (recording ``job_events``).
        """
        job.retry_count += 1
        job.last_error = error
        job.updated_at = now
        if job.retry_count > job.max_retries:
            job.state = self._failed
            self._end_attempt(job, for_good=True)
            return False
        job.state = RETRYING
        job.run_at = now + delay_ns
        self._end_attempt(job)
        self.line_up(job, job.run_at)
        return True

    def _end_attempt(self, job: JobRow, *, for_good: bool = False) -> None:
        job.last_heartbeat = job.heartbeat_at
        job.worker = None
        job.ticket = 0
        if for_good or job.state in _ENDED:
            self._note_end(job)

    def return_job(self, job: JobRow) -> None:
        """Put back a job whose attempt the end of the server cut off: the next start repeats it."""
        if job.state != RUNNING:
            return
        self._take_back(job)
        self.line_up(job, job.run_at)

    def cancel_job(self, job: JobRow, now: int) -> None:
        """Rewrite the job's state, whatever it was. A running attempt goes on all the same."""
        job.state = CANCELLED
        job.updated_at = now
        if not self._cancelled_jobs_run:
            job.ticket = 0
        self._note_end(job)

    def _note_end(self, job: JobRow) -> None:
        if job.id not in self.jobs:  # it was forgotten meanwhile
            return
        self._open.pop(job.id, None)
        self._ended_jobs.pop(job.id, None)
        self._ended_jobs[job.id] = None
        while len(self._ended_jobs) > self._keep:
            oldest = next(iter(self._ended_jobs))
            del self._ended_jobs[oldest], self.jobs[oldest]

    # Runs

    def add_run(self, run: RunRow) -> None:
        """Store *run*."""
        self.runs[run.id] = run

    def running_runs(self) -> list[RunRow]:
        """The runs that have not ended, oldest first."""
        return [run for run in self.runs.values() if run.state == RUNNING]

    def end_run(self, run: RunRow, error: str | None, completed_at: int, now: int) -> None:
        """Record that *run* has ended, failed where there is an *error*.

        A run that two servers execute ends once: the first end stands.
        """
        if run.state != RUNNING:
            return
        run.state = COMPLETED if error is None else FAILED
        run.error = error or ""
        run.completed_at = completed_at
        run.updated_at = now
        if run.id in self.runs:
            self._ended_runs[run.id] = None
        while len(self._ended_runs) > self._keep:
            oldest = next(iter(self._ended_runs))
            del self._ended_runs[oldest], self.runs[oldest]

    def forget(self, known: Container[str]) -> None:
        """Drop what is over: ended jobs and runs, and workflow events that nobody has taken.

        Jobs that are running for ever, as no name in *known* is theirs, are over, too.
        """
        for job_id in self._ended_jobs:
            del self.jobs[job_id]
        for job in list(self._open.values()):
            if job.state == RUNNING and job.name not in known:
                job.ticket = 0
                del self.jobs[job.id], self._open[job.id]
        for run_id in self._ended_runs:
            del self.runs[run_id]
        self._ended_jobs.clear()
        self._ended_runs.clear()
        self.awaited.forget()
