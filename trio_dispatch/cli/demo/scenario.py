"""The scenario: jobs of several kinds and a workflow that waits for an approval, on one client.

Everything is asked of the server by name, and what it lacks is skipped with the reason. A name
that no worker knows is accepted all the same, reported as started like any other, and stays
``running`` for ever (protocol, "Jobs"). So on a server that is not the demo's own one job of each
kind goes ahead, and the others follow when it has ended, or failed for the first time.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Final, cast

import trio

from trio_dispatch import (
    Client,
    DispatchError,
    EnqueueManyFailed,
    EnqueueRequest,
    Event,
    Job,
    JobFailed,
    JobHandle,
    MethodNotSupported,
    PermissionDenied,
    ProtocolError,
    RequestError,
    RequestTimeout,
    ServerError,
    Stats,
    Subscription,
    TimelineStep,
    WorkflowFailed,
    WorkflowRun,
)
from trio_dispatch.cli.demo.progress import Board, Row
from trio_dispatch.cli.demo.report import KindReport, Report, WorkflowReport

EVENT_BUFFER: Final = 10_000
LOOK_AGAIN: Final = 0.2
"""Seconds until a job that should be taken is looked at again; events may come sooner."""
QUESTIONS_AT_ONCE: Final = 16

APPROVAL: Final = {"approved_by": "trio-dispatch demo"}

TELLING: Final = (RequestError, RequestTimeout, ProtocolError)
"""Errors that end a part of the demo and not the demo. A lost connection ends it all."""


class Lacks(Exception):
    """The server lacks something; the message says what."""


def lack(exc: DispatchError) -> str | None:
    """What the server lacks, when *exc* says so; None for an error of another kind."""
    if isinstance(exc, PermissionDenied):
        return f"the token may not do this ({exc})"
    if isinstance(exc, MethodNotSupported):
        return f"the server does not have this ({exc})"
    if isinstance(exc, ServerError) and "no workflow registered" in exc.message:
        return "no workflow of this name is registered"
    return None


class Demo:
    """One showing. `run` does it all."""

    def __init__(self, client: Client, board: Board) -> None:
        self._client = client
        self._board = board
        self._plan = board.plan
        self._problems: dict[str, str] = {}
        self._extras: list[tuple[str, str]] = []
        self._run_id = ""
        self._run_found = trio.Event()
        self._unclaimed: dict[str, list[Event]] = {}
        """Events of runs that may be ours."""
        self._workflow_skipped = ""
        self._workflow_problem = ""

    async def run(self) -> Report:
        """Do everything that the plan asks for, and ask the server what came of it."""
        board = self._board
        board.phase = "running"
        async with AsyncExitStack() as stack:
            events = await self._listen(stack)
            async with trio.open_nursery() as background:
                if events is not None:
                    background.start_soon(self._follow, events)
                async with trio.open_nursery() as parts:
                    for row in board.rows:
                        parts.start_soon(self._run_kind, row)
                    parts.start_soon(self._run_workflow)
                background.cancel_scope.cancel()
        board.phase = "asking the server for the figures"
        report = await self._ask_for_everything()
        board.phase = "done"
        return report

    # Events

    async def _listen(self, stack: AsyncExitStack) -> Subscription | None:
        try:
            events = await stack.enter_async_context(
                self._client.subscribe(
                    "jobs", "workflows", buffer=EVENT_BUFFER, overflow="drop_oldest"
                )
            )
        except RequestError as exc:
            reason = lack(exc) or str(exc)
            self._extras.append(("live events", reason))
            self._board.note("live events", f"skipped: {reason}", "odd")
            return None
        self._board.listening = True
        return events

    async def _follow(self, events: Subscription) -> None:
        async with trio.open_nursery() as nursery:
            async for event in events:
                if event.job_id is not None:
                    self._board.job_event(event, event.job_id)
                elif event.run_id is not None:
                    if event.run_id == self._run_id:
                        self._run_event(event)
                    elif not self._run_id and event.data.get("name") == self._plan.workflow:
                        if event.run_id not in self._unclaimed:
                            nursery.start_soon(self._is_it_ours, event.run_id)
                        self._unclaimed.setdefault(event.run_id, []).append(event)

    # Jobs

    async def _run_kind(self, row: Row) -> None:
        try:
            with trio.move_on_after(self._plan.deadline) as deadline:
                await self._run_jobs(row)
            if deadline.cancelled_caught:
                self._problems[row.kind.name] = f"not ended after {self._plan.deadline:g} s"
        except Lacks as exc:
            self._board.skip_kind(row, str(exc))
        except TELLING as exc:
            reason = lack(exc)
            if reason is None:
                self._problems[row.kind.name] = str(exc)
            else:
                self._board.skip_kind(row, reason)
        if row.skipped:
            return
        if row.kind.name in self._problems:
            self._board.note(row.kind.name, self._problems[row.kind.name], "bad")
            return
        counts = ", ".join(f"{n} {state}" for state, n in row.counts().items())
        odd = " (on purpose)" if row.kind.expected == "failed" else ""
        self._board.note(row.kind.name, f"all ended: {counts}{odd}", "good")

    async def _run_jobs(self, row: Row) -> None:
        kind = row.kind
        requests = [
            EnqueueRequest(kind.name, payload, queue=kind.queue, priority=kind.priority)
            for payload in kind.payloads
        ]
        if not self._plan.own_server:
            (first,) = await self._enqueue(row, requests[:1])
            await self._wait_for_first(row, first.job_id)
            requests = requests[1:]
        await self._enqueue(row, requests)
        self._board.note(
            kind.name,
            f"{row.planned} enqueued in queue {kind.queue!r}, priority {kind.priority}",
            show=False,
        )
        async with trio.open_nursery() as nursery:
            for job_id in list(row.states):
                nursery.start_soon(self._wait_job, row, job_id)

    async def _enqueue(self, row: Row, requests: list[EnqueueRequest]) -> list[JobHandle]:
        row.unanswered = len(requests)
        try:
            handles = await self._client.enqueue_many(requests)
        except EnqueueManyFailed as exc:
            row.unanswered = 0
            for handle in filter(None, exc.handles):
                self._board.add_job(row, handle.job_id, handle.state)
            raise exc.exceptions[0] from None
        row.unanswered = 0
        for handle in handles:
            self._board.add_job(row, handle.job_id, handle.state)
        return handles

    async def _wait_for_first(self, row: Row, job_id: str) -> None:
        """Wait until a job has ended or failed once, for as long as the plan has patience."""
        board, job = self._board, None
        try:
            with trio.move_on_after(self._plan.patience):
                while True:
                    changed = board.changed
                    job = await self._client.get_job(job_id)
                    if job.finished or job.retry_count:
                        board.job_state(job_id, job.state)
                        return
                    with trio.move_on_after(LOOK_AGAIN):
                        await changed.wait()
        except PermissionDenied as exc:
            raise Lacks(f"enqueued, but the token may not ask for jobs ({exc})") from None
        # It would stay there for ever.
        await self._client.cancel_job(job_id)
        board.job_state(job_id, "cancelled")
        seconds = f"{self._plan.patience:g} s"
        if job is not None and job.state == "pending":
            raise Lacks(f"no worker took a job from queue {row.kind.queue!r} in {seconds}")
        raise Lacks(f"no worker finished a job of this name in {seconds}; perhaps none knows it")

    async def _wait_job(self, row: Row, job_id: str) -> None:
        try:
            job = await self._client.wait_job(job_id)
        except JobFailed as exc:
            job = exc.job
        except TELLING as exc:
            self._problems.setdefault(row.kind.name, str(exc))
            return
        self._board.job_state(job_id, job.state)

    # The workflow

    async def _run_workflow(self) -> None:
        board, plan = self._board, self._plan
        board.run.state = "starting"
        board.note(plan.workflow, "started", show=False)
        with trio.move_on_after(plan.deadline) as deadline:
            async with trio.open_nursery() as nursery:
                # The answer to a start may come only when the run has ended, so the approval has
                # a task of its own.
                nursery.start_soon(self._approve, nursery.cancel_scope)
                try:
                    board.run.sent = True
                    handle = await self._client.start_workflow(plan.workflow, plan.order)
                    if handle.known:
                        self._found_run(handle.run_id)
                    run = await handle.wait()
                    self._found_run(run.id)
                except WorkflowFailed as exc:
                    self._found_run(exc.run.id)
                    self._workflow_problem = f"the run failed: {exc.run.error}"
                except TELLING as exc:
                    self._workflow_error(exc)
                nursery.cancel_scope.cancel()
        if deadline.cancelled_caught:
            self._workflow_problem = f"not ended after {plan.deadline:g} s"
        else:
            board.run.sent = False
        self._workflow_ended()

    def _workflow_error(self, exc: DispatchError) -> None:
        reason = lack(exc)
        if reason is None:
            self._workflow_problem = str(exc)
        else:
            self._workflow_skipped = reason

    def _workflow_ended(self) -> None:
        board = self._board.run
        board.waiting = False
        if self._workflow_skipped:
            board.state, board.mood = f"skipped: {self._workflow_skipped}", "odd"
        elif self._workflow_problem:
            board.state, board.mood = self._workflow_problem, "bad"
        else:
            board.state, board.mood = "completed", "good"
        self._board.note(board.name, board.state, board.mood)

    async def _approve(self, workflow: trio.CancelScope) -> None:
        """Wait until the run waits for its event, and publish it."""
        board, plan = self._board, self._plan
        with trio.move_on_after(2 * plan.quiet):
            # Without events nobody tells that it runs. An event is kept until a run waits for it.
            await self._run_found.wait()
        try:
            if self._run_id and not await self._wait_silent():
                return
            board.run.waiting = True
            board.run.state = f"waiting for the event {plan.approval}"
            board.note(plan.workflow, board.run.state)
            await trio.sleep(plan.quiet)
            board.run.sent = False
            await self._client.publish_event(plan.approval, APPROVAL)
        except TELLING as exc:
            self._workflow_error(exc)
            workflow.cancel()
            return
        board.run.waiting = False
        board.run.state = "approved, running"
        board.run.done(f"wait:{plan.approval}", board.now)
        board.note(plan.workflow, f"event {plan.approval} published", "good")

    async def _wait_silent(self) -> bool:
        """Watch the run until nothing happens in it any more; return whether it is running."""
        try:
            async with self._client.watch(self._run_id) as watch:
                while True:
                    with trio.move_on_after(self._plan.quiet) as silence:
                        await watch.receive()
                    if silence.cancelled_caught:
                        return True
        except trio.EndOfChannel:
            return False

    async def _is_it_ours(self, run_id: str) -> None:
        """A run of our workflow has begun: it is ours if its input names our approval."""
        try:
            run = await self._client.get_workflow(run_id)
        except TELLING:
            return  # the answer to the start will name it
        input = run.input
        if isinstance(input, dict):
            order = cast("dict[str, object]", input)
            if order.get("approval") == self._plan.approval:
                self._found_run(run_id)

    def _found_run(self, run_id: str) -> None:
        if self._run_id:
            return
        self._run_id = self._board.run.run_id = run_id
        self._board.run.state = "running"
        for event in self._unclaimed.pop(run_id, ()):
            self._run_event(event)
        self._unclaimed.clear()
        self._run_found.set()

    def _run_event(self, event: Event) -> None:
        board, step = self._board, str(event.data.get("step_name", ""))
        if event.type == "workflow.step_completed":
            board.run.done(step, board.now)
            board.note(self._plan.workflow, f"step {step} completed")
        elif event.type == "workflow.step_failed":
            board.note(self._plan.workflow, f"step {step} failed: {event.data.get('error')}", "bad")

    # The figures

    async def _ask_for_everything(self) -> Report:
        seconds = self._board.now
        kinds: list[KindReport] = []
        for row in self._board.rows:
            problem = self._problems.get(row.kind.name, "")
            jobs: list[Job] = []
            if not row.skipped:
                try:
                    jobs = await self._get_jobs(list(row.states))
                except TELLING as exc:
                    problem = problem or str(exc)
            kinds.append(KindReport(row.kind, jobs, problem, row.skipped))
        return Report(
            plan=self._plan,
            kinds=kinds,
            workflow=await self._ask_for_run(),
            stats=await self._ask_for_stats(),
            extras=self._extras,
            seconds=seconds,
        )

    async def _get_jobs(self, ids: list[str]) -> list[Job]:
        """Ask for jobs, some at once."""
        found: dict[str, Job] = {}
        failed: list[DispatchError] = []
        limit = trio.CapacityLimiter(QUESTIONS_AT_ONCE)

        async def get(job_id: str) -> None:
            async with limit:
                try:
                    found[job_id] = await self._client.get_job(job_id)
                except TELLING as exc:
                    failed.append(exc)

        async with trio.open_nursery() as nursery:
            for job_id in ids:
                nursery.start_soon(get, job_id)
        if failed:
            raise failed[0]
        return [found[job_id] for job_id in ids]

    async def _ask_for_run(self) -> WorkflowReport:
        name = self._plan.workflow
        if self._workflow_skipped:
            return WorkflowReport(name, skipped=self._workflow_skipped)
        problem, run = self._workflow_problem, None
        timeline: list[TimelineStep] = []
        if self._run_id:
            try:
                run = await self._client.get_workflow(self._run_id)
                timeline = await self._client.workflow_timeline(self._run_id)
            except TELLING as exc:
                problem = problem or str(exc)
        if run is not None and not problem:
            problem = self._check_run(run, timeline)
        return WorkflowReport(name, run, timeline, problem)

    def _check_run(self, run: WorkflowRun, timeline: list[TimelineStep]) -> str:
        if run.state != "completed":
            return f"the run is {run.state}"
        done = {step.step_name: step for step in timeline}
        missing = [step.name for step in self._plan.steps if step.name not in done]
        if missing:
            return f"no step {missing[0]} in the timeline"
        wait = done.get(f"wait:{self._plan.approval}")
        if wait is None:
            reason = "the workflow of this server does not wait for the event that its input names"
            self._extras.append(("approval", reason))
        elif wait.data is None:
            return "it waited for its event in vain"
        return ""

    async def _ask_for_stats(self) -> Stats | None:
        try:
            return await self._client.stats()
        except TELLING as exc:
            self._extras.append(("server statistics", lack(exc) or str(exc)))
            return None
