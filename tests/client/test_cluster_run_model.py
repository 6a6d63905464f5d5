"""Random schedules of starts and of faults of a cluster: every handle ends with the truth.

As `test_run_model`, on three servers behind a balancer. A server that starts resumes all runs, also
those that others are executing, so a run may be executed twice, and has events of its own on each.
"""

from __future__ import annotations

import logging
import random
from typing import Any

import pytest
import trio
import trio._core._run
import trio.testing

from tests.client import support
from tests.client.run_support import USERS, RunUsers, names
from tests.client.support import EITHER_LIBRARY, WIRES
from tests.schedules import seeds
from trio_dispatch import Client
from trio_dispatch.server import Cluster, Identity, Workflow

pytestmark = pytest.mark.wires(*EITHER_LIBRARY)

FAULTS = 10
ENOUGH = 300.0
"""Seconds after the last fault in which everything must have ended."""


def make_random_cluster(seed: int) -> Cluster:
    cluster = Cluster({"demo-token": Identity(scopes={"*"})}, seed=seed)

    async def step(n: int) -> int:
        return n

    @cluster.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        rng = random.Random(workflow.run_id)  # the same for each execution
        for n in range(rng.randint(0, 5)):
            await workflow.step(f"s{n}", step, n)
            await workflow.sleep(f"n{n}", rng.random() * rng.choice((0.01, 1)))
        if rng.random() < 0.2:
            raise ValueError("no")

    return cluster


class ClusterSchedule(RunUsers):
    """One schedule, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.cluster = make_random_cluster(seed)
        if self.rng.random() < 0.5:
            self.cluster.balancer.idle_timeout = 3

    async def play(self) -> None:
        options = WIRES[support.wire] | {
            "min_reconnect_delay": 0.05,
            "max_reconnect_delay": 0.3,
            "connect_timeout": 2,
            "heartbeat_interval": 1,
            "heartbeat_timeout": 1,
            "max_concurrent_runs": 3,
        }
        if self.rng.random() < 0.3:
            options["url"] = self.cluster.urls
        async with self.cluster.open_client(token="demo-token", **options) as client:
            with trio.fail_after(ENOUGH + 100):
                async with trio.open_nursery() as users:
                    users.start_soon(self.break_things)
                    for _ in range(USERS):
                        users.start_soon(self.use, client, random.Random(self.rng.random()))
            await self.check_that_nothing_is_left(client)
            # The runs that were given up end, too; none are executed any more.
            await self.cluster.idle()
        self.check_told(self.cluster.runs())
        self.check_events()

    async def break_things(self) -> None:
        rng, cluster = self.rng, self.cluster
        for _ in range(FAULTS):
            await trio.sleep(rng.expovariate(1 / 0.7))
            node = rng.choice(cluster.nodes)
            kind = rng.choice(("kill", "stop", "freeze", "drop", "reload", "503", "start"))
            if kind == "kill":
                node.kill()
            elif kind == "stop":
                await node.stop()
            elif kind == "freeze":
                with node.freeze():
                    await trio.sleep(rng.random() * 5)
            elif kind == "drop":
                node.drop_connections()
            elif kind == "reload":
                cluster.balancer.reload()
            elif kind == "503":
                with cluster.balancer.refuse(503):
                    cluster.balancer.reload()
                    await trio.sleep(rng.random())
            else:
                await node.start()
        cluster.balancer.idle_timeout = None
        for node in cluster.nodes:
            await node.start()
        # Resumes what was cut off by a server that was not started again after that.
        cluster.nodes[0].kill()
        await cluster.nodes[0].start()

    async def check_that_nothing_is_left(self, client: Client) -> None:
        await trio.sleep(40)  # idle connections are kept for half a minute
        statistics = client.statistics()
        assert (statistics.runs, statistics.runs_waiting, statistics.wanted_channels) == (0, 0, 0)
        assert (statistics.link.queued, statistics.link.in_flight) == (0, 0)
        assert len(client._run_starts.matching) == 0

    def check_events(self) -> None:
        """What has no gap is all that one of the servers has published."""
        for run, events in self.read:
            got = names(events)
            published = [
                [
                    str(event.data.get("step_name", event.type))
                    for event in node.events
                    if event.topic == f"workflow:{run.run_id}"
                ]
                for node in self.cluster.nodes
            ]
            assert set(got) <= {"stream.gap", *(name for one in published for name in one)}
            assert "stream.gap" in got or got in published


@pytest.mark.parametrize("seed", seeds(20))
async def test_every_handle_ends_with_the_truth_of_a_cluster(
    autojump_clock: trio.testing.MockClock, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", seed)
    caplog.set_level(logging.CRITICAL)
    trio._core._run._r.seed(seed)
    await ClusterSchedule(seed).play()
