"""What the server remembers: jobs, runs with their steps, and events that wait to be waited for.

Pure state: every method takes the time where it needs one, and nothing here waits. Times are
nanoseconds since 1970. Payloads, inputs and results are JSON text, kept byte for byte (protocol,
"Jobs").
"""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Container
from typing import Final

import attrs

DEFAULT_QUEUE: Final = "default"
DEFAULT_MAX_RETRIES: Final = 3
DEFAULT_TIMEOUT_S: Final = 300.0

PENDING: Final = "pending"
RUNNING: Final = "running"
COMPLETED: Final = "completed"
FAILED: Final = "failed"
RETRYING: Final = "retrying"
CANCELLED: Final = "cancelled"


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
    ticket: int = 0
    """The job's one valid place in the line of claimable jobs; 0 for none."""


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
    input: bytes | None
    scope_app_id: str
    scope_org_id: str
    parent_run_id: str
    started_at: int
    created_at: int
    updated_at: int
    state: str = RUNNING
    error: str = ""
    completed_at: int | None = None
    steps: list[StepRow] = attrs.field(factory=list[StepRow])


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
    """One wait for an event. `event` is set, and *notify* called, when it gets one."""

    def __init__(self, name: str, notify: Callable[[], None]) -> None:
        self.name = name
        self.notify = notify
        self.event: EventRow | None = None


class Mailbox:
    """Workflow events by name: kept until a wait takes them; one event releases one waiter."""

    def __init__(self) -> None:
        self._events: dict[str, deque[EventRow]] = {}
        self._waiters: dict[str, deque[Waiter]] = {}
        self.waiting: Counter[str] = Counter()
        """How many waits each run is in."""

    def post(self, event: EventRow) -> None:
        """Give *event* to the longest waiter, or keep it."""
        waiters = self._waiters.get(event.name)
        if waiters:
            waiter = waiters.popleft()
            waiter.event = event
            waiter.notify()
        else:
            self._events.setdefault(event.name, deque()).append(event)

    def wait(self, waiter: Waiter) -> None:
        """Give *waiter* the oldest kept event, or put it in line."""
        events = self._events.get(waiter.name)
        if events:
            waiter.event = events.popleft()
            waiter.notify()
        else:
            self._waiters.setdefault(waiter.name, deque()).append(waiter)

    def withdraw(self, waiter: Waiter) -> None:
        """Take *waiter* out of the line."""
        waiters = self._waiters.get(waiter.name)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)

    def kept(self) -> list[EventRow]:
        """The events that nobody has taken yet."""
        return [event for events in self._events.values() for event in events]


class Store:
    """All rows, and the line of jobs that wait for a worker.

    Args:
        queues: the queues that workers take; None for every queue. Jobs of other queues stay
            pending for ever.
    """

    def __init__(self, queues: frozenset[str] | None = None) -> None:
        self.jobs: dict[str, JobRow] = {}
        self.runs: dict[str, RunRow] = {}
        self.mailbox = Mailbox()
        self._queues = queues
        self._tickets = 0
        self._ready: list[tuple[int, int, int, JobRow]] = []
        self._later: list[tuple[int, int, JobRow]] = []

    def add_job(self, job: JobRow) -> None:
        """Store *job* and put it in line."""
        self.jobs[job.id] = job
        self._line_up(job)

    def _line_up(self, job: JobRow) -> None:
        if self._queues is not None and job.queue not in self._queues:
            return
        self._tickets += 1
        job.ticket = self._tickets
        heapq.heappush(self._later, (job.run_at, job.ticket, job))

    def claim(self, now: int) -> JobRow | None:
        """Claim the due job of the highest priority, of those the one that was due first.

        The job is running from here on, whether a worker knows its name or not (protocol, "Jobs").
        """
        while self._later and self._later[0][0] <= now:
            _, ticket, job = heapq.heappop(self._later)
            if job.ticket == ticket:
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
        job.state = RUNNING
        job.started_at = now  # and not updated_at (recording `job_lifecycle`)

    def has_work(self, known: Container[str]) -> bool:
        """Whether a job of a *known* name is running, or in line for a worker."""
        return any(
            job.ticket or (job.state == RUNNING and job.name in known) for job in self.jobs.values()
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

    def fail_job(self, job: JobRow, error: str, now: int, delay_ns: int) -> bool:
        """Record that an attempt failed; return whether another follows, after *delay_ns*.

        ``max_retries`` 3 means four attempts and a ``retry_count`` of 4 in the end; a job that
        failed for good has no ``completed_at`` (recording ``job_events``).
        """
        job.retry_count += 1
        job.last_error = error
        job.updated_at = now
        if job.retry_count > job.max_retries:
            job.state = FAILED
            return False
        job.state = RETRYING
        job.run_at = now + delay_ns
        self._line_up(job)
        return True

    def return_job(self, job: JobRow) -> None:
        """Put back a job whose attempt the end of the server cut off: the next start repeats it."""
        job.state = PENDING
        self._line_up(job)

    def cancel_job(self, job: JobRow, now: int) -> None:
        """Rewrite the job's state, whatever it was. A running attempt goes on all the same."""
        job.state = CANCELLED
        job.updated_at = now
        job.ticket = 0
