"""A cluster of three in which everything fails in turn: nothing that was acknowledged is lost.

Servers stop, crash, freeze and start again, the store goes away, the balancer reloads and refuses,
while clients enqueue, wait, and run workflows that need an approval. ``TRIO_DISPATCH_ALL=1`` plays
the long form; the seed stands in the name of the case.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import attrs
import pytest
import trio
import trio.lowlevel

from tests.client.support import WEBSOCKETS
from tests.shares import EVERYTHING
from trio_dispatch import (
    Client,
    ConnectionLost,
    DispatchError,
    NotFound,
    RunHandle,
    ServerError,
    WorkflowFailed,
)
from trio_dispatch.server import Cluster, Identity, Workflow

pytestmark = pytest.mark.wires(WEBSOCKETS[-1])

ALLOWED = (ConnectionLost, ServerError)
"""What a request may fail with while servers and store come and go."""


@attrs.frozen
class Size:
    faults: int
    enqueues: int
    waits: int
    runs: int


LONG = Size(faults=200, enqueues=5_000, waits=500, runs=200)
SHORT = Size(faults=40, enqueues=600, waits=80, runs=30)


class Chaos:
    """One story, drawn from its seed."""

    def __init__(self, seed: int, size: Size) -> None:
        self.rng = random.Random(seed)
        self.size = size
        self.cluster = Cluster({"demo-token": Identity(scopes={"*"})}, nodes=3, seed=seed)
        self.acknowledged: dict[int, str] = {}
        self.in_doubt: set[int] = set()
        self.runs: list[RunHandle] = []
        self.completed: list[RunHandle] = []
        self.ends: Counter[str] = Counter()
        self.register()

    def register(self) -> None:
        rng = random.Random(self.rng.random())

        @self.cluster.job("work")
        async def work(payload: Any) -> None:
            await trio.sleep(rng.random() * 5)

        @self.cluster.workflow("approval")
        async def approval(workflow: Workflow, input: Any) -> None:
            await workflow.sleep("think", 1)
            await workflow.wait_for_event(f"approve-{input['n']}", timeout=100_000)

    # What fails.

    async def fail(self) -> None:
        for _ in range(self.size.faults):
            await trio.sleep(self.rng.random() * 10)
            fault = self.rng.choice(
                [self.stop, self.kill, self.freeze, self.store, self.reload, self.refuse]
            )
            await fault()
        for node in self.cluster.nodes:
            if node.running:
                node.kill()
            await node.start()  # and with the last of them, every run that was cut off goes on

    async def stop(self) -> None:
        node = self.rng.choice(self.cluster.nodes)
        if node.running:
            await node.stop(grace=2)
            await trio.sleep(self.rng.random() * 5)
            await node.start()

    async def kill(self) -> None:
        node = self.rng.choice(self.cluster.nodes)
        if node.running:
            node.kill()
            await trio.sleep(self.rng.random() * 5)
            await node.start()

    async def freeze(self) -> None:
        node = self.rng.choice(self.cluster.nodes)
        if node.running:
            with node.freeze():
                await trio.sleep(self.rng.random() * 40)

    async def store(self) -> None:
        with self.cluster.store_away():
            await trio.sleep(self.rng.random() * 12)

    async def reload(self) -> None:
        self.cluster.balancer.reload()
        await trio.lowlevel.checkpoint()

    async def refuse(self) -> None:
        with self.cluster.balancer.refuse(503):
            await trio.sleep(self.rng.random() * 5)

    # What must survive.

    async def enqueue(self, client: Client, numbers: range, waits: int) -> None:
        rng = random.Random(self.rng.random())
        async with trio.open_nursery() as nursery:
            for n in numbers:
                await trio.sleep(rng.random())
                try:
                    handle = await client.enqueue("work", {"n": n})
                except ALLOWED as exc:
                    assert not isinstance(exc, NotFound)
                    if not isinstance(exc, ConnectionLost) or exc.maybe_delivered:
                        self.in_doubt.add(n)
                    continue
                self.acknowledged[n] = handle.job_id
                if waits:
                    waits -= 1
                    nursery.start_soon(self.wait, client, handle.job_id)

    async def wait(self, client: Client, job_id: str) -> None:
        job = await client.wait_job(await client_job(client, job_id))
        assert job.id == job_id
        self.ends[f"job {job.state}"] += 1

    async def run(self, client: Client, n: int) -> None:
        await trio.sleep(self.rng.random() * self.size.faults * 5)
        try:
            run = await client.start_workflow("approval", {"n": n})
            run_id = await run.wait_known()
        except DispatchError as exc:
            assert isinstance(exc, ALLOWED), exc
            self.ends[f"start {type(exc).__name__}"] += 1
            return
        self.runs.append(run)
        await trio.sleep(self.rng.random() * 20)
        while True:
            try:
                await client.publish_event(f"approve-{n}")
                break
            except ALLOWED:
                await trio.sleep(1)
        try:
            result = await run.wait()
        except WorkflowFailed as exc:
            # Its server failed it because the store was away, and could not write that down. The
            # store says "running" until a server starts; 10 s of that end the wait (rule 9).
            assert "the store is away" in exc.run.error
            self.ends["run failed on its server"] += 1
            return
        self.completed.append(run)
        assert result.id == run_id
        assert result.input == {"n": n}
        self.ends[f"run {result.state}"] += 1


async def client_job(client: Client, job_id: str) -> Any:
    """The job as a model: what is known to exist is waited for through any outage."""
    while True:
        try:
            return await client.get_job(job_id)
        except ALLOWED:
            await trio.sleep(0.5)


@pytest.mark.parametrize("seed", range(4) if EVERYTHING else range(2))
async def test_every_acknowledged_job_once_every_wait_and_run_to_its_end(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    size = LONG if EVERYTHING else SHORT
    chaos = Chaos(seed, size)
    cluster = chaos.cluster
    options: dict[str, Any] = {"min_reconnect_delay": 0.1, "max_reconnect_delay": 2}
    async with (
        cluster.open_client(max_concurrent_runs=size.runs, **options) as balanced,
        cluster.open_client(url=cluster.urls, max_concurrent_runs=size.runs, **options) as listed,
    ):
        clients = (balanced, listed)
        with trio.fail_after(100_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(chaos.fail)
                for task in range(10):
                    numbers = range(task, size.enqueues, 10)
                    nursery.start_soon(chaos.enqueue, clients[task % 2], numbers, size.waits // 10)
                for n in range(size.runs):
                    nursery.start_soon(chaos.run, clients[n % 2], n)
    stored = Counter(job.payload["n"] for job in cluster.jobs("work"))  # type: ignore[index]
    ids = {job.id for job in cluster.jobs("work")}
    for n, job_id in chaos.acknowledged.items():
        assert job_id in ids
        assert stored[n] == 1, f"job {n} stands {stored[n]} times in the store"
    for n in chaos.in_doubt:
        assert stored[n] <= 1
    assert len(chaos.acknowledged) + len(chaos.in_doubt) <= size.enqueues
    assert len(chaos.acknowledged) > size.enqueues / 2
    states = {run.id: run.state for run in cluster.runs("approval")}
    assert all(states[run.run_id] == "completed" for run in chaos.completed)
    failed = chaos.ends["run failed on its server"]
    assert chaos.ends["run completed"] + failed == len(chaos.runs) > size.runs / 2
    assert failed < size.runs / 4
    assert chaos.ends["job completed"] == size.waits // 10 * 10
