"""Random schedules of servers that fail, heard with ``events_from="all"``.

Each server numbers its events. A reader gets each of them once and in order, or a gap that names
the server whose events are missing, and after the last fault it hears every server again.
"""

from __future__ import annotations

import random

import pytest
import trio
import trio._core._run

from tests.schedules import seeds
from trio_dispatch import StreamGap, Subscription
from trio_dispatch.server import Cluster, ClusterNode, Identity

pytestmark = pytest.mark.wires("websockets-json")

ROUNDS = 40


class Schedule:
    """One schedule, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster({"t": Identity(scopes={"*"})}, seed=1)
        servers = [node.memory_url for node in self.cluster.nodes]
        self.published = dict.fromkeys(servers, 0)
        self.got: dict[str, list[int | None]] = {server: [] for server in servers}
        """The numbers that were read of each server; None for a gap."""

    def publish(self) -> None:
        """Publish one event on each server that runs."""
        for node in self.cluster.nodes:
            if node.running:
                server = node.memory_url
                data = {"job_id": "j", "server": server, "n": self.published[server]}
                node.publish("job.x", "job:j", data)
                self.published[server] += 1

    async def play(self) -> None:
        """Play it."""
        async with self.cluster.open_client(
            token="t",
            url=list(self.published),
            events_from="all",
            min_reconnect_delay=0.1,
            max_reconnect_delay=1,
            heartbeat_interval=2,
            heartbeat_timeout=1,
        ) as client:
            async with client.subscribe("jobs") as events, trio.open_nursery() as nursery:
                nursery.start_soon(self.read, events)
                for _ in range(ROUNDS):
                    self.publish()
                    await trio.sleep(self.rng.random())
                    await self.fault(self.rng.choice(self.cluster.nodes))
                for node in self.cluster.nodes:
                    if not node.running:
                        await node.start()
                await trio.sleep(60)
                self.publish()
                await trio.sleep(1)
                nursery.cancel_scope.cancel()

    async def read(self, events: Subscription) -> None:
        async for event in events:
            if isinstance(event, StreamGap):
                self.got[event.server].append(None)
            else:
                server, number = event.data["server"], event.data["n"]
                assert isinstance(server, str)
                assert isinstance(number, int)
                self.got[server].append(number)

    async def fault(self, node: ClusterNode) -> None:
        """Let something happen to *node*."""
        if not node.running:
            await node.start()
            return
        fault = self.rng.choice(("kill", "drop", "freeze", "delay", "none"))
        if fault == "kill" and all(other.running for other in self.cluster.nodes):
            node.kill()
        elif fault == "drop":
            node.drop_connections()
        elif fault == "delay":
            node.delay("subscribe", self.rng.random() * 3)
        elif fault == "freeze":
            with node.freeze():
                for _ in range(self.rng.choice((1, 5))):
                    self.publish()
                    await trio.sleep(self.rng.random())

    def check(self) -> None:
        """Every server was heard, but where a gap of its own stands."""
        for server, got in self.got.items():
            numbers = [n for n in got if n is not None]
            assert numbers == sorted(set(numbers))
            assert numbers[-1] == self.published[server] - 1
            last, excused = -1, False
            for n in got:
                if n is None:
                    excused = True
                else:
                    assert excused or n == last + 1, f"{server}: {last + 1} is missing before {n}"
                    last, excused = n, False


@pytest.mark.parametrize("seed", seeds(12))
async def test_each_event_arrives_once_or_a_gap_names_its_server(
    autojump_clock: object, seed: int
) -> None:
    print("seed", seed)
    trio._core._run._r.seed(seed)
    schedule = Schedule(seed)
    with trio.fail_after(ROUNDS * 10):
        await schedule.play()
    schedule.check()
