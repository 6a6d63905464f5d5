"""A cluster whose servers stop, crash, freeze and lose their store loses no job and no run."""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS
from trio_dispatch.server import Cluster, Identity, Workflow

QUIET = logging.Logger("quiet", level=logging.CRITICAL)  # noqa: LOG001
SOMEBODY = Identity(scopes={"*"})


class Chaos:
    """One schedule."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(TOKENS, seed=seed, logger=QUIET, retry_delay=0.1)
        self.jobs: list[str] = []
        self.runs: list[str] = []
        self.done: dict[str, int] = {}

        @self.cluster.job
        async def work(payload: Any) -> None:
            await trio.sleep(payload)

        @self.cluster.workflow
        async def approval(workflow: Workflow, input: Any) -> None:
            await workflow.step("first", self.note, workflow.run_id)
            await workflow.wait_for_event(f"approved-{input}")
            await workflow.sleep("nap", 1)

    async def note(self, run_id: str) -> None:
        self.done[run_id] = self.done.get(run_id, 0) + 1

    async def act(self) -> None:
        """Do something to the cluster, or with it."""
        cluster, rng = self.cluster, self.rng
        node = rng.choice(cluster.nodes)
        engine = node._node.engine
        match rng.randrange(24):
            case 0:
                node.kill()
            case 1:
                await node.stop(grace=rng.choice([0, 2, 40]))
            case 2 | 3 | 9 | 10 | 11:
                await node.start()
            case 4:
                node.freeze()
            case 5 | 12 | 13:
                node.thaw()
            case 6 if rng.random() < 0.3:
                cluster.store_away()
            case 7 | 14 | 15:
                cluster.store_back()
            case 8 | 16 | 17 if node.running and not cluster._store.away:
                self.runs.append(
                    engine.start_run("approval", str(len(self.runs)).encode(), SOMEBODY).row.id
                )
            case _ if node.running and not cluster._store.away:
                seconds = str(rng.choice([0, 0.5, 5, 50])).encode()
                self.jobs.append(engine.enqueue("work", seconds, "", 0, SOMEBODY).id)
            case _:
                pass

    async def heal(self) -> None:
        """Bring everything back, and let every run go on."""
        self.cluster.store_back()
        for node in self.cluster.nodes:
            node.thaw()
        await self.cluster.nodes[0].stop(grace=0)
        for node in self.cluster.nodes:
            await node.start()
        for number in range(len(self.runs)):
            # More than one for each run, as servers that execute the same run take one each.
            for _ in range(20):
                payload = b"1"
                self.cluster.nodes[1]._node.engine.post_event(
                    f"approved-{number}", payload, SOMEBODY
                )


@pytest.mark.parametrize("seed", range(10))
async def test_every_job_and_every_run_ends(seed: int, autojump_clock: MockClock) -> None:
    chaos = Chaos(seed)
    print(f"seed {seed}")
    async with chaos.cluster.run():
        for _ in range(200):
            with trio.move_on_after(100):
                await chaos.act()
            await trio.sleep(chaos.rng.choice([0, 0.01, 0.3, 3]))
        await chaos.heal()
        await trio.sleep(600)
        states = {job.id: job.state for job in chaos.cluster.jobs()}
        assert set(states) == set(chaos.jobs)
        assert set(states.values()) <= {"completed"}
        runs = {run.id: run for run in chaos.cluster.runs()}
        assert set(runs) == set(chaos.runs)
        assert {run.state for run in runs.values()} <= {"completed"}
        for run in runs.values():
            names = [step.step_name for step in run.steps]
            assert names == ["first", f"wait:approved-{run.input}", "sleep:nap"]
        assert chaos.cluster.balancer.connections == 0
    assert len(chaos.jobs) > 10
