"""Workflow runs: steps, groups, waits, sleeps, children, and how they fail."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, Peer, connect, running
from trio_dispatch.server import Server, Workflow, WorkflowError


async def ok() -> str:
    return "fine"


async def boom() -> None:
    raise ValueError("boom")


async def timeline(peer: Peer, run_id: str) -> list[tuple[str, Any]]:
    steps = await peer.call("workflow.timeline", {"run_id": run_id})
    return [
        (step["step_name"], json.loads(base64.b64decode(step["data"])) if "data" in step else None)
        for step in steps
    ]


async def start(peer: Peer, name: str, input: Any = None) -> Any:
    return await peer.call("workflow.start", {"name": name, "input": input})


def kinds(server: Server) -> list[tuple[str, str]]:
    return [(event.type, event.data.get("step_name", "")) for event in server.events]


async def test_a_step_calls_its_function_and_keeps_the_result_as_json(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        async def add(a: int, b: int) -> dict[str, int]:
            return {"sum": a + b}

        assert await workflow.step("add", add, input, 2) == {"sum": 3}
        await workflow.step("nothing", trio.sleep, 0)

    async with running(server) as peer:
        run = await start(peer, "w", 1)
        assert run["state"] == "completed"
        rows = [("add", {"sum": 3}), ("nothing", None)]
        assert await timeline(peer, run["run_id"]) == rows
        assert server.runs()[0].steps[0].result_bytes == b'{"sum":3}'


async def test_a_failed_step_fails_the_run_and_names_itself(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        await workflow.step("good", ok)
        await workflow.step("bad", boom)

    async with running(server) as peer:
        run = await start(peer, "w")
        assert run["state"] == "failed"
        row = await peer.call("workflow.get", {"run_id": run["run_id"]})
        assert row["error"] == 'workflow w step "bad": boom'
        assert "output" not in row
        assert await timeline(peer, run["run_id"]) == [("good", "fine")]
    assert kinds(server) == [
        ("workflow.started", ""),
        ("workflow.step_completed", "good"),
        ("workflow.step_failed", "bad"),
        ("workflow.failed", ""),
    ]
    assert server.events[2].data["error"] == "boom"


async def test_a_run_may_catch_a_failed_step_and_do_it_again(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        with pytest.raises(ValueError, match="boom"):
            await workflow.step("s", boom)
        await workflow.step("s", ok)
        raise KeyError("other")

    async with running(server) as peer:
        run = await start(peer, "w")
        assert await timeline(peer, run["run_id"]) == [("s", "fine")]
    assert server.runs()[0].error == "'other'"


async def test_a_result_without_json_form_fails_its_step(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        async def odd() -> object:
            return object()

        await workflow.step("odd", odd)

    async with running(server) as peer:
        assert (await start(peer, "w"))["state"] == "failed"
    assert 'step "odd"' in server.runs()[0].error


async def test_parallel_steps_run_at_once_and_give_their_results_in_order(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        async def late() -> str:
            await trio.sleep(2)
            return "late"

        began = trio.current_time()
        assert await workflow.parallel("grp", late, ok, late) == ["late", "fine", "late"]
        assert trio.current_time() - began == 2
        assert await workflow.parallel("none") == []

    async with running(server) as peer:
        run = await start(peer, "w")
        assert run["state"] == "completed", server.runs()
        rows = await timeline(peer, run["run_id"])
    assert rows[0] == ("parallel:grp:1", "fine")
    assert sorted(rows[1:3]) == [("parallel:grp:0", "late"), ("parallel:grp:2", "late")]
    assert rows[3:] == [("parallel:grp", None), ("parallel:none", None)]
    assert ("workflow.step_completed", "parallel:grp") not in kinds(server)


async def test_the_first_failure_of_a_group_cancels_the_others_and_comes_out_bare(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        await workflow.parallel("grp", trio.sleep_forever, boom)

    async with running(server) as peer:
        run = await start(peer, "w")
        assert await timeline(peer, run["run_id"]) == []
    assert server.runs()[0].error == 'workflow w parallel "grp": boom'
    errors = {e.data["step_name"]: e.data["error"] for e in server.events if "step" in e.type}
    assert errors == {"parallel:grp:0": "context canceled", "parallel:grp:1": "boom"}


async def test_a_sleep_has_a_row_and_no_event(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3600)

    async with running(server) as peer:
        run = await start(peer, "w")
        assert await timeline(peer, run["run_id"]) == [("sleep:nap", None)]
    assert kinds(server) == [("workflow.started", ""), ("workflow.completed", "")]
    assert server.events[1].data["elapsed_ms"] == 3_600_000


def waiting_server(timeout: float | None = 60) -> tuple[Server, list[Any]]:
    server = Server(TOKENS)
    got: list[Any] = []

    @server.workflow("wait")
    async def wait(workflow: Workflow, input: Any) -> None:
        event = await workflow.wait_for_event("go", timeout=timeout)
        got.append(None if event is None else event.payload)

    return server, got


async def test_an_event_releases_the_run_that_waits_for_it(autojump_clock: MockClock) -> None:
    server, got = waiting_server()
    async with running(server, peers=2) as (a, b):
        await a.send(id="1", method="workflow.start", data={"name": "wait"})
        await trio.sleep(10)
        sent = await b.call("workflow.event", {"name": "go", "payload": {"by": "me"}})
        run_id = (await a.answer())["data"]["run_id"]
        ((name, event),) = await timeline(b, run_id)
    assert got == [{"by": "me"}]
    assert name == "wait:go"
    assert event["id"] == sent["event_id"]
    assert event["acked"] is True
    assert base64.b64decode(event["payload"]) == b'{"by": "me"}'
    assert (event["scope_app_id"], event["scope_org_id"]) == ("app1", "org1")


async def test_a_wait_that_times_out_gives_none_and_the_run_goes_on(
    autojump_clock: MockClock,
) -> None:
    server, got = waiting_server()
    async with running(server) as peer:
        run = await start(peer, "wait")
        assert run["state"] == "completed"
        assert await timeline(peer, run["run_id"]) == [("wait:go", None)]
        # The wait is over: this one is for somebody else.
        await peer.call("workflow.event", {"name": "go"})
    assert got == [None]
    assert server.statistics().events_waiting == 1


async def test_an_event_sent_early_satisfies_a_later_wait(autojump_clock: MockClock) -> None:
    server, got = waiting_server(timeout=0)
    async with running(server) as peer:
        await peer.call("workflow.event", {"name": "go", "payload": 1})
        await peer.call("workflow.event", {"name": "other", "payload": 2})
        assert server.statistics().events_waiting == 2
        await start(peer, "wait")
        await start(peer, "wait")
    assert got == [1, None]


async def test_one_event_releases_one_waiter_the_longest_first(autojump_clock: MockClock) -> None:
    server, got = waiting_server(timeout=None)
    async with running(server, peers=3) as (a, b, c):
        for peer in (a, b):
            await peer.send(id="1", method="workflow.start", data={"name": "wait"})
            await trio.sleep(1)
        await c.call("workflow.event", {"name": "go", "payload": 1})
        await a.answer()
        await trio.sleep(1000)
        assert got == [1]
        assert len(server.runs(state="running")) == 1
        await c.call("workflow.event", {"name": "go"})
        await b.answer()
    assert got == [1, None]


async def test_an_event_that_comes_as_its_wait_is_cancelled_is_not_lost(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    got: list[Any] = []

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        async def wait() -> None:
            got.append(await workflow.wait_for_event("go"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
            server._engine.post_event("go", b"1", workflow.identity)
        event = await workflow.wait_for_event("go", timeout=0)
        assert event is not None
        got.append(event.payload)

    async with running(server) as peer:
        assert (await start(peer, "w"))["state"] == "completed", server.runs()
    assert got == [1]


async def test_a_child_is_a_run_of_its_own_and_gives_its_result(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("parent")
    async def parent(workflow: Workflow, input: Any) -> None:
        assert await workflow.child("child", [1, 2]) == {"sum": 3}
        with pytest.raises(WorkflowError, match="boom"):
            await workflow.child("bad-child")

    @server.workflow("child")
    async def child(workflow: Workflow, input: list[int]) -> dict[str, int]:
        assert workflow.parent_run_id
        return {"sum": sum(input)}

    @server.workflow("bad-child")
    async def bad_child(workflow: Workflow, input: Any) -> None:
        await workflow.step("s", boom)

    async with running(server) as peer:
        run = await start(peer, "parent")
        assert run["state"] == "completed", server.runs()
        assert await timeline(peer, run["run_id"]) == [("child:child", {"sum": 3})]
        child_id = server.runs("child")[0].id
        row = await peer.call("workflow.get", {"run_id": child_id})
        assert row["parent_run_id"] == run["run_id"]
    assert server.runs("bad-child")[0].error == 'workflow bad-child step "s": boom'


async def test_a_child_that_nobody_knows_fails_the_run(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("parent")
    async def parent(workflow: Workflow, input: Any) -> None:
        await workflow.child("nobody")

    async with running(server) as peer:
        assert (await start(peer, "parent"))["state"] == "failed"
    assert server.runs()[0].error == 'no workflow registered for "nobody"'


async def test_a_cancelled_call_of_a_child_cancels_the_child(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("parent")
    async def parent(workflow: Workflow, input: Any) -> None:
        with trio.move_on_after(1):
            await workflow.child("child")
        await trio.sleep(1)

    @server.workflow("child")
    async def child(workflow: Workflow, input: Any) -> None:
        await workflow.step("long", trio.sleep_forever)

    async with running(server) as peer:
        assert (await start(peer, "parent"))["state"] == "completed"
    (run,) = server.runs("child")
    assert (run.state, run.error) == ("failed", 'workflow child step "long": context canceled')


async def test_runs_and_their_events_are_told_as_they_are(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        assert workflow.identity.subject == "demo"
        assert workflow.name == "w"
        assert workflow.run_id in repr(workflow)
        await workflow.sleep("nap", 1)

    async with running(server, peers=2) as (a, b):
        await a.send(id="1", method="workflow.start", data={"name": "w"})
        await trio.sleep(0.5)
        (run,) = server.runs(state="running")
        row = await b.call("workflow.get", {"run_id": run.id})
        assert (row["state"], row["version"]) == ("running", 1)
        assert "input" not in row
        assert "completed_at" not in row
        await a.answer()
    assert server.runs(name="w", state="completed")[0].completed_at is not None
    assert server.runs(name="x") == []


async def test_whatever_a_workflow_raises_fails_only_its_run(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(boom)
            await trio.sleep_forever()

    @server.workflow("odd")
    async def odd(workflow: Workflow, input: Any) -> None:
        raise GeneratorExit

    async with running(server) as peer:
        for name in ("w", "odd"):
            assert (await start(peer, name))["state"] == "failed"
        other = await connect(server)
        await other.call("stats")
    assert server.runs("odd")[0].error == "GeneratorExit"
