"""Workflows in full: compensation, children, fan-out, waits, names that count once, versions."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, running
from tests.server.test_workflows import boom, kinds, ok, start, timeline
from trio_dispatch.server import Quirks, Server, Workflow, WorkflowError, WorkflowEvent


async def names(peer: Any, run_id: str) -> list[str]:
    return [name for name, _ in await timeline(peer, run_id)]


# Compensation


async def test_after_a_failure_what_was_done_is_undone_in_reverse_order(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    undone: list[object] = []

    async def room(number: int) -> dict[str, int]:
        return {"room": number}

    async def give_back(result: dict[str, int]) -> None:
        undone.append(result)

    async def note() -> None:
        undone.append("noted")

    @server.workflow("trip")
    async def trip(workflow: Workflow, input: Any) -> None:
        await workflow.step("hotel", room, 7, compensate=give_back)
        await workflow.step("mail", ok)
        await workflow.step("flight", ok, compensate=note)
        await workflow.step("charge", boom, compensate=note)

    async with running(server) as peer:
        run = await start(peer, "trip")
        assert run["state"] == "failed"
        assert await names(peer, run["run_id"]) == [
            "hotel",
            "mail",
            "flight",
            "compensate:flight",
            "compensate:hotel",
        ]
    assert undone == ["noted", {"room": 7}]
    assert server.runs()[0].error == 'workflow trip step "charge": boom'
    assert kinds(server)[-4:] == [
        ("workflow.step_failed", "charge"),
        ("workflow.step_completed", "compensate:flight"),
        ("workflow.step_completed", "compensate:hotel"),
        ("workflow.failed", ""),
    ]


async def test_a_compensation_that_fails_leaves_the_others_and_the_runs_error_alone(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("trip")
    async def trip(workflow: Workflow, input: Any) -> None:
        await workflow.step("hotel", ok, compensate=trio.lowlevel.checkpoint)
        await workflow.step("flight", ok, compensate=boom)
        raise KeyError("other")

    async with running(server) as peer:
        run = await start(peer, "trip")
        assert await names(peer, run["run_id"]) == ["hotel", "flight", "compensate:hotel"]
    assert server.runs()[0].error == "'other'"
    assert ("workflow.step_failed", "compensate:flight") in kinds(server)


async def test_a_run_that_succeeds_undoes_nothing(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("trip")
    async def trip(workflow: Workflow, input: Any) -> None:
        await workflow.step("hotel", ok, compensate=boom)
        with pytest.raises(ValueError, match="boom"):
            await workflow.step("charge", boom)

    async with running(server) as peer:
        run = await start(peer, "trip")
        assert run["state"] == "completed"
        assert await names(peer, run["run_id"]) == ["hotel"]


# Names


async def test_a_name_that_was_used_is_not_done_again(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    calls: list[str] = []

    async def call(text: str) -> str:
        calls.append(text)
        return text

    @server.workflow("item")
    async def item(workflow: Workflow, input: Any) -> Any:
        return input

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        results = [await workflow.step("s", call, text) for text in ("first", "second")]
        assert results == ["first", "first"]
        for _ in range(2):
            assert await workflow.parallel("g", ok, trio.lowlevel.checkpoint) == ["fine", None]
        assert [await workflow.child("item", n) for n in (1, 2)] == [1, 1]
        ids = {await workflow.spawn("item", n) for n in (1, 2)}
        assert len(ids) == 1
        assert [await workflow.fan_out("item", [n]) for n in (1, 2)] == [[1], [1]]
        before = trio.current_time()
        for _ in range(2):
            await workflow.sleep("nap", 5)
            assert await workflow.wait_for_event("e", timeout=5) is None
        assert trio.current_time() - before == pytest.approx(10)

    async with running(server) as peer:
        assert (await start(peer, "w"))["state"] == "completed", server.runs()
    assert calls == ["first"]
    assert len(server.runs("item")) == 3


async def test_a_failed_step_may_be_done_again(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    attempts: list[int] = []

    async def flaky() -> str:
        attempts.append(1)
        if len(attempts) < 3:
            raise ValueError("not yet")
        return "at last"

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        for _ in range(2):
            with pytest.raises(ValueError, match="not yet"):
                await workflow.step("s", flaky)
        assert await workflow.step("s", flaky) == "at last"

    async with running(server) as peer:
        assert (await start(peer, "w"))["state"] == "completed", server.runs()


# Children


async def test_a_spawned_child_goes_on_when_its_parent_has_ended(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("item")
    async def item(workflow: Workflow, input: Any) -> None:
        await workflow.step("process", trio.sleep, 5)

    @server.workflow("parent")
    async def parent(workflow: Workflow, input: Any) -> str:
        child_id = await workflow.spawn("item", {"n": 1})
        with pytest.raises(LookupError):
            await workflow.spawn("nobody")
        return child_id

    async with running(server) as peer:
        run = await start(peer, "parent")
        assert run["state"] == "completed", server.runs()
        (child,) = server.runs("item")
        assert (child.state, child.parent_run_id, child.input) == (
            "running",
            run["run_id"],
            {"n": 1},
        )
        (step,) = server.runs("parent")[0].steps
        assert (step.step_name, step.result_bytes) == ("spawn:item", child.id.encode())
        assert step.result == child.id.encode()  # no JSON, as on a real server
        await trio.sleep(6)
        assert server.runs("item")[0].state == "completed"
    done = [e for e in server.events if e.data.get("step_name") == "process"]
    assert done[0].data["elapsed_ms"] == 5_000


async def test_a_child_is_a_step_with_events(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("good")
    async def good(workflow: Workflow, input: Any) -> int:
        return 3

    @server.workflow("bad")
    async def bad(workflow: Workflow, input: Any) -> None:
        await workflow.step("s", boom)

    @server.workflow("parent")
    async def parent(workflow: Workflow, input: Any) -> None:
        await workflow.child("good")
        await workflow.child("bad")

    async with running(server) as peer:
        run = await start(peer, "parent")
        assert await timeline(peer, run["run_id"]) == [("child:good", 3)]
    error = 'child workflow "bad" failed: workflow bad step "s": boom'
    assert server.runs("parent")[0].error == error
    of_parent = [
        (event.type, event.data["step_name"], event.data.get("error"))
        for event in server.events
        if event.data["run_id"] == run["run_id"] and "step_name" in event.data
    ]
    assert of_parent == [
        ("workflow.step_completed", "child:good", None),
        ("workflow.step_failed", "child:bad", error),
    ]


async def test_fanning_out_runs_a_child_for_each_input_at_once(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("square")
    async def square(workflow: Workflow, input: int) -> int:
        await workflow.sleep("nap", input)
        return input * input

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        before = trio.current_time()
        assert await workflow.fan_out("square", [3, 1, 2]) == [9, 1, 4]
        assert trio.current_time() - before == pytest.approx(3)

    async with running(server) as peer:
        run = await start(peer, "w")
        assert run["state"] == "completed", server.runs()
        rows = await timeline(peer, run["run_id"])
        assert sorted(rows[:3]) == [
            ("child:square:0", 9),
            ("child:square:1", 1),
            ("child:square:2", 4),
        ]
        assert rows[3] == ("fanout:square", [9, 1, 4])
    assert {child.parent_run_id for child in server.runs("square")} == {run["run_id"]}


async def test_a_child_that_fails_ends_the_fan_out_and_is_named(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("item")
    async def item(workflow: Workflow, input: int) -> None:
        await workflow.sleep("nap", 1 if input == 1 else 3600)
        raise ValueError("boom")

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        with pytest.raises(WorkflowError):
            await workflow.fan_out("item", [0, 1])
        await workflow.fan_out("item", [0, 1])

    @server.workflow("none")
    async def none(workflow: Workflow, input: Any) -> None:
        await workflow.fan_out("nobody", [0])

    async with running(server) as peer:
        await start(peer, "w")
        await start(peer, "none")
    assert (
        server.runs("w")[0].error == 'workflow w fanout "item": fanout child "item:1" failed: boom'
    )
    assert server.runs("none")[0].error.endswith('no workflow registered for "nobody"')
    assert {run.error for run in server.runs("item")} == {"boom", "context canceled"}


# Waits


def waiting_server(got: list[Any], **options: Any) -> Server:
    server = Server(TOKENS, seed=1, **options)

    def note(event: WorkflowEvent | None) -> None:
        got.append(None if event is None else (event.name, event.payload))

    @server.workflow("any")
    async def any_of(workflow: Workflow, input: Any) -> None:
        note(await workflow.wait_for_any("red", "green", timeout=5))
        note(await workflow.wait_for_any("red", "green", timeout=5))

    @server.workflow("all")
    async def all_of(workflow: Workflow, input: Any) -> None:
        for event in await workflow.wait_for_all("red", "green", timeout=5):
            note(event)
        assert len(await workflow.wait_for_all("red", "green")) == 2

    @server.workflow("match")
    async def match(workflow: Workflow, input: Any) -> None:
        note(await workflow.wait_for_event("red", timeout=5, match=lambda e: e.payload == input))

    return server


async def post(peer: Any, name: str, payload: Any) -> None:
    await peer.call("workflow.event", {"name": name, "payload": payload})


async def test_a_wait_for_any_takes_the_first_and_leaves_the_others(
    autojump_clock: MockClock,
) -> None:
    got: list[Any] = []
    async with running(waiting_server(got), peers=2) as (peer, other):
        await peer.send(id="1", method="workflow.start", data={"name": "any"})
        await trio.sleep(1)
        await post(other, "green", 1)
        await post(other, "red", 2)
        run = (await peer.answer())["data"]
        assert run["state"] == "completed"
        # The second wait has the same name, and so the same event.
        assert got == [("green", 1), ("green", 1)]
        assert await names(other, run["run_id"]) == ["waitany:red,green"]


async def test_a_wait_for_any_ends_without_an_event(autojump_clock: MockClock) -> None:
    got: list[Any] = []
    async with running(waiting_server(got)) as peer:
        before = trio.current_time()
        run = await start(peer, "any")
        assert trio.current_time() - before == pytest.approx(5)
        assert got == [None, None]
        assert await timeline(peer, run["run_id"]) == [("waitany:red,green", None)]


async def test_a_wait_for_all_takes_one_of_each_in_the_order_of_the_names(
    autojump_clock: MockClock,
) -> None:
    got: list[Any] = []
    async with running(waiting_server(got), peers=2) as (peer, other):
        await post(other, "green", 1)
        await peer.send(id="1", method="workflow.start", data={"name": "all"})
        await trio.sleep(1)
        await post(other, "red", 2)
        run = (await peer.answer())["data"]
        assert run["state"] == "completed"
        assert got == [("red", 2), ("green", 1)]
        rows = await timeline(other, run["run_id"])
        assert [name for name, _ in rows] == ["waitall:green", "waitall:red", "waitall:red,green"]
        assert [event["name"] for event in rows[2][1]] == ["red", "green"]


async def test_a_wait_for_all_that_times_out_names_what_did_not_come(
    autojump_clock: MockClock,
) -> None:
    server = waiting_server([])
    async with running(server) as peer:
        await post(peer, "red", 1)
        run = await start(peer, "all")
        assert run["state"] == "failed"
        assert await names(peer, run["run_id"]) == ["waitall:red"]
    assert server.runs()[0].error == 'workflow all waitall: timeout waiting for event "green"'


@pytest.mark.parametrize("early", [True, False])
async def test_a_wait_for_a_match_leaves_what_does_not_match(
    autojump_clock: MockClock, early: bool
) -> None:
    got: list[Any] = []
    server = waiting_server(got)
    async with running(server, peers=2) as (peer, other):
        await post(other, "red", 8)
        if early:
            await post(other, "red", 7)
        await peer.send(id="1", method="workflow.start", data={"name": "match", "input": 7})
        await trio.sleep(1)
        if not early:
            await post(other, "red", 7)
        run = (await peer.answer())["data"]
        assert got == [("red", 7)]
        assert await names(other, run["run_id"]) == ["waitmatch:red"]
        assert server.statistics().events_waiting == 1


async def test_on_a_database_an_event_that_does_not_match_blocks_the_later_ones(
    autojump_clock: MockClock,
) -> None:
    got: list[Any] = []
    async with running(waiting_server(got, quirks=Quirks.postgres()), peers=2) as (peer, other):
        await post(other, "red", 8)
        await peer.send(id="1", method="workflow.start", data={"name": "match", "input": 7})
        await trio.sleep(1)
        await post(other, "red", 7)
        await peer.answer()
        assert got == [None]


async def test_kept_events_of_one_name_come_in_any_order_but_on_a_database(
    autojump_clock: MockClock,
) -> None:
    async def order(quirks: Quirks) -> list[Any]:
        got: list[Any] = []
        server = Server(TOKENS, seed=1, quirks=quirks)

        @server.workflow("w")
        async def w(workflow: Workflow, input: Any) -> None:
            for _ in range(10):
                event = await workflow.wait_for_event("e")
                assert event is not None
                got.append(event.payload)
                workflow._run.steps.clear()

        async with running(server) as peer:
            for n in range(10):
                await post(peer, "e", n)
            await start(peer, "w")
        return got

    memory = await order(Quirks())
    assert memory != list(range(10))
    assert sorted(memory) == list(range(10))
    assert await order(Quirks()) == memory
    assert await order(Quirks.postgres()) == list(range(10))


async def test_one_event_may_release_two_runs_on_a_database(autojump_clock: MockClock) -> None:
    async def released(quirks: Quirks) -> list[int]:
        server = Server(TOKENS, seed=1, quirks=quirks)
        counts: list[int] = []

        @server.workflow("w")
        async def w(workflow: Workflow, input: Any) -> None:
            await workflow.wait_for_event("e")

        async with running(server, peers=3) as (one, two, other):
            for _ in range(40):
                for peer in (one, two):
                    await peer.send(id="1", method="workflow.start", data={"name": "w"})
                await trio.sleep(1)
                await post(other, "e", 1)
                await trio.sleep(1)
                counts.append(2 - len(server.runs(state="running")))
                if counts[-1] == 1:
                    await post(other, "e", 2)
                await one.answer()
                await two.answer()
        return counts

    assert set(await released(Quirks())) == {1}
    assert set(await released(Quirks.postgres())) == {1, 2}


async def test_an_event_without_payload_has_none_in_its_row(autojump_clock: MockClock) -> None:
    server = waiting_server([])
    async with running(server) as peer:
        await peer.call("workflow.event", {"name": "green"})
        run = await start(peer, "any")
        ((_, event),) = await timeline(peer, run["run_id"])
        assert "payload" not in event


# Versions


async def test_new_runs_get_the_latest_version_and_old_ones_continue_with_theirs(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    done: list[tuple[int, str]] = []

    @server.workflow("w")
    async def first(workflow: Workflow, input: Any) -> None:
        await workflow.wait_for_event("go")
        done.append((workflow.version, workflow.run_id))

    async with running(server) as peer:
        await peer.send(id="1", method="workflow.start", data={"name": "w"})
        await trio.sleep(1)

    @server.workflow("w", version=2)
    async def second(workflow: Workflow, input: Any) -> None:
        done.append((workflow.version, workflow.run_id))

    with pytest.raises(ValueError, match="in version 2 already"):
        server.workflow("w", version=2)
    with pytest.raises(ValueError, match="at least 1"):
        server.workflow("other", version=0)

    async with running(server) as peer:
        new = await start(peer, "w")
        assert (await peer.call("workflow.get", {"run_id": new["run_id"]}))["version"] == 2
        await post(peer, "go", None)
        await server.idle()
    old = server.runs()[0].id
    assert done == [(2, new["run_id"]), (1, old)]
    assert [run.version for run in server.runs()] == [1, 2]


async def test_a_run_whose_workflow_is_gone_stays_running(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        await workflow.wait_for_event("go")

    async with running(server) as peer:
        await peer.send(id="1", method="workflow.start", data={"name": "w"})
        await trio.sleep(1)
    del server._registry.workflows["w"]
    async with server.run():
        await trio.sleep(1)
    assert server.runs()[0].state == "running"
    assert "no workflow w in version 1" in caplog.text


async def test_a_step_that_is_not_async_says_so(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        not_async: Any = len
        await workflow.step("count", not_async, [])

    async with running(server) as peer:
        await start(peer, "w")
    assert "step 'count' needs an async function" in server.runs()[0].error


async def test_the_payload_of_an_event_is_read_as_a_type(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    got: list[object] = []

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        event = await workflow.wait_for_event("e")
        assert event is not None
        got.extend([event.payload, event.payload_as(dict[str, float]), event.payload_bytes])

    async with running(server) as peer:
        await post(peer, "e", {"amount": 1})
        await start(peer, "w")
    assert got[:2] == [{"amount": 1}, {"amount": 1.0}]
    assert got[2] == b'{"amount": 1}'
