"""Every receive channel of a client has the same rules for entering, reading and leaving."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from tests.client.support import make_server, open_memory_client
from trio_dispatch import Client, EnqueueRequest, RunHandle

pytestmark = pytest.mark.wires("websockets-json")

CHANNELS: dict[str, Callable[[Client, RunHandle], Any]] = {
    "subscribe": lambda client, run: client.subscribe("jobs"),
    "watch": lambda client, run: client.watch(run),
    "events": lambda client, run: run.events(),
    "wait_jobs": lambda client, run: client.wait_jobs([f"job_{'0' * 26}"]),
    "run_jobs": lambda client, run: client.run_jobs([EnqueueRequest("noop")]),
    "connection_events": lambda client, run: client.connection_events(),
}


@pytest.mark.parametrize("call", CHANNELS)
async def test_a_channel_is_entered_once_and_read_inside_its_block(
    autojump_clock: object, call: str
) -> None:
    async with open_memory_client(make_server()) as client:
        run = await client.start_workflow("nap")
        channel = CHANNELS[call](client, run)
        assert isinstance(channel, trio.abc.ReceiveChannel)
        with pytest.raises(RuntimeError, match=f"async with .*{call}"):
            await channel.receive()
        with pytest.raises(RuntimeError, match=f"async with .*{call}"):
            async for _ in channel:
                pytest.fail("read")
        async with channel as entered:
            assert entered is channel
            with pytest.raises(RuntimeError, match=r"entered once.*again"):
                await channel.__aenter__()
        with pytest.raises(RuntimeError, match=r"entered once.*again"):
            await channel.__aenter__()
        with pytest.raises(trio.ClosedResourceError):
            await channel.receive()
        await channel.aclose()
        await trio.sleep(0.1)  # what worked in the background has ended
        assert client.statistics().wanted_channels == 0
        assert (await run.wait()).state == "completed"
