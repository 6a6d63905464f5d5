"""Workers and workflow runs.

One dispatcher task claims jobs and starts an attempt for each; a run is a task, too. All of them
live in the engine's nursery, so nothing that they do depends on a connection: a client that leaves
takes no run with it (protocol, "Session").
"""

from __future__ import annotations

import contextvars
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias

import attrs
import msgspec
import trio

from trio_dispatch.server._broker import Broker, PublishedEvent
from trio_dispatch.server._clock import NS_PER_MS, NS_PER_SECOND, Clock, rfc3339_seconds
from trio_dispatch.server._failures import (
    CONTEXT_CANCELED,
    DEADLINE_EXCEEDED,
    describe,
    must_propagate,
)
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._ids import EVENT_PREFIX, JOB_PREFIX, RUN_PREFIX, make_id
from trio_dispatch.server._store import (
    COMPLETED,
    DEFAULT_MAX_RETRIES,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT_S,
    FAILED,
    PENDING,
    RETRYING,
    EventRow,
    JobRow,
    RunRow,
    Store,
)
from trio_dispatch.server._workflow import Workflow

JobFunction: TypeAlias = Callable[[Any], Awaitable[object]]
WorkflowFunction: TypeAlias = Callable[[Workflow, Any], Awaitable[object]]

_MAX_DOUBLINGS: Final = 64
"""More of them make no float, and no difference."""

_encode: Final = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class JobKind:
    """What the server knows about jobs of one name."""

    function: JobFunction
    max_retries: int
    timeout: float


@attrs.frozen(kw_only=True)
class JobContext:
    """The attempt that a job's function is running in."""

    job_id: str
    name: str
    queue: str
    priority: int
    attempt: int
    """1 for the first attempt."""
    max_retries: int
    scope_app_id: str
    scope_org_id: str


_current_job: contextvars.ContextVar[JobContext] = contextvars.ContextVar("trio_dispatch_job")


def current_job() -> JobContext:
    """The attempt that the calling task belongs to.

    Raises:
        LookupError: the task does not belong to a job.
    """
    try:
        return _current_job.get()
    except LookupError:
        raise LookupError("current_job() was called outside a job's function") from None


class ActiveRun:
    """A run that has been started.

    Attributes:
        row: the run in the store.
        done: set when it has ended.
        scope: cancel it to cancel the run.
        result: what its function returned, as JSON text; None for None.
        error: why it failed; None where it did not.
    """

    def __init__(self, row: RunRow, began: float) -> None:
        self.row = row
        self.began = began
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.result: bytes | None = None
        self.error: str | None = None


class Engine:
    """Does the work. One per server; `run` is its nursery's life.

    Args:
        concurrency: how many attempts run at once.
        retry_delay, max_retry_delay: the first retry comes within *retry_delay* seconds, and each
            later one within twice that, up to *max_retry_delay*.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        broker: Broker,
        rng: random.Random,
        concurrency: int,
        retry_delay: float,
        max_retry_delay: float,
        logger: logging.Logger,
    ) -> None:
        self.clock = clock
        self.store = store
        self.broker = broker
        self.job_kinds: dict[str, JobKind] = {}
        self.workflows: dict[str, WorkflowFunction] = {}
        self._rng = rng
        self._concurrency = concurrency
        self._retry_delay = retry_delay
        self._max_retry_delay = max_retry_delay
        self._logger = logger
        self._nursery: trio.Nursery | None = None
        self._attempts = 0
        self._wake = trio.Event()
        self._running: dict[str, trio.CancelScope] = {}
        self._cancelled: set[str] = set()
        """Jobs whose running attempts were cancelled."""
        self._active: dict[str, ActiveRun] = {}
        self._changed = trio.lowlevel.ParkingLot()

    async def run(
        self,
        nursery: trio.Nursery,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Claim jobs for ever; *nursery* is where attempts and runs live."""
        self._nursery = nursery
        self._attempts = 0
        task_status.started()
        try:
            while True:
                now = self.clock.now()
                while self._attempts < self._concurrency:
                    job = self.store.claim(now)
                    if job is None:
                        break
                    self._attempts += 1
                    nursery.start_soon(self._attempt, job)
                await self._wait_for_work()
        finally:
            self._nursery = None

    async def _wait_for_work(self) -> None:
        self._wake = trio.Event()
        due = self.store.next_due()
        if due is None or self._attempts >= self._concurrency:
            await self._wake.wait()
            return
        # A nanosecond more than is left, as the sum of floats may fall just short of it.
        delay = max(due - self.clock.now() + 1, 0) / NS_PER_SECOND
        with trio.move_on_after(delay):
            await self._wake.wait()

    # Jobs

    def enqueue(
        self, name: str, payload: bytes | None, queue: str, priority: int, identity: Identity
    ) -> JobRow:
        """Store a job for the workers."""
        now = self.clock.now()
        kind = self.job_kinds.get(name)
        timeout = kind.timeout if kind is not None else DEFAULT_TIMEOUT_S
        job = JobRow(
            id=make_id(JOB_PREFIX, now, self._rng),
            name=name,
            queue=queue or DEFAULT_QUEUE,
            payload=payload,
            priority=max(priority, 0),  # it counts only above 0 (protocol, "Jobs")
            max_retries=kind.max_retries if kind is not None else DEFAULT_MAX_RETRIES,
            timeout_ns=int(timeout * NS_PER_SECOND),
            scope_app_id=identity.app_id,
            scope_org_id=identity.org_id,
            run_at=now,
            created_at=now,
            updated_at=now,
        )
        self.store.add_job(job)
        self.publish_job("job.enqueued", job)
        self._wake.set()
        return job

    async def _attempt(self, job: JobRow) -> None:
        try:
            kind = self.job_kinds.get(job.name)
            if kind is not None:
                await self._run_attempt(job, kind)
            # else nobody knows the name: it stays running for ever, without an event (protocol,
            # "Jobs"), and takes up no worker.
        finally:
            self._attempts -= 1
            self._wake.set()
            self._changed.unpark_all()

    def cancel_job(self, job: JobRow) -> None:
        """Cancel *job* as one would expect: a running attempt ends, and there is an event."""
        self.store.cancel_job(job, self.clock.now())
        self.publish_job("job.cancelled", job)
        scope = self._running.get(job.id)
        if scope is not None:
            self._cancelled.add(job.id)
            scope.cancel()

    async def run_job(self, job: JobRow) -> None:
        """Make an attempt at *job* now, in the calling task.

        Raises:
            ValueError: it does not wait for one, or nobody knows its name.
        """
        kind = self.job_kinds.get(job.name)
        if kind is None:
            raise ValueError(f"no job called {job.name!r} is registered")
        if job.state not in {PENDING, RETRYING}:
            raise ValueError(f"job {job.id} is {job.state}, and waits for no attempt")
        await trio.lowlevel.checkpoint()
        self.store.start_job(job, self.clock.now())
        await self._run_attempt(job, kind)
        self._wake.set()
        self._changed.unpark_all()

    def is_idle(self) -> bool:
        """Whether nothing moves by itself: no job is under way or due, and all runs wait."""
        if self.store.has_work(self.job_kinds):
            return False
        return all(run.row.id in self.store.mailbox.waiting for run in self._active.values())

    async def idle(self) -> None:
        """Wait until nothing moves by itself."""
        await trio.lowlevel.checkpoint()
        while not self.is_idle():
            await self._changed.park()

    def notice_change(self) -> None:
        """Let who waits for `idle` look again."""
        self._changed.unpark_all()

    async def _run_attempt(self, job: JobRow, kind: JobKind) -> None:
        self.publish_job("job.started", job)
        _current_job.set(
            JobContext(
                job_id=job.id,
                name=job.name,
                queue=job.queue,
                priority=job.priority,
                attempt=job.retry_count + 1,
                max_retries=job.max_retries,
                scope_app_id=job.scope_app_id,
                scope_org_id=job.scope_org_id,
            )
        )
        began = trio.current_time()
        error: str | None = None
        try:
            with trio.move_on_after(kind.timeout) as scope:
                self._running[job.id] = scope
                payload = None if job.payload is None else msgspec.json.decode(job.payload)
                await kind.function(payload)
        except BaseException as exc:
            if must_propagate(exc):
                self.store.return_job(job)
                raise
            self._logger.warning("job %s (%s) failed", job.id, job.name, exc_info=exc)
            error = describe(exc)
        else:
            if scope.cancelled_caught and job.id in self._cancelled:
                self._cancelled.discard(job.id)
                return
            if scope.cancelled_caught:
                self._logger.warning("job %s (%s) timed out", job.id, job.name)
                error = DEADLINE_EXCEEDED
        finally:
            self._running.pop(job.id, None)
        if error is None:
            self.store.complete_job(job, self.clock.now())
            self.publish_job("job.completed", job, elapsed_ms=_elapsed_ms(began))
        else:
            self._fail(job, error)

    def _fail(self, job: JobRow, error: str) -> None:
        doublings = min(job.retry_count, _MAX_DOUBLINGS)
        limit = min(self._retry_delay * 2**doublings, self._max_retry_delay)
        delay_ns = int(self._rng.uniform(0, limit) * NS_PER_SECOND)
        if self.store.fail_job(job, error, self.clock.now(), delay_ns):
            self.publish_job(
                "job.retrying",
                job,
                attempt=job.retry_count,
                next_run_at=rfc3339_seconds(job.run_at),
            )
        else:
            self.publish_job("job.failed", job, error=error)
            self.publish_job("job.dlq", job, error=error)

    # Runs

    def start_run(
        self, name: str, input: bytes | None, identity: Identity, parent_run_id: str = ""
    ) -> ActiveRun:
        """Start a run of the workflow *name*.

        Raises:
            LookupError: no workflow has that name.
        """
        function = self.workflows.get(name)
        if function is None:
            raise LookupError(f'no workflow registered for "{name}"')
        if self._nursery is None:
            raise RuntimeError("the server is not running")
        now = self.clock.now()
        row = RunRow(
            id=make_id(RUN_PREFIX, now, self._rng),
            name=name,
            input=input,
            scope_app_id=identity.app_id,
            scope_org_id=identity.org_id,
            parent_run_id=parent_run_id,
            started_at=now,
            created_at=now,
            updated_at=now,
        )
        self.store.runs[row.id] = row
        run = ActiveRun(row, trio.current_time())
        self.publish_run("workflow.started", row)
        self._active[row.id] = run
        self._nursery.start_soon(self._run, run, function, identity)
        return run

    async def _run(self, run: ActiveRun, function: WorkflowFunction, identity: Identity) -> None:
        workflow = Workflow(self, run.row, identity)
        run.error = CONTEXT_CANCELED
        try:
            with run.scope:
                input = None if run.row.input is None else msgspec.json.decode(run.row.input)
                result = await function(workflow, input)
                run.result = None if result is None else _encode(result)
                run.error = None
            if run.scope.cancelled_caught:
                run.error = workflow.error_text(None)
        except BaseException as exc:
            if must_propagate(exc):
                run.error = workflow.error_text(None)
                raise
            row = run.row
            self._logger.warning("workflow run %s (%s) failed", row.id, row.name, exc_info=exc)
            run.error = workflow.error_text(exc)
        finally:
            self._end(run)

    def _end(self, run: ActiveRun) -> None:
        row = run.row
        row.completed_at = row.updated_at = self.clock.now()
        if run.error is None:
            row.state = COMPLETED
            elapsed_ms = _elapsed_ms(run.began)
            self.publish_run("workflow.completed", row, elapsed_ms=elapsed_ms)
        else:
            row.state = FAILED
            row.error = run.error
            self.publish_run("workflow.failed", row, error=run.error)
        run.done.set()
        self._active.pop(row.id, None)
        self._changed.unpark_all()

    def post_event(self, name: str, payload: bytes | None, identity: Identity) -> EventRow:
        """Give a workflow event to a run that waits for it, or keep it for one that will."""
        now = self.clock.now()
        event = EventRow(
            id=make_id(EVENT_PREFIX, now, self._rng),
            name=name,
            payload=payload,
            scope_app_id=identity.app_id,
            scope_org_id=identity.org_id,
            created_at=now,
        )
        self.store.mailbox.post(event)
        return event

    # Events. Empty fields are left out, as Go's encoder leaves them (recording `job_events`).

    def publish_job(self, type: str, job: JobRow, **extra: Any) -> None:
        """Publish an event about *job*."""
        data = {
            "job_id": job.id,
            "job_name": job.name,
            "queue": job.queue,
            "scope_app_id": job.scope_app_id,
            "scope_org_id": job.scope_org_id,
            **extra,
        }
        self._publish(type, f"job:{job.id}", data)

    def publish_run(self, type: str, run: RunRow, *, step: str = "", **extra: Any) -> None:
        """Publish an event about *run*."""
        data = {
            "run_id": run.id,
            "name": run.name,
            "step_name": step,
            "scope_app_id": run.scope_app_id,
            "scope_org_id": run.scope_org_id,
            **extra,
        }
        self._publish(type, f"workflow:{run.id}", data)

    def publish(self, type: str, topic: str, data: dict[str, Any]) -> None:
        """Publish an event that somebody made up."""
        self.broker.publish(PublishedEvent(type, topic, data, self.clock.now()))

    def _publish(self, type: str, topic: str, data: dict[str, Any]) -> None:
        kept = {name: value for name, value in data.items() if value}
        self.broker.publish(PublishedEvent(type, topic, kept, self.clock.now()))


def _elapsed_ms(began: float) -> int:
    # Half a microsecond against what floats lose: 2 s are 2000 ms.
    return int((trio.current_time() - began + 5e-7) * NS_PER_SECOND) // NS_PER_MS
