"""With the same seeds, everything that the server does happens in the same order."""

from __future__ import annotations

import random
from typing import Any

import trio
import trio._core._run
import trio.testing

from tests.client.support import make_server, open_memory_client


def history(seed: int) -> list[Any]:
    """What happened in a run with concurrent tasks, failures, retries and workflows."""

    async def main() -> list[Any]:
        server = make_server()
        async with open_memory_client(server, url="ws://localhost/dwp") as client:
            async with client.subscribe("firehose", buffer=10_000) as events:

                async def work(n: int) -> None:
                    handle = await client.enqueue(["noop", "slow", "fail"][n % 3], n)
                    if n % 5 == 0:
                        await handle.cancel()

                async with trio.open_nursery() as nursery:
                    for n in range(12):
                        nursery.start_soon(work, n)
                    nursery.start_soon(client.run_workflow, "order-pipeline", {"items": ["a"]})
                await server.idle()
                await trio.sleep(1)
                received = [(events.receive_nowait().type) for _ in range(len(server.events))]
        ids = {job.id: n for n, job in enumerate(server.jobs())}
        published = [
            (event.type, ids.get(event.topic.partition(":")[2]), trio.current_time())
            for event in server.events
        ]
        jobs = [(job.id[-8:], job.name, job.state, job.retry_count) for job in server.jobs()]
        return [received, published, jobs]

    # trio's scheduler shuffles by this generator, and so do its own tests.
    state = trio._core._run._r.getstate()
    here = random.getstate()
    trio._core._run._r.seed(seed)
    random.seed(seed)
    try:
        return trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    finally:
        trio._core._run._r.setstate(state)
        random.setstate(here)


def test_a_hundred_runs_are_alike() -> None:
    first = history(1)
    assert len(first[1]) > 40
    for _ in range(99):
        assert history(1) == first
