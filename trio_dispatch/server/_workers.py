"""Workers: the attempts that one server makes at jobs."""

from __future__ import annotations

import contextvars
import logging
import random
from collections.abc import Callable
from typing import Final

import attrs
import trio

from trio_dispatch.server._clock import NS_PER_SECOND, Clock, rfc3339_seconds
from trio_dispatch.server._failures import DEADLINE_EXCEEDED, describe, must_propagate
from trio_dispatch.server._publishing import Publisher, elapsed_ms
from trio_dispatch.server._registry import JobKind, Registry
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._store import PENDING, RETRYING, JobRow, Store

HEARTBEAT_NS: Final = 10 * NS_PER_SECOND
"""A server says that its attempts are alive every ten seconds."""
STALE_NS: Final = 30 * NS_PER_SECOND
"""After so long without a sign of life another server takes a job over (protocol)."""
STRAY_NS: Final = 300 * NS_PER_SECOND
"""A job whose name nobody knows is started again minutes later (protocol, "Jobs")."""

_MAX_DOUBLINGS: Final = 64
"""More of them make no float, and no difference."""


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


@attrs.frozen(kw_only=True)
class WorkerOptions:
    """How a server's workers work.

    Attributes:
        concurrency: how many attempts run at once.
        retry_delay: the first retry comes within so many seconds...
        max_retry_delay: ...and each later one within twice that, up to this.
    """

    concurrency: int
    retry_delay: float
    max_retry_delay: float


class Workers:
    """One server's workers.

    Args:
        strays_start: whether there is an event for jobs that nobody knows.
        changed: called when a job has moved on.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        publisher: Publisher,
        steering: Steering,
        rng: random.Random,
        options: WorkerOptions,
        strays_start: bool,
        changed: Callable[[], None],
        logger: logging.Logger,
    ) -> None:
        self._clock = clock
        self._store = store
        self._registry = registry
        self._publisher = publisher
        self._steering = steering
        self._rng = rng
        self._options = options
        self._strays_start = strays_start
        self._changed = changed
        self._logger = logger
        self._nursery: trio.Nursery | None = None
        self._attempts = 0
        self._active: dict[str, tuple[JobRow, trio.CancelScope]] = {}
        self._cancelled: set[str] = set()
        """Jobs whose running attempts were cancelled."""
        self._began = 0
        self._stood_still_at: int | None = None

    # Life

    def start(self, nursery: trio.Nursery) -> None:
        """Take jobs from now on, in *nursery*."""
        self._nursery = nursery
        self._began = self._clock.now()
        self._stood_still_at = None

    def move(self, nursery: trio.Nursery | None) -> None:
        """Make further attempts in *nursery*; None for none at all."""
        self._nursery = nursery

    @property
    def free(self) -> bool:
        """Whether another attempt may begin."""
        return (
            self._nursery is not None
            and self._stood_still_at is None
            and self._attempts < self._options.concurrency
        )

    @property
    def busy(self) -> bool:
        """Whether attempts are under way."""
        return self._attempts > 0

    def freeze(self) -> None:
        """Stand still: begin nothing, and let nothing end. Others take the jobs over in time."""
        if self._stood_still_at is None:
            self._give_up()

    def thaw(self) -> None:
        """Go on."""
        if self._stood_still_at is None:
            return
        self._stood_still_at = None
        for job, _ in self._active.values():
            if job.worker is self:
                job.ticket = 0
        self._changed()

    def kill(self) -> None:
        """Leave everything as it is: others take the jobs over in time."""
        self._nursery = None
        if self._stood_still_at is None:
            self._give_up()
        self._active = {}

    def _give_up(self) -> None:
        self._stood_still_at = self._clock.now()
        for job, _ in self._active.values():
            if job.worker is self:
                self._store.line_up(job, job.last_sign + STALE_NS)
        self._changed()

    def last_beat(self, since: int) -> int | None:
        """When a heartbeat was last written for a job that was started at *since*."""
        until = self._clock.now() if self._stood_still_at is None else self._stood_still_at
        beat = self._began + (until - self._began) // HEARTBEAT_NS * HEARTBEAT_NS
        return beat if beat > since else None

    # Attempts

    def begin(self, job: JobRow) -> None:
        """Make an attempt at a job that was claimed, in the background."""
        assert self._nursery is not None
        self._attempts += 1
        self._nursery.start_soon(self._attempt, job)

    async def _attempt(self, job: JobRow) -> None:
        try:
            kind = self._registry.jobs.get(job.name)
            if kind is not None:
                await self._run_attempt(job, kind)
            elif self._strays_start:
                # The event comes all the same, and the job stays running (recording
                # `job_without_worker`). It takes up no worker.
                self._publisher.job("job.started", job)
                self._store.line_up(job, self._clock.now() + STRAY_NS)
        finally:
            self._attempts -= 1
            self._changed()

    def cancel(self, job: JobRow) -> None:
        """Cancel *job* as one would expect: a running attempt ends, and there is an event."""
        self._store.cancel_job(job, self._clock.now())
        self._publisher.job("job.cancelled", job)
        if job.id in self._active:
            self._cancelled.add(job.id)
            self._active[job.id][1].cancel()

    async def run_job(self, job: JobRow) -> None:
        """Make an attempt at *job* now, in the calling task.

        Raises:
            ValueError: it does not wait for one, or nobody knows its name.
        """
        kind = self._registry.jobs.get(job.name)
        if kind is None:
            raise ValueError(f"no job called {job.name!r} is registered")
        if job.state not in {PENDING, RETRYING}:
            raise ValueError(f"job {job.id} is {job.state}, and waits for no attempt")
        await trio.lowlevel.checkpoint()
        self._store.start_job(job, self._clock.now())
        await self._run_attempt(job, kind)
        self._changed()

    async def _run_attempt(self, job: JobRow, kind: JobKind) -> None:
        job.worker = self
        self._publisher.job("job.started", job)
        began = trio.current_time()
        scope = trio.move_on_after(job.timeout_ns / NS_PER_SECOND)
        attempt = self._active[job.id] = (job, scope)
        try:
            error = await self._call(job, kind, scope)
            await self._steering.wait_running()
            if self._active.get(job.id) is attempt:
                self._record(job, error, scope, began)
        except BaseException:
            if self._active.get(job.id) is attempt:
                self._store.return_job(job)
            # else it was left behind by `kill`
            raise
        finally:
            if self._active.get(job.id) is attempt:
                del self._active[job.id]
            self._cancelled.discard(job.id)

    async def _call(self, job: JobRow, kind: JobKind, scope: trio.CancelScope) -> str | None:
        """Call the job's function; return its error, None where there is none."""
        context = _current_job.set(_context_of(job))
        try:
            with scope:
                await kind.function(kind.decode(job.payload))
        except BaseException as exc:
            if must_propagate(exc):
                raise
            self._logger.warning("job %s (%s) failed", job.id, job.name, exc_info=exc)
            return describe(exc)
        finally:
            _current_job.reset(context)
        if not scope.cancelled_caught or job.id in self._cancelled:
            return None
        self._logger.warning("job %s (%s) timed out", job.id, job.name)
        return DEADLINE_EXCEEDED

    def _record(
        self, job: JobRow, error: str | None, scope: trio.CancelScope, began: float
    ) -> None:
        if scope.cancelled_caught and job.id in self._cancelled:
            return
        if self._store.away:
            # The outcome cannot be written down: the job is made again when it is stale.
            self._store.line_up(job, job.last_sign + STALE_NS)
        elif error is None:
            self._store.complete_job(job, self._clock.now())
            self._publisher.job("job.completed", job, elapsed_ms=elapsed_ms(began))
        else:
            self._fail(job, error)

    def _fail(self, job: JobRow, error: str) -> None:
        options = self._options
        doublings = min(job.retry_count, _MAX_DOUBLINGS)
        limit = min(options.retry_delay * 2**doublings, options.max_retry_delay)
        delay_ns = int(self._rng.uniform(0, limit) * NS_PER_SECOND)
        if self._store.fail_job(job, error, self._clock.now(), delay_ns):
            self._publisher.job(
                "job.retrying",
                job,
                attempt=job.retry_count,
                next_run_at=rfc3339_seconds(job.run_at),
            )
        else:
            self._publisher.job("job.failed", job, error=error)
            self._publisher.job("job.dlq", job, error=error)


def _context_of(job: JobRow) -> JobContext:
    return JobContext(
        job_id=job.id,
        name=job.name,
        queue=job.queue,
        priority=job.priority,
        attempt=job.retry_count + 1,
        max_retries=job.max_retries,
        scope_app_id=job.scope_app_id,
        scope_org_id=job.scope_org_id,
    )
