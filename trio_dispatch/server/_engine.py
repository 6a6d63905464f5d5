"""The work of one server: its jobs by way of `Workers`, and its workflow runs.

A run is a task in the engine's nursery, so it does not depend on a connection: a client that leaves
takes no run with it (protocol, "Session"). What a run has done is in the store, and a run that the
end of a server cut off is resumed by the next one that starts: its function is called again, and
steps that were done give their first results.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Final

import msgspec
import trio

from trio_dispatch.server._awaited_events import EventRow
from trio_dispatch.server._broker import Broker
from trio_dispatch.server._clock import NS_PER_SECOND, Clock
from trio_dispatch.server._execution import Environment, Execution
from trio_dispatch.server._failures import CONTEXT_CANCELED, holds, must_propagate
from trio_dispatch.server._go_text import quote
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._ids import EVENT_PREFIX, JOB_PREFIX, RUN_PREFIX, make_id
from trio_dispatch.server._publishing import Publisher, elapsed_ms
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._registry import CronEntry, Registry, WorkflowKind
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._store import (
    COMPLETED,
    DEFAULT_MAX_RETRIES,
    DEFAULT_QUEUE,
    DEFAULT_TIMEOUT_S,
    FAILED,
    JobRow,
    RunRow,
    Store,
    StoreAway,
)
from trio_dispatch.server._workers import WorkerOptions, Workers
from trio_dispatch.server._workflow import Workflow

LATE_START_NS: Final = 1_000_000
"""A job is started up to a millisecond after it was enqueued."""

_NOBODY: Final = Identity()

_encode: Final = msgspec.json.Encoder().encode


class Engine:
    """The work of one server. Servers of one cluster share *store*, *registry* and *clock*."""

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        broker: Broker,
        steering: Steering,
        rng: random.Random,
        quirks: Quirks,
        options: WorkerOptions,
        logger: logging.Logger,
    ) -> None:
        self.clock = clock
        self.store = store
        self.registry = registry
        self.broker = broker
        self.steering = steering
        self.rng = rng
        self.quirks = quirks
        self.publisher = Publisher(broker, clock)
        self.workers = Workers(
            clock=clock,
            store=store,
            registry=registry,
            publisher=self.publisher,
            steering=steering,
            rng=rng,
            options=options,
            strays_start=quirks.strays_start,
            changed=self.notice_change,
            logger=logger,
        )
        self._logger = logger
        self._nursery: trio.Nursery | None = None
        self._executions: dict[str, Execution] = {}
        self.watchers: list[Callable[[], None]] = []
        """Called when something has moved on."""
        self._environment = Environment(
            clock=clock,
            store=store,
            steering=steering,
            publisher=self.publisher,
            rng=rng,
            quirks=quirks,
            start_run=self.start_run,
            notice_change=self.notice_change,
        )

    def notice_change(self) -> None:
        """Something has moved on: let the dispatcher look again."""
        for watcher in self.watchers:
            watcher()

    # Life

    def start(self, nursery: trio.Nursery, *, resume: bool = True) -> None:
        """Work in *nursery* from now on. Runs that are in the store unfinished are resumed."""
        self._nursery = nursery
        self.workers.start(nursery)
        if resume and not self.store.away:
            for row in self.store.running_runs():
                self._resume(row)
        self.notice_change()

    def move(self, nursery: trio.Nursery | None) -> None:
        """Work in *nursery* instead, where what the old one's end cuts off is begun again."""
        self._nursery = nursery
        self.workers.move(nursery)

    def stop(self) -> None:
        """Begin nothing more, and leave the runs as they are."""
        self._nursery = None
        self._executions = {}
        self.workers.move(None)

    @property
    def busy(self) -> bool:
        """Whether attempts at jobs are under way."""
        return self.workers.busy

    def kill(self) -> None:
        """Do nothing more, and leave everything as it is."""
        self._nursery = None
        self._executions = {}
        self.workers.kill()

    @property
    def free(self) -> bool:
        """Whether another attempt may begin."""
        return self.workers.free

    def begin(self, job: JobRow) -> None:
        """Make an attempt at *job*."""
        self.workers.begin(job)

    def fire(self, entry: CronEntry) -> None:
        """Enqueue the job of a schedule that is due."""
        job = self.enqueue(entry.job, entry.payload, entry.queue, 0, _NOBODY, defined=True)
        self.publisher.cron(entry.name, job)

    # Jobs

    def enqueue(
        self,
        name: str,
        payload: bytes | None,
        queue: str,
        priority: int,
        identity: Identity,
        *,
        defined: bool = False,
    ) -> JobRow:
        """Store a job for the workers. If it is *defined*, its definition's options count."""
        now = self.clock.now()
        kind = self.registry.jobs.get(name)
        if self.quirks.definitions_ignored and not defined:
            kind = None
        timeout = kind.timeout if kind is not None else DEFAULT_TIMEOUT_S
        job = JobRow(
            id=make_id(JOB_PREFIX, now, self.rng),
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
        delay_ns = 0
        if self.quirks.late_starts and self.rng.random() < 0.5:
            delay_ns = int(self.rng.uniform(0, LATE_START_NS))
        self.store.add_job(job, delay_ns)
        self.publisher.job("job.enqueued", job)
        self.notice_change()
        return job

    # Runs

    def start_run(
        self, name: str, input: bytes | None, identity: Identity, parent_run_id: str = ""
    ) -> Execution:
        """Start a run of the workflow *name*.

        Raises:
            LookupError: no workflow has that name.
            StoreAway: the store cannot be reached.
        """
        version = self.registry.latest(name)
        if version is None:
            raise LookupError(f"no workflow registered for {quote(name)}")
        if self.store.away:
            raise StoreAway
        now = self.clock.now()
        row = RunRow(
            id=make_id(RUN_PREFIX, now, self.rng),
            name=name,
            version=version,
            input=input,
            identity=identity,
            parent_run_id=parent_run_id,
            started_at=now,
            created_at=now,
            updated_at=now,
        )
        self.store.add_run(row)
        self.publisher.run("workflow.started", row)
        return self._execute(row)

    def _resume(self, row: RunRow) -> None:
        if self.quirks.loses_versions:
            row.version = self.registry.latest(row.name) or row.version
        if self.registry.workflow(row.name, row.version) is None:
            self._logger.warning(
                "run %s is not resumed: no workflow %s in version %d is registered",
                row.id,
                row.name,
                row.version,
            )
        elif row.id not in self._executions:
            self._execute(row)

    def _execute(self, row: RunRow) -> Execution:
        if self._nursery is None:
            raise RuntimeError("the server is not running")
        execution = Execution(row, self._nursery)
        self._executions[row.id] = execution
        self._nursery.start_soon(self._run, execution)
        return execution

    async def _run(self, execution: Execution) -> None:
        row = execution.row
        kind = self.registry.workflow(row.name, row.version)
        assert kind is not None
        workflow = Workflow(self._environment, execution)
        try:
            completed_at = await self._call(execution, workflow, kind)
            await workflow.compensate(failed=execution.error is not None)
        except BaseException:
            if not self._is_mine(execution):
                pass
            elif self._nursery is not None and self._nursery is not execution.nursery:
                # Another block carries the server on (`Host`), and with it the run.
                execution.move(self._nursery)
                self._nursery.start_soon(self._run, execution)
            else:
                del self._executions[row.id]
            raise
        if self._is_mine(execution):
            self._end(execution, completed_at)

    def _is_mine(self, execution: Execution) -> bool:
        """Whether *execution* was not left behind by `stop` or `kill`."""
        return self._executions.get(execution.row.id) is execution

    async def _call(self, execution: Execution, workflow: Workflow, kind: WorkflowKind) -> int:
        row = execution.row
        execution.error = CONTEXT_CANCELED
        try:
            with execution.scope:
                result = await kind.function(workflow, kind.decode(row.input))
                execution.result = None if result is None else _encode(result)
                execution.error = None
            if execution.scope.cancelled_caught:
                execution.error = workflow.error_text(None)
        except BaseException as exc:
            if must_propagate(exc):
                raise
            self._logger.warning("workflow run %s (%s) failed", row.id, row.name, exc_info=exc)
            execution.error = workflow.error_text(exc)
            execution.lost_store = holds(exc, StoreAway)
        return self.clock.now()

    def _end(self, execution: Execution, completed_at: int) -> None:
        row = execution.row
        stays = execution.scope.cancelled_caught and self.quirks.keeps_cancelled_runs
        if not (self.store.away or execution.lost_store or stays):
            self.store.end_run(row, execution.error, completed_at, self.clock.now())
        if execution.error is None:
            execution.state = COMPLETED
            elapsed = elapsed_ms(execution.began)
            self.publisher.run("workflow.completed", row, elapsed_ms=elapsed)
        else:
            execution.state = FAILED
            self.publisher.run("workflow.failed", row, error=execution.error)
        execution.done.set()
        del self._executions[row.id]
        self.notice_change()

    def all_wait(self) -> bool:
        """Whether every run waits for an event."""
        return all(run_id in self.store.awaited.waiting for run_id in self._executions)

    def post_event(self, name: str, payload: bytes | None, identity: Identity) -> EventRow:
        """Give a workflow event to a run that waits for it, or keep it for one that will."""
        now = self.clock.now()
        event = EventRow(
            id=make_id(EVENT_PREFIX, now, self.rng),
            name=name,
            payload=payload,
            scope_app_id=identity.app_id,
            scope_org_id=identity.org_id,
            created_at=now,
        )
        self.store.awaited.post(event)
        return event
