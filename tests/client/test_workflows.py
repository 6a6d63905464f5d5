"""Workflows through the client: started on a connection of their own, watched, waited for."""

from __future__ import annotations

import pytest
import trio

import trio_dispatch
from tests.client.support import WEBSOCKETS, make_server, memory_client, open_memory_client
from trio_dispatch import RunHandle, WorkflowFailed
from trio_dispatch._client.opening import running
from trio_dispatch.server import Server

pytestmark = pytest.mark.wires(*WEBSOCKETS)


def inputs(server: Server) -> list[object]:
    """What runs were started with, in order."""
    return [run.input for run in server.runs()]


ORDER = {"order_id": "ORD-1", "items": ["widget"]}


async def test_a_run_comes_back_with_its_input_and_steps(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        handle = await client.start_workflow("order-pipeline", ORDER)
        assert (handle.name, handle.state, handle.known) == ("order-pipeline", "completed", True)
        run = await handle.wait()
        assert (run.id, run.state, run.input) == (handle.run_id, "completed", ORDER)
        steps = await handle.timeline()
        assert [(step.step_name, step.result) for step in steps] == [
            ("validate", None),
            ("calculate-total", 19.99),
        ]
        assert await client.workflow_timeline("wfrun_01h2xcejqtf2nbrexx3vqjhp41") == []


async def test_a_failed_run_raises_with_its_last_state(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        with pytest.raises(WorkflowFailed, match="order has no items") as caught:
            await client.run_workflow("order-pipeline", {"items": []})
        assert caught.value.run.state == "failed"


async def test_a_run_blocks_nothing_else(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:
        nursery.start_soon(client.start_workflow, "nap")
        nursery.start_soon(client.request, "workflow.start", {"name": "nap", "input": {}})
        await trio.sleep(0.1)
        before = trio.current_time()
        await client.stats()
        await client.enqueue("noop")
        assert trio.current_time() - before < 0.1
        assert client.statistics().runs == 2


async def test_further_starts_wait_in_order_and_show_it(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server, max_concurrent_runs=2) as client:
        async with trio.open_nursery() as nursery:
            for n in range(5):
                nursery.start_soon(client.run_workflow, "nap", {"n": n})
                await trio.sleep(0.01)
            statistics = client.statistics()
            assert (statistics.runs, statistics.runs_waiting, statistics.runs_limit) == (2, 3, 2)
        assert inputs(server) == [{"n": n} for n in range(5)]
        assert client.statistics().runs == 0
        assert len(server.connections) == 3
        await trio.sleep(31)
        assert len(server.connections) == 1  # the run connections are closed


async def test_a_waiting_start_can_be_cancelled(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server, max_concurrent_runs=1) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.start_workflow, "nap", {"n": 0})
            await trio.sleep(0.1)
            with trio.move_on_after(1):
                await client.start_workflow("nap", {"n": 1})
        await client.start_workflow("nap", {"n": 2})
        assert inputs(server) == [{"n": 0}, {"n": 2}]


async def test_a_run_outlives_its_caller(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        with trio.move_on_after(1):
            await client.start_workflow("nap")
        (run,) = server.runs()
        assert run.state == "running"
        await trio.sleep(5)
        assert server.runs()[0].state == "completed"
        assert client.statistics().runs == 0


async def test_an_unknown_workflow_is_the_servers_error(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        with pytest.raises(trio_dispatch.ServerError, match="no workflow registered"):
            await client.start_workflow("nobody-registered-this")
        with pytest.raises(ValueError, match="empty"):
            await client.start_workflow("")
        with pytest.raises(ValueError, match="nan"):
            await client.start_workflow("nap", float("nan"))
        with pytest.raises(ValueError, match="start_workflow"):
            await client.send(trio_dispatch.Frame(method="workflow.start"))


async def test_a_published_event_releases_a_waiting_run(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.subscribe("workflows") as events, trio.open_nursery() as nursery:
            ended: list[RunHandle] = []

            @nursery.start_soon
            async def start() -> None:
                ended.append(await client.start_workflow("approval"))

            run_id = (await events.receive()).run_id
            assert run_id is not None
            assert (await client.get_workflow(run_id)).state == "running"
            event_id = await client.publish_event("approved", {"by": "someone"})
            assert event_id.startswith("evt_")
        assert trio.current_time() < 1
        assert ended[0].run_id == run_id
        await ended[0].wait()
        (step,) = await client.workflow_timeline(run_id)
        assert step.step_name == "wait:approved"


async def test_watching_ends_with_the_run(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:
        async with client.subscribe("workflows") as events:
            nursery.start_soon(client.start_workflow, "nap")
            run_id = (await events.receive()).run_id
        assert run_id is not None
        async with client.watch(run_id) as watch:
            seen = [event.type async for event in watch]
        assert seen == ["workflow.completed"]
        assert watch.run is not None
        assert watch.run.state == "completed"
        before = trio.current_time()
        async with client.watch(run_id) as watch:
            assert [event async for event in watch] == []  # over already: ends at once
        assert trio.current_time() == before
        with pytest.raises(trio.ClosedResourceError):
            await watch.receive()


async def test_watching_works_without_the_subscribe_scope(autojump_clock: object) -> None:
    async with open_memory_client(make_server(), "no-subscribe") as client:
        handle = await client.start_workflow("nap")
        run = await handle.wait()
        assert run.state == "completed"
        async with handle.events() as watch:
            assert [event.type async for event in watch] == ["stream.gap"]


async def test_watching_an_unknown_run_raises(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.watch("wfrun_01h2xcejqtf2nbrexx3vqjhp41") as watch:
            with pytest.raises(trio_dispatch.NotFound):
                await watch.receive()


async def test_a_watch_without_the_scope_polls_until_the_run_is_over(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        handle = await client.start_workflow("nap")
        run_id = await handle.wait_known()
        async with (
            running(memory_client(server, "no-subscribe")) as weak,
            weak.watch(run_id) as watch,
        ):
            assert [event async for event in watch] == []
            assert watch.run is not None
            assert watch.run.state == "completed"
            assert watch.dropped == 0


async def test_waiting_for_a_run_outlives_a_lost_connection(autojump_clock: object) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server, min_reconnect_delay=0.01)) as client:
        handle = await client.start_workflow("nap")
        run_id = await handle.wait_known()
        async with client.watch(run_id) as watch:
            server.drop_connections()
            seen = [event.type async for event in watch]
        assert "stream.gap" in seen
        assert watch.run is not None
        assert watch.run.finished
