"""Watching a run: every event once, whoever gives up reading in between."""

from __future__ import annotations

import pytest
import trio

from tests.client.support import WEBSOCKETS, make_server, memory_client, open_memory_client
from trio_dispatch._client.opening import running
from trio_dispatch.server import Workflow

STEPS = 5


async def test_a_watch_is_entered_once_and_read_inside_its_block(autojump_clock: object) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        watch = client.watch("wfrun_01h2xcejqtf2nbrexx3vqjhp41")
        with pytest.raises(RuntimeError, match=r"async with client\.watch"):
            await watch.receive()
        async with watch:
            with pytest.raises(RuntimeError, match="entered once"):
                await watch.__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await watch.receive()


@pytest.mark.wires(*WEBSOCKETS)
@pytest.mark.parametrize("give_up", ["before", "while it waits", "while it asks"])
async def test_a_cancelled_reader_of_a_watch_takes_no_event(
    autojump_clock: object, give_up: str
) -> None:
    server = make_server()

    @server.workflow("stepwise")
    async def stepwise(workflow: Workflow, input: object) -> None:
        await workflow.wait_for_event("go")
        for number in range(STEPS):

            async def step(number: int = number) -> int:
                return number

            await workflow.step(f"s{number}", step)

    async with open_memory_client(server) as client:
        run_id = await (await client.start_workflow("stepwise")).wait_known()
        async with client.watch(run_id) as watch:
            with trio.move_on_after(1):  # asks, and then waits
                pytest.fail(repr(await watch.receive()))
            if give_up == "while it asks":
                server.delay("workflow.get", 5)
                with trio.move_on_after(8):
                    pytest.fail(repr(await watch.receive()))
            await client.publish_event("go")
            await server.idle()
            await trio.sleep(1)
            for _ in range(STEPS):
                with trio.CancelScope() as scope:
                    if give_up == "before":
                        scope.cancel()
                        pytest.fail(repr(await watch.receive()))
            seen = [event.data.get("step_name", event.type) async for event in watch]
        assert seen[-STEPS - 1 :] == [*(f"s{n}" for n in range(STEPS)), "workflow.completed"]
