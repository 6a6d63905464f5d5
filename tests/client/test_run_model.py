"""Random schedules of starts, faults and restarts: every handle ends with the truth.

A few users start runs, give some up, wait and read events, while the network and the server fail.
Afterwards the server's own store and history say what was true: how each run ended, whose it was,
and which events it had. What a reader did not get stands at a gap.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable
from typing import Any

import pytest
import trio
import trio._core._run
import trio.testing

from tests.client.run_support import USERS, RunUsers, TwoWays
from tests.client.support import EITHER_LIBRARY, make_server, memory_client, through
from tests.schedules import seeds
from trio_dispatch import (
    Event,
    StreamGap,
)
from trio_dispatch._client.opening import running
from trio_dispatch.server import Server, Workflow
from trio_dispatch.testing import FaultyProxy

pytestmark = pytest.mark.wires(*EITHER_LIBRARY)

FAULTS = 12
ENOUGH = 120.0
"""Seconds after the last fault in which everything must have ended."""


def make_random_server(rng: random.Random) -> Server:
    server = make_server()

    async def step(n: int) -> int:
        return n

    @server.workflow("w")
    async def w(workflow: Workflow, input: Any) -> None:
        for n in range(rng.randint(0, 5)):
            await workflow.step(f"s{n}", step, n)
            await trio.sleep(rng.random() * rng.choice((0.01, 1)))
        if rng.random() < 0.2:
            raise ValueError("no")

    return server


class Schedule(RunUsers):
    """One schedule, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.rng = random.Random(seed)
        self.server = make_random_server(random.Random(seed + 1))
        self.token = self.rng.choice(("demo-token",) * 5 + ("no-subscribe",))
        self.up = trio.Event()
        self.stopping: trio.CancelScope | None = None
        self.over = False

    async def play(self) -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(self.keep_server)
            async with (
                FaultyProxy.in_memory(self.open_stream) as main,
                FaultyProxy.in_memory(self.open_stream) as runs,
            ):

                async def to_main(address: object) -> trio.abc.Stream:
                    return await main.open_stream()

                async def to_runs(address: object) -> trio.abc.Stream:
                    return await runs.open_stream()

                client = memory_client(
                    self.server,
                    self.token,
                    min_reconnect_delay=0.05,
                    max_reconnect_delay=0.3,
                    connect_timeout=2,
                    heartbeat_interval=1,
                    heartbeat_timeout=1,
                    max_concurrent_runs=3,
                )
                client = through(client, main=to_main, runs=to_runs)
                async with running(client):
                    net = TwoWays(client, self.server, main, runs)
                    with trio.fail_after(ENOUGH + 100):
                        async with trio.open_nursery() as users:
                            users.start_soon(self.break_things, net)
                            for _ in range(USERS):
                                users.start_soon(self.use, client, random.Random(self.rng.random()))
                    await self.check_that_nothing_is_left(net)
            nursery.cancel_scope.cancel()
        self.check_against_the_store()

    # The server, which is restarted now and then.

    async def keep_server(
        self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        while True:
            async with self.server.run():
                self.up.set()
                task_status.started()
                task_status = trio.TASK_STATUS_IGNORED
                with trio.CancelScope() as self.stopping:
                    await trio.sleep_forever()
                self.up = trio.Event()
            await trio.sleep(0.2)

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        await trio.lowlevel.checkpoint()
        if not self.up.is_set():
            raise OSError("the server is being restarted")
        return await self.server.open_stream()

    # Faults.

    async def break_things(self, net: TwoWays) -> None:
        rng = self.rng
        for _ in range(FAULTS):
            await trio.sleep(rng.expovariate(1 / 0.7))
            proxy = rng.choice((net.main, net.runs, net.runs))
            kind = rng.choice(
                ("drop", "drop", "both", "stall", "half-open", "cut", "refuse", "restart", "one")
            )
            if kind == "drop":
                proxy.drop()
            elif kind == "both":
                net.main.drop()
                net.runs.drop()
            elif kind in ("stall", "half-open"):
                proxy.stall("both" if kind == "stall" else rng.choice(("to_server", "to_client")))
                await trio.sleep(rng.random() * 5)
                if rng.random() < 0.5:
                    proxy.drop()
                proxy.resume()
            elif kind == "cut":
                proxy.cut_after(rng.randrange(2_000), rng.choice(("to_server", "to_client")))
            elif kind == "refuse":
                proxy.refuse(rng.randint(1, 3))
                proxy.drop()
            elif kind == "restart":
                assert self.stopping is not None
                self.stopping.cancel()
            else:
                connections = list(self.server._hub.connections)
                if connections:
                    self.server.drop_connections()
        for proxy in (net.main, net.runs):
            proxy.heal()

    # The truth.

    async def check_that_nothing_is_left(self, net: TwoWays) -> None:
        await trio.sleep(40)  # idle connections are kept for half a minute
        statistics = net.client.statistics()
        assert (statistics.runs, statistics.runs_waiting, statistics.wanted_channels) == (0, 0, 0)
        assert (statistics.link.queued, statistics.link.in_flight) == (0, 0)
        assert len(net.client._run_starts.matching) == 0
        assert len(self.server.connections) == 1

    def check_against_the_store(self) -> None:
        self.check_told(self.server.runs())
        for run, events in self.read:
            published = [
                (event.type, str(event.data.get("step_name")))
                for event in self.server.events
                if event.topic == f"workflow:{run.run_id}"
            ]
            check_that_gaps_stand_where_events_are_missing(published, events)


def check_that_gaps_stand_where_events_are_missing(
    published: list[tuple[str, str]], got: Iterable[Event]
) -> None:
    position, gap = 0, False
    for event in got:
        if isinstance(event, StreamGap):
            gap = True
            continue
        wanted = (event.type, str(event.data.get("step_name")))
        found = published.index(wanted, position)
        assert gap or found == position, f"{published[position:found]} are missing before {event}"
        position, gap = found + 1, False
    assert gap or position == len(published), f"{published[position:]} are missing at the end"


@pytest.mark.parametrize("seed", seeds(50))
async def test_every_handle_ends_with_the_truth(
    autojump_clock: trio.testing.MockClock, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", seed)
    caplog.set_level(logging.CRITICAL)
    trio._core._run._r.seed(seed)
    schedule = Schedule(seed)
    await schedule.play()
    assert len(schedule.told) + schedule.lost >= 1
