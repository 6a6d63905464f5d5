"""A JSON-RPC link on bad networks: cut anywhere, and in random weather."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.link.servers import KINDS, SmallServer
from tests.shares import EVERYTHING, FIRST, STEP
from trio_dispatch import ConnectionLost, Link, WebSocketPing
from trio_dispatch._link.opening import make_link
from trio_dispatch._transport.block import in_background, open_background
from trio_dispatch.testing import FaultyProxy

LIBRARIES = ("trio-websocket", "websockets")
STRIDE = STEP if EVERYTHING else 11 * STEP
SEEDS = 40 if EVERYTHING else 4


@asynccontextmanager
async def on_a_network(**options: Any) -> AsyncGenerator[tuple[FaultyProxy, Link[Any]], None]:
    """A JSON-RPC server, a network that a test can break, and a link."""
    kind = KINDS["json-rpc"]
    async with open_background() as nursery:
        server = SmallServer(kind, nursery)

        async def reach() -> trio.abc.Stream:
            return await server.connect(None)

        async with FaultyProxy.in_memory(reach) as proxy:

            async def connect(address: object) -> trio.abc.Stream:
                return await proxy.open_stream()

            every: dict[str, Any] = {"dialect": kind.dialect, "min_reconnect_delay": 0.1} | options
            supervisor, link = make_link("ws://localhost/rpc", connect, **every)
            async with in_background(supervisor.run, link):
                yield proxy, link


async def ask(link: Link[Any], what: object) -> bool:
    """Ask once. Returns whether there was an answer; without one it may have been delivered."""
    try:
        answer = await link.request({"method": "echo", "params": what})
    except ConnectionLost as exc:
        assert exc.maybe_delivered
        return False
    assert answer["result"] == what
    return True


@pytest.mark.parametrize("transport", LIBRARIES)
@pytest.mark.parametrize("direction", ["to_server", "to_client"])
async def test_a_connection_that_is_cut_anywhere_is_replaced(
    direction: Any, transport: str, autojump_clock: object
) -> None:
    async with on_a_network(transport=transport) as (proxy, link):
        await link.wait_connected()
        before = proxy.statistics()
        assert all([await ask(link, n) for n in range(3)])
        whole = getattr(proxy.statistics(), direction)
        assert getattr(before, direction) < whole
    for count in range(1 + FIRST, whole, STRIDE):
        async with on_a_network(transport=transport) as (proxy, link):
            proxy.cut_after(count, direction, random.choice(["eof", "reset"]))
            with trio.fail_after(600):
                answered = [await ask(link, n) for n in range(3)]
                assert answered.count(False) <= 1  # one cut costs one request at most
                assert await ask(link, "afterwards")


async def be_the_weather(proxy: FaultyProxy, rng: random.Random) -> None:
    """Break the network now and then, and mend it in the end."""
    for _ in range(30):
        await trio.sleep(rng.random() * 2)
        kind = rng.randrange(6)
        if kind == 0:
            proxy.drop(rng.choice(["eof", "reset"]))
        elif kind == 1:
            proxy.stall(rng.choice(["to_server", "to_client", "both"]))
        elif kind == 2:
            proxy.refuse(rng.randrange(3))
        elif kind == 3:
            proxy.slow(rng.choice([100, 10_000]))
        else:
            proxy.heal()
    proxy.heal()


@pytest.mark.parametrize("transport", LIBRARIES)
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_in_any_weather_each_request_ends_and_the_link_recovers(
    seed: int, transport: str, autojump_clock: object
) -> None:
    rng, outcomes = random.Random(seed), list[bool]()
    options = {"ping": WebSocketPing(5, 5), "connect_timeout": 5, "max_reconnect_delay": 2}
    async with on_a_network(transport=transport, **options) as (proxy, link):

        async def keep_asking() -> None:
            for n in range(100):
                outcomes.append(await ask(link, [n, "x" * rng.randrange(2_000)]))

        with trio.fail_after(3_600):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(keep_asking)
                await be_the_weather(proxy, rng)
            assert await ask(link, "fair weather")
        assert len(outcomes) == 500
        assert True in outcomes
