"""Chaos: hundreds of random faults. Afterwards the server's own store says who told the truth."""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.client.support import EITHER_LIBRARY, WEBSOCKETS, make_server, memory_client, through
from tests.shares import FIRST, STEP
from trio_dispatch import (
    Client,
    ConnectionLost,
    DispatchError,
    JobCancelled,
    JobFailed,
    RequestTimeout,
)
from trio_dispatch._client.opening import running
from trio_dispatch.server import Server
from trio_dispatch.testing import FaultPlan, FaultyProxy

pytestmark = pytest.mark.wires(*WEBSOCKETS)

FRESH = secrets.randbelow(2**32)
SEEDS = [pytest.param(1, id="1"), pytest.param(FRESH, id="fresh")]


@asynccontextmanager
async def in_chaos(
    server: Server, **options: Any
) -> AsyncGenerator[tuple[Client, FaultyProxy], None]:
    """A client that is quick to notice and to come back, behind a proxy."""
    settings: dict[str, Any] = {
        "heartbeat_interval": 2,
        "heartbeat_timeout": 2,
        "min_reconnect_delay": 0.05,
        "max_reconnect_delay": 1,
        "connect_timeout": 3,
        "fail_first_connect": False,
    }
    client = memory_client(server, **(settings | options))
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as proxy:

        async def connect(address: object) -> trio.abc.Stream:
            return await proxy.open_stream()

        client = through(client, connect)
        async with running(client):
            yield client, proxy


@pytest.mark.wires(*EITHER_LIBRARY)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_job_is_where_its_caller_was_told(autojump_clock: object, seed: int) -> None:
    print("seed", seed)
    server = make_server()
    plan = FaultPlan(seed=seed, faults=400, pause=0.3, longest=1.5)
    acknowledged: dict[tuple[int, int], str] = {}
    perhaps: set[tuple[int, int]] = set()
    never: set[tuple[int, int]] = set()

    async with in_chaos(server, request_timeout=2) as (client, proxy):

        async def enqueue(task: int) -> None:
            rng = random.Random(f"{seed} {task}")
            for n in range(250):
                try:
                    handle = await client.enqueue("noop", {"key": [task, n]})
                except (ConnectionLost, RequestTimeout) as exc:
                    (perhaps if exc.maybe_delivered else never).add((task, n))
                else:
                    acknowledged[task, n] = handle.job_id
                await trio.sleep(rng.expovariate(1 / 0.6))

        with trio.fail_after(3_600):  # nobody hangs
            async with trio.open_nursery() as nursery:
                nursery.start_soon(plan.run, proxy)
                for task in range(20):
                    nursery.start_soon(enqueue, task)
        print(
            f"{len(proxy.log)} faults, {client.statistics().link.connections} connections:",
            f"{len(acknowledged)} acknowledged, {len(perhaps)} perhaps, {len(never)} never",
        )
        assert client.statistics().link.connections > 100

    stored: Counter[tuple[int, int]] = Counter()
    ids: dict[tuple[int, int], str] = {}
    for job in server.jobs():
        task, n = job.payload_as(dict[str, tuple[int, int]])["key"]
        stored[task, n] += 1
        ids[task, n] = job.id
    assert len(acknowledged) + len(perhaps) + len(never) == 5_000
    assert {key: ids.get(key) for key in acknowledged} == acknowledged
    assert set(stored.values()) == {1}  # exactly once
    assert not never & set(stored)
    assert set(stored) <= set(acknowledged) | perhaps
    assert perhaps


@pytest.mark.wires(*EITHER_LIBRARY)
@pytest.mark.parametrize("seed", SEEDS)
async def test_every_wait_returns_the_truth(autojump_clock: object, seed: int) -> None:
    print("seed", seed)
    server = make_server(concurrency=1_000)
    told: dict[str, str] = {}
    kinds = ["noop", "slow", "fail", "fail-once"]

    async with in_chaos(server) as (client, proxy), running(memory_client(server)) as steady:
        ids = [(await steady.enqueue(kinds[n % 4], queue=f"q{n}")).job_id for n in range(500)]

        async def wait(job_id: str, delay: float) -> None:
            await trio.sleep(delay)
            try:
                job = await client.wait_job(job_id)
            except JobCancelled:
                told[job_id] = "cancelled"
            except JobFailed as exc:
                told[job_id] = exc.job.state
            else:
                told[job_id] = job.state

        with trio.fail_after(3_600):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    FaultPlan(seed=seed, faults=100, pause=0.2, longest=1).run, proxy
                )
                rng = random.Random(seed)
                for job_id in ids:
                    nursery.start_soon(wait, job_id, rng.uniform(0, 20))
        assert client.statistics().wanted_channels == 0
    assert told == {job.id: job.state for job in server.jobs()}
    assert Counter(told.values()) == {"completed": 250, "failed": 250}


async def session(client: Client) -> None:
    """Authenticate, subscribe, enqueue, unsubscribe."""
    async with running(client):
        async with client.subscribe("jobs"):
            await client.enqueue("noop")
        await client.stats()


@pytest.mark.wires(*EITHER_LIBRARY)
@pytest.mark.parametrize(
    ("direction", "how"), [("to_server", "eof"), ("to_server", "reset"), ("to_client", "eof")]
)
async def test_cut_after_each_byte_a_session_is_restored_or_the_error_is_clear(
    autojump_clock: object, direction: Any, how: Any, wire: str
) -> None:
    server = make_server()
    outcomes: Counter[str] = Counter()
    messages: set[str] = set()
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as proxy:

        async def connect(address: object) -> trio.abc.Stream:
            return await proxy.open_stream()

        async def one() -> None:
            client = memory_client(server, min_reconnect_delay=0.01, max_reconnect_delay=0.1)
            client = through(client, connect)
            with trio.fail_after(60):
                await session(client)

        before = proxy.statistics()
        await one()
        after = proxy.statistics()
        length = getattr(after, direction) - getattr(before, direction)
        assert length > 500
        # Over one wire every byte, shared out; over the other a sample, different in each run.
        step = STEP if wire == "websockets-json" else 9
        first = FIRST if wire == "websockets-json" else random.randrange(step)
        for count in range(first, length + 1, step):
            proxy.cut_after(count, direction, how)
            try:
                await one()
            except DispatchError as exc:
                outcomes[type(exc).__name__] += 1
                messages.add(str(exc))
            else:
                outcomes["restored"] += 1
            await trio.sleep(2)
            assert proxy.statistics().open == 0
            assert server.connections == []
    print(direction, how, dict(outcomes))
    assert set(outcomes) <= {"restored", "ConnectFailed", "ConnectionLost"}
    assert outcomes["restored"] > 10 / step
    assert all("ws://localhost/dwp" in message for message in messages)
