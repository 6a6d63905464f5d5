"""The demo's scenario, in memory and under a virtual clock: what it does, skips and reports."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import trio
import trio.testing

from tests.cli.demonstrating import foreign_server, show
from trio_dispatch.cli.demo.clean_up import Cleaned, clean_up, left_behind
from trio_dispatch.cli.demo.plan import CARD, EMAIL, IMAGE, REPORT, STOCK, make_plan
from trio_dispatch.cli.demo.progress import Board, Line
from trio_dispatch.cli.demo.report import Outcome, Report
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.server import make_server
from trio_dispatch.cli.exits import Exit
from trio_dispatch.server import Server, Workflow

NOBODY = "no worker finished a job of this name in 5 s; perhaps none knows it"
ROLES = (EMAIL, IMAGE, REPORT, STOCK, CARD)


def outcomes(report: Report) -> dict[str, Outcome]:
    return {kind.kind.role: kind.outcome for kind in report.kinds}


async def test_on_its_own_server_everything_ends_as_it_should(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = make_plan()
    lines: list[Line] = []
    server = make_server(plan, "token")
    async with server.open_client() as client:
        board = Board(plan, lines.append)
        report = await Demo(client, board).run()

    assert report.verdict[0] is Exit.OK
    assert report.skipped == report.failures == []
    assert 3 < report.seconds < 8

    # The figures are the server's.
    assert sum(len(kind.jobs) for kind in report.kinds) == len(server.jobs()) >= 24
    for kind in report.kinds:
        views = {view.id: view for view in server.jobs(kind.kind.name)}
        assert {job.id: job.state for job in kind.jobs} == {i: v.state for i, v in views.items()}
        assert kind.failed_attempts == sum(view.retry_count for view in views.values())
    by_role = {kind.kind.role: kind for kind in report.kinds}
    assert by_role[STOCK].failed_attempts == 9
    assert by_role[CARD].states == {"failed": 3}
    assert by_role[CARD].dead == 3
    assert len({kind.kind.queue for kind in report.kinds}) > 2
    assert len({kind.kind.priority for kind in report.kinds}) > 2

    # The live view came to the same.
    assert {row.kind.role: row.counts() for row in board.rows} == {
        role: kind.states for role, kind in by_role.items()
    }

    # The approval was published while the run waited for it, and ended the wait.
    [run] = server.runs()
    assert report.workflow.run is not None
    assert (report.workflow.run.id, run.state) == (run.id, "completed")
    names = [step.step_name for step in report.workflow.timeline]
    assert {step.name for step in plan.steps} < set(names)
    texts = [line.text for line in lines if line.subject == plan.workflow]
    waiting = texts.index(f"waiting for the event {plan.approval}")
    assert texts.index("step parallel:check:2 completed") < waiting
    assert waiting < texts.index("step charge completed") < texts.index("completed")
    assert server.statistics().events_waiting == 0
    assert all(step.at is not None for step in board.run.steps)


async def test_what_a_foreign_server_lacks_is_skipped_by_name(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server(jobs=[EMAIL, IMAGE, STOCK], queues=["email", "default"])
    report, board, lines = await show(server)
    assert report.verdict[0] is Exit.OK
    assert outcomes(report) == {
        EMAIL: Outcome.OK,
        IMAGE: Outcome.SKIPPED,
        REPORT: Outcome.SKIPPED,
        STOCK: Outcome.OK,
        CARD: Outcome.SKIPPED,
    }
    assert dict(report.skipped) == {
        "demo-process-image": "no worker took a job from queue 'images' in 5 s",
        "demo-build-report": NOBODY,
        "demo-charge-card": NOBODY,
        "demo-order-pipeline": "no workflow of this name is registered",
    }
    told = {line.subject for line in lines if line.text.startswith("skipped: ")}
    assert told == set(dict(report.skipped))
    # Nothing is left running for ever: one job went ahead of each kind, and was cancelled.
    assert [job.state for job in server.jobs("demo-charge-card")] == ["cancelled"]
    assert not any(row.open_jobs() for row in board.rows if row.skipped)


async def test_job_started_for_a_name_that_no_worker_knows_deceives_nobody(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A real server publishes it for any name (recording job_without_worker)."""
    server = foreign_server()
    async with server.open_client() as client, trio.open_nursery() as nursery:

        async def pretend() -> None:
            async with client.subscribe("jobs") as events:
                async for event in events:
                    if event.type == "job.enqueued":
                        server.publish("job.started", event.topic, event.data)

        nursery.start_soon(pretend)
        report, board, _ = await show(server)
        nursery.cancel_scope.cancel()
    assert report.seconds < 6
    assert set(outcomes(report).values()) == {Outcome.SKIPPED}
    assert [job.state for job in server.jobs()] == ["cancelled"] * len(ROLES)
    assert not left_behind(board)


async def test_what_has_not_ended_is_cancelled_and_the_run_is_let_go(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server(jobs=[IMAGE])
    tried = 0

    @server.job("demo-send-email")
    async def some_endless(payload: object) -> None:
        nonlocal tried
        tried += 1
        if 1 < tried < 7:
            await trio.sleep_forever()

    @server.workflow("demo-order-pipeline")
    async def busy(workflow: Workflow, order: Any) -> None:
        for n in range(1000):
            await workflow.step(f"step {n}", trio.sleep, 0.5)

    async with server.open_client() as client:
        board = Board(make_plan(own_server=False))
        with trio.move_on_after(9):
            await Demo(client, board).run()
        assert left_behind(board)
        cleaned = await clean_up(client, board)
        states = Counter(job.state for job in server.jobs("demo-send-email"))
    assert cleaned == Cleaned(cancelled=5, approved=True)
    assert states == {
        "completed": 7,
        "cancelled": 5,
    }
    # What had ended is not touched: cancelling it would rewrite its state.
    assert {job.state for job in server.jobs("demo-process-image")} == {"completed"}
    assert server.statistics().events_waiting == 1


async def test_a_server_that_has_nothing_is_no_success(
    autojump_clock: trio.testing.MockClock,
) -> None:
    report, _, _ = await show(foreign_server())
    assert set(outcomes(report).values()) == {Outcome.SKIPPED}
    assert report.verdict == (
        Exit.FAILED,
        "Everything was skipped: this server has nothing that the demo needs.",
    )


async def test_without_the_subscribe_scope_everything_is_polled(
    autojump_clock: trio.testing.MockClock,
) -> None:
    scopes = {"job:read", "job:write", "workflow:read", "workflow:write"}
    report, board, _ = await show(foreign_server(jobs=ROLES, workflow=True, scopes=scopes))
    assert report.verdict[0] is Exit.OK
    assert set(outcomes(report).values()) == {report.workflow.outcome} == {Outcome.OK}
    assert not board.listening
    assert dict(report.skipped) == {
        "live events": "the token may not do this (subscribe: 403 insufficient permissions)",
        "server statistics": "the token may not do this (stats: 403 insufficient permissions)",
    }


@pytest.mark.parametrize(
    ("scopes", "reason"),
    [
        (
            {"job:read", "workflow:read", "subscribe", "stats:read"},
            "the token may not do this (job.enqueue: 403 insufficient permissions)",
        ),
        (
            {"job:write", "workflow:write", "stats:read"},
            "enqueued, but the token may not ask for jobs (job.get: 403 insufficient permissions)",
        ),
    ],
)
async def test_a_token_that_may_not_is_named_as_the_reason(
    scopes: set[str], reason: str, autojump_clock: trio.testing.MockClock
) -> None:
    report, _, _ = await show(foreign_server(jobs=ROLES, workflow=True, scopes=scopes))
    skipped = dict(report.skipped)
    assert {skipped[f"demo-{role}"] for role in ROLES} == {reason}
    assert skipped["demo-order-pipeline"].startswith("the token may not do this (workflow.")
    assert report.verdict[0] is Exit.FAILED


async def test_jobs_that_end_otherwise_are_failures(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server(jobs=[CARD])

    @server.job("demo-send-email", max_retries=0)
    async def broken(payload: object) -> None:
        raise ValueError("no such\x1b mailbox")

    @server.job("demo-sync-stock")
    async def too_good(payload: object) -> None:
        pass

    report, _, _ = await show(server)
    assert report.verdict == (Exit.FAILED, "Not everything ended as it should.")
    assert dict(report.failures) == {
        "demo-send-email": "should all be completed, but 12 failed (no such\x1b mailbox)",
        "demo-sync-stock": "should have failed at least once each",
    }
    assert outcomes(report)[CARD] is Outcome.OK


async def test_jobs_that_never_end_meet_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server()
    tried = 0

    @server.job("demo-send-email")
    async def endless_but_once(payload: object) -> None:
        nonlocal tried
        tried += 1
        if tried > 1:
            await trio.sleep_forever()

    report, _, _ = await show(server, deadline=12)
    assert dict(report.failures) == {"demo-send-email": "not ended after 12 s"}
    assert report.seconds == pytest.approx(12, abs=0.1)


def workflow_server(function: Any) -> Server:
    server = foreign_server(jobs=[EMAIL])
    server.workflow("demo-order-pipeline")(function)
    return server


async def test_a_workflow_that_fails_is_a_failure(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def fails(workflow: Workflow, order: Any) -> None:
        await workflow.wait_for_event(order["approval"], timeout=60)
        raise ValueError("out of tea")

    report, _, _ = await show(workflow_server(fails))
    assert dict(report.failures) == {"demo-order-pipeline": "the run failed: out of tea"}
    assert report.verdict[0] is Exit.FAILED


async def test_a_workflow_that_never_ends_meets_the_deadline(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def endless(workflow: Workflow, order: Any) -> None:
        await trio.sleep_forever()

    report, _, _ = await show(workflow_server(endless), deadline=10)
    assert dict(report.failures) == {"demo-order-pipeline": "not ended after 10 s"}
    assert report.workflow.run is not None
    assert report.workflow.run.state == "running"


async def test_a_workflow_that_does_not_wait_skips_the_approval(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def hasty(workflow: Workflow, order: Any) -> None:
        await workflow.sleep("nap", 0.1)

    report, _, _ = await show(workflow_server(hasty))
    assert report.workflow.outcome is Outcome.OK
    assert dict(report.skipped)["approval"].startswith("the workflow of this server does not wait")


async def test_other_runs_and_jobs_are_not_taken_for_ours(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server(jobs=ROLES, workflow=True)
    async with server.open_client() as other, trio.open_nursery() as nursery:

        async def start_others() -> None:
            await trio.sleep(0.001)
            order = make_plan(own_server=False).order
            nursery.start_soon(other.start_workflow, "demo-order-pipeline", order)
            for _ in range(5):
                await other.enqueue("demo-send-email", {"seconds": 0.1}, queue="email")

        nursery.start_soon(start_others)
        report, board, _ = await show(server)
        nursery.cancel_scope.cancel()
    assert report.verdict[0] is Exit.OK
    assert report.workflow.run is not None
    assert report.workflow.run.input == report.plan.order
    assert len(server.runs()) == 2
    assert sum(board.rows[0].counts().values()) == 12
    assert len(server.jobs("demo-send-email")) == 17
