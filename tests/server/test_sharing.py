"""Several tasks use one server, each in a block of its own."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, Dropped, connect
from trio_dispatch.server import Server, Workflow


def make_server(began: list[str]) -> Server:
    server = Server(TOKENS, seed=1)

    @server.job("slow")
    async def slow(payload: Any) -> None:
        began.append("job")
        await trio.sleep(10)

    @server.workflow("two-naps")
    async def two_naps(workflow: Workflow, input: Any) -> str:
        await workflow.step("first", first)
        await workflow.sleep("nap", 10)
        return "done"

    async def first() -> None:
        began.append("step")

    return server


async def other_user(
    server: Server, seconds: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    async with server.open_client() as client:
        await client.stats()
        task_status.started()
        await trio.sleep(seconds)
        await client.stats()


@pytest.mark.parametrize("seconds", [5, 60])
async def test_the_end_of_one_block_leaves_the_other_user_alone(
    autojump_clock: MockClock, seconds: float
) -> None:
    began: list[str] = []
    server = make_server(began)
    async with trio.open_nursery() as nursery:
        await nursery.start(other_user, server, seconds)
        async with server.open_client() as client:
            await client.stats()
            await trio.sleep(30)
            job = await client.enqueue("slow")
            assert (await job.wait()).state == "completed"
    with pytest.raises(RuntimeError, match="not running"):
        await server.open_stream()


async def test_work_under_way_moves_to_the_block_that_lasts(autojump_clock: MockClock) -> None:
    began: list[str] = []
    server = make_server(began)
    async with trio.open_nursery() as nursery:
        await nursery.start(other_user, server, 5)  # this block does the work
        async with server.open_client() as client:
            job = await client.enqueue("slow")
            run = await client.start_workflow("two-naps")
            await trio.sleep(1)
            assert began == ["step", "job"] or began == ["job", "step"]
            assert (await run.wait()).state == "completed"
            assert (await job.wait()).state == "completed"
            # The attempt was begun again, and the step was not done again.
            assert sorted(began) == ["job", "job", "step"]
            assert client.statistics().link.connections == 1
    assert [run.state for run in server.runs()] == ["completed"]
    assert server.jobs()[0].retry_count == 0


async def test_a_block_that_fails_or_is_cancelled_leaves_the_other_user_alone(
    autojump_clock: MockClock,
) -> None:
    server = make_server([])

    async def fails(task_status: trio.TaskStatus[None]) -> None:
        with pytest.raises(ValueError, match="mine"):
            async with server.open_client():
                task_status.started()
                await trio.sleep(1)
                raise ValueError("mine")

    async def is_cancelled(task_status: trio.TaskStatus[None]) -> None:
        with trio.move_on_after(2):
            async with server.serve():
                task_status.started()
                await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        await nursery.start(fails)
        await nursery.start(is_cancelled)
        await other_user(server, 10)
        assert trio.current_time() >= 10


async def test_connections_end_with_the_block_that_they_were_made_in(
    autojump_clock: MockClock,
) -> None:
    server = make_server([])

    async def first(task_status: trio.TaskStatus[None]) -> None:
        async with server.run():
            peer = await connect(server)
            task_status.started()
            await trio.sleep(1)
        with pytest.raises(Dropped):
            await peer.receive()

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with server.run():
            peer = await connect(server)
            await trio.sleep(2)
            await peer.call("stats")
            assert len(server.connections) == 1


async def test_a_nursery_around_a_block_is_not_inside_it(autojump_clock: MockClock) -> None:
    server = make_server([])
    async with trio.open_nursery() as nursery:
        async with server.run():
            # Opened before the block, so a child of it may outlive the block.
            await nursery.start(other_user, server, 5)
        await trio.sleep(1)
        assert len(server.connections) == 1


async def test_a_run_that_the_end_of_the_server_cut_off_is_resumed(
    autojump_clock: MockClock,
) -> None:
    began: list[str] = []
    server = make_server(began)
    async with server.run():
        peer = await connect(server)
        await peer.send(id="1", method="workflow.start", data={"name": "two-naps"})
        await trio.sleep(1)
    assert [run.state for run in server.runs()] == ["running"]
    async with server.run():
        await trio.sleep(11)
    (run,) = server.runs()
    assert run.state == "completed"
    assert [step.step_name for step in run.steps] == ["first", "sleep:nap"]
    assert began == ["step"]
    types = [event.type for event in server.events]
    assert types == ["workflow.started", "workflow.step_completed", "workflow.completed"]
