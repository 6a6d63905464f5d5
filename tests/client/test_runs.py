"""Runs that this client starts: known while they run, told apart, followed to their true end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.client.run_support import EVENTS_OF_THREE_SECONDS, make_run_server
from tests.client.support import WEBSOCKETS, memory_client, open_memory_client, through
from trio_dispatch import (
    Client,
    ConnectionLost,
    NotFound,
    RunHandle,
    RunNotKnown,
    WorkflowFailed,
)
from trio_dispatch._client.opening import running
from trio_dispatch.testing import FaultyProxy

pytestmark = pytest.mark.wires(*WEBSOCKETS)


async def test_the_handle_is_known_at_once_and_its_events_come_as_they_happen(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_run_server()) as client:
        start = trio.current_time()
        run = await client.start_workflow("three-seconds", {"n": 1})
        assert trio.current_time() - start <= 0.1
        assert (run.known, run.state, run.name) == (True, "running", "three-seconds")
        assert "running" in repr(run)
        seen: list[tuple[float, str]] = []
        async with run.events() as events:
            async for event in events:
                seen.append((round(trio.current_time() - start, 1), event.type))
                assert event.run_id == run.run_id
        assert seen == [
            (0, "workflow.started"),
            (0, "workflow.step_completed"),
            (3, "workflow.step_completed"),
            (3, "workflow.completed"),
        ]
        ended = await run.wait()
        assert (ended.state, run.state, ended.input) == ("completed", "completed", {"n": 1})
        async with run.events() as again:  # whenever it is opened
            assert [event.type async for event in again] == [kind for _, kind in seen]
        assert [step.step_name for step in await run.timeline()] == ["first", "sleep:nap", "last"]
        await trio.sleep(1)
        assert client.statistics().wanted_channels == 0


async def test_equal_starts_of_two_clients_are_all_told_apart(autojump_clock: object) -> None:
    server = make_run_server()
    handles: dict[str, list[RunHandle]] = {"one": [], "two": []}
    events: dict[str, list[str]] = {}

    async def start(client: Client, whose: str) -> None:
        run = await client.start_workflow("three-seconds", {"same": True})
        assert run.known
        handles[whose].append(run)
        async with run.events() as stream:
            got = [event async for event in stream]
        assert {event.run_id for event in got} == {run.run_id}
        events[run.run_id] = [event.type for event in got]

    async with (
        open_memory_client(server, max_concurrent_runs=32) as one,
        running(memory_client(server, max_concurrent_runs=32)) as two,
        trio.open_nursery() as nursery,
    ):
        for _ in range(32):
            nursery.start_soon(start, one, "one")
            nursery.start_soon(start, two, "two")
    mine, theirs = ({run.run_id for run in handles[whose]} for whose in ("one", "two"))
    assert len(mine) == len(theirs) == 32
    assert not mine & theirs
    assert mine | theirs == {run.id for run in server.runs()}
    assert {len(kinds) for kinds in events.values()} == {4}


async def test_an_approval_on_one_client(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("approval", {"order": 1})
        assert (await run.refresh()).state == "running"
        await client.publish_event("approved", {"by": "someone"})
        assert (await run.wait()).state == "completed"
        assert trio.current_time() < 2


async def test_many_approvals_none_starves_and_the_waiting_ones_show(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    ended: list[str] = []
    async with open_memory_client(server, max_concurrent_runs=8) as client:

        async def one(n: int) -> None:
            run = await client.start_workflow("approval", {"order": n})
            ended.append((await run.wait()).state)

        async with trio.open_nursery() as nursery:
            for n in range(32):
                nursery.start_soon(one, n)
            await trio.sleep(1)
            statistics = client.statistics()
            assert (statistics.runs, statistics.runs_waiting) == (8, 24)
            for _ in range(32):
                await client.publish_event("approved")
                await trio.sleep(0.1)
        assert ended == ["completed"] * 32
        assert trio.current_time() < 10


@pytest.mark.parametrize("which", ["run", "main", "both"])
async def test_the_handle_ends_with_the_truth_whichever_connection_is_cut(
    autojump_clock: object, which: str
) -> None:
    server = make_run_server()
    async with (
        server.run(),
        FaultyProxy.in_memory(server.open_stream) as main,
        FaultyProxy.in_memory(server.open_stream) as runs,
    ):
        client = memory_client(server)

        async def to_main(address: object) -> trio.abc.Stream:
            return await main.open_stream()

        async def to_runs(address: object) -> trio.abc.Stream:
            return await runs.open_stream()

        client = through(client, main=to_main)
        client = through(client, runs=to_runs)
        async with running(client):
            run = await client.start_workflow("three-seconds", {"n": 1})
            assert run.known
            await trio.sleep(1)
            if which in ("run", "both"):
                assert runs.drop() == 1
            if which in ("main", "both"):
                assert main.drop() == 1
            async with run.events() as events:
                kinds = [event.type async for event in events]
            assert (await run.wait()).state == "completed"
            assert kinds[:2] == ["workflow.started", "workflow.step_completed"]
            assert kinds[-1] == "workflow.completed"
            assert ("stream.gap" in kinds) == (which != "main")


async def test_a_run_connection_lost_before_the_run_is_known(autojump_clock: object) -> None:
    server = make_run_server()
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as runs:
        client = memory_client(server, "write-only")

        async def to_runs(address: object) -> trio.abc.Stream:
            return await runs.open_stream()

        client = through(client, runs=to_runs)
        async with running(client):
            run = await client.start_workflow("three-seconds", {"n": 1})
            assert not run.known
            runs.drop()
            with pytest.raises(ConnectionLost) as caught:
                await run.wait()
            assert caught.value.maybe_delivered


@pytest.mark.parametrize("input", [None, 7, "text", True, 1.5])
async def test_scalar_inputs_are_known_when_they_are_answered(
    autojump_clock: object, input: object
) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        start = trio.current_time()
        run = await client.start_workflow("three-seconds", input)
        assert trio.current_time() - start == pytest.approx(2, abs=0.01)
        assert (run.known, run.state) == (False, "running")
        with pytest.raises(RunNotKnown, match="wait_known"):
            _ = run.run_id
        with pytest.raises(RunNotKnown):
            await run.refresh()
        assert await run.wait_known() == server.runs()[0].id
        assert trio.current_time() - start == pytest.approx(3, abs=0.01)
        assert (await run.wait()).input == input
        async with run.events() as events:
            assert [event.type async for event in events] == EVENTS_OF_THREE_SECONDS


async def test_a_huge_input_is_known_at_once(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("three-seconds", {"text": "x" * 2**20})
        assert run.known
        assert len((await run.wait()).input_as(dict[str, str])["text"]) == 2**20


async def test_without_the_subscribe_scope_the_answer_tells(autojump_clock: object) -> None:
    server = make_run_server()
    async with open_memory_client(server, "no-subscribe") as client:
        run = await client.start_workflow("three-seconds", {})
        assert not run.known
        assert (await run.wait()).state == "completed"


async def test_without_the_scope_to_read_it_does_not_ask_again_and_again(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    async with open_memory_client(server, "no-read") as client:
        run = await client.start_workflow("three-seconds", {})
        assert not run.known
        assert await run.wait_known() == server.runs()[0].id
        main = next(c for c in server.connections if c.session_id == client.session_id)
        assert main.frames <= 6  # auth, credits, subscribe, one refused look, unsubscribe


async def test_a_server_that_stores_inputs_in_another_form_stops_the_tagging(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    start_run = server._engine.start_run

    def start_compact(*args: Any, **options: Any) -> Any:
        run = start_run(*args, **options)
        row: Any = getattr(run, "row", run)
        row.input = msgspec.json.encode(msgspec.json.decode(row.input))
        return run

    server._engine.start_run = start_compact  # type: ignore[method-assign]
    async with open_memory_client(server) as client:
        run = await client.start_workflow("three-seconds", {"n": 1})
        assert not run.known
        assert (await run.wait()).input == {"n": 1}
        again = await client.start_workflow("three-seconds", {"n": 2})
        assert (await again.wait()).input == {"n": 2}
        assert [r.input_bytes for r in server.runs()] == [b'{"n":1}', b'{"n":2}']
        assert client._run_starts.matching.tagging is False


async def test_foreign_starts_are_looked_up_once_each_and_never_taken(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    async with (
        open_memory_client(server, max_concurrent_runs=8) as client,
        running(memory_client(server, max_concurrent_runs=40)) as foreign,
        trio.open_nursery() as nursery,
    ):
        looked_up: list[str] = []
        real = client._calls.get_workflow

        async def counted(run_id: str) -> Any:
            looked_up.append(run_id)
            return await real(run_id)

        client._calls.get_workflow = counted  # type: ignore[method-assign]
        for _ in range(40):
            nursery.start_soon(foreign.run_workflow, "three-seconds", {"n": 1})
        run = await client.start_workflow("three-seconds", {"n": 1})
        assert run.known
        stored = {view.id: view.input_bytes for view in server.runs()}
        assert stored[run.run_id] == run._record.text
        assert 1 <= len(looked_up) == len(set(looked_up)) <= 41
        assert (await run.wait()).state == "completed"


async def test_a_failed_run_and_a_refused_one(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("order-pipeline", {"items": []})
        with pytest.raises(WorkflowFailed, match="no items"):
            await run.wait()
        assert run.state == "failed"
        with pytest.raises(NotFound):
            await client.get_workflow("wfrun_01h2xcejqtf2nbrexx3vqjhp41")


async def test_connections_are_used_again_and_checked_before(autojump_clock: object) -> None:
    server = make_run_server()
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as runs:
        client = memory_client(server)

        async def to_runs(address: object) -> trio.abc.Stream:
            return await runs.open_stream()

        client = through(client, runs=to_runs)
        async with running(client):
            for _ in range(5):
                await client.run_workflow("nap")
            assert runs.statistics().accepted == 1
            runs.stall()  # half-open: nothing says so, but it does not answer
            before = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.run_workflow, "nap")
                await trio.sleep(1)
                runs.resume()
            runs.drop()
            await client.run_workflow("nap")
            assert trio.current_time() - before < 12
            assert {run.state for run in server.runs()} == {"completed"}
            assert len(server.runs()) == 7
