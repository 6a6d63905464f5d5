"""What each fault does to the bytes, to the connections, and to a client."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

import trio_dispatch
from tests.client.support import make_server, memory_client, through
from trio_dispatch._client.opening import running
from trio_dispatch.testing import FaultPlan, FaultyProxy, pipe


class Echo:
    """A server that keeps its ends of the connections."""

    def __init__(self) -> None:
        self.ends: list[trio.abc.HalfCloseableStream] = []

    async def open_stream(self) -> trio.abc.Stream:
        near, far = pipe()
        self.ends.append(far)
        return near


@asynccontextmanager
async def between() -> AsyncGenerator[
    tuple[FaultyProxy, trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream], None
]:
    """A proxy, and both ends of one connection through it."""
    echo = Echo()
    async with FaultyProxy.in_memory(echo.open_stream) as proxy:
        client = await proxy.open_stream()
        yield proxy, client, echo.ends[0]


async def read(stream: trio.abc.ReceiveStream, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = await stream.receive_some(count - len(data))
        assert piece, data
        data += piece
    return data


@given(
    chunks=st.lists(st.binary(min_size=1, max_size=2_000), max_size=10),
    back=st.lists(st.binary(min_size=1, max_size=2_000), max_size=10),
)
@settings(max_examples=30)
def test_without_faults_all_bytes_pass_unchanged(chunks: list[bytes], back: list[bytes]) -> None:
    async def main() -> None:
        async with between() as (_, client, server), trio.open_nursery() as nursery:

            async def send(stream: trio.abc.HalfCloseableStream, data: list[bytes]) -> None:
                for chunk in data:
                    await stream.send_all(chunk)
                await stream.send_eof()

            async def check(stream: trio.abc.ReceiveStream, data: list[bytes]) -> None:
                assert b"".join([piece async for piece in stream]) == b"".join(data)

            nursery.start_soon(send, client, chunks)
            nursery.start_soon(send, server, back)
            nursery.start_soon(check, server, chunks)
            nursery.start_soon(check, client, back)

    trio.run(main)


async def test_a_drop_by_reset_breaks_both_ends(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        await trio.testing.wait_all_tasks_blocked()
        assert proxy.drop() == 1
        await trio.testing.wait_all_tasks_blocked()
        for end in (client, server):
            with pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
            with pytest.raises(trio.BrokenResourceError):
                await end.send_all(b"x")
        assert proxy.drop() == 0
        assert (proxy.statistics().open, proxy.statistics().dropped) == (0, 1)


async def test_a_drop_by_eof_lets_what_is_on_its_way_arrive(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        await server.send_all(b"hello")
        await trio.testing.wait_all_tasks_blocked()
        proxy.drop("eof")
        await trio.testing.wait_all_tasks_blocked()
        assert await read(client, 5) == b"hello"
        assert await client.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")


async def test_refusing_counts_and_ends(autojump_clock: object) -> None:
    echo = Echo()
    async with FaultyProxy.in_memory(echo.open_stream) as proxy:
        proxy.refuse(2)
        for _ in range(2):
            with pytest.raises(ConnectionRefusedError):
                await proxy.open_stream()
        await proxy.open_stream()
        proxy.refuse()
        for _ in range(5):
            with pytest.raises(OSError, match="refuses"):
                await proxy.open_stream()
        proxy.accept()
        await proxy.open_stream()
        assert (proxy.statistics().refused, proxy.statistics().accepted) == (7, 2)


async def test_a_stall_holds_bytes_and_pushes_back(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        proxy.stall("to_server")
        with trio.move_on_after(10) as scope:
            for n in range(1_000):
                await client.send_all(bytes([n % 251]) * 1_000)
        assert scope.cancelled_caught
        await server.send_all(b"the other way is open")
        assert await read(client, 21) == b"the other way is open"
        with trio.move_on_after(10):
            await server.receive_some()
            pytest.fail("something came through")
        proxy.resume()
        assert await read(server, 2_000) == b"\0" * 1_000 + b"\1" * 1_000


async def test_a_connection_made_while_stalled_stalls(autojump_clock: object) -> None:
    echo = Echo()
    async with FaultyProxy.in_memory(echo.open_stream) as proxy:
        proxy.stall()
        client = await proxy.open_stream()
        await client.send_all(b"hello")
        with trio.move_on_after(10):
            await echo.ends[0].receive_some()
            pytest.fail("something came through")
        proxy.resume("to_server")
        assert await read(echo.ends[0], 5) == b"hello"


@pytest.mark.parametrize("count", [0, 1, 7, 5_000])
async def test_a_cut_lets_exactly_so_many_bytes_through(autojump_clock: object, count: int) -> None:
    echo = Echo()
    async with FaultyProxy.in_memory(echo.open_stream) as proxy:
        proxy.cut_after(count, "to_server")
        client = await proxy.open_stream()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await client.send_all(b"abc" * 1_000)
                await trio.testing.wait_all_tasks_blocked()
        data = b"".join([piece async for piece in echo.ends[0]])
        assert data == (b"abc" * 2_000)[:count]
        other = await proxy.open_stream()  # the cut was for one connection
        await other.send_all(b"x")
        assert await read(echo.ends[1], 1) == b"x"


async def test_slow_takes_the_time_it_should(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        proxy.slow(100, "to_server")
        before = trio.current_time()
        await client.send_all(bytes(1_000))
        await read(server, 1_000)
        assert trio.current_time() - before == pytest.approx(10, abs=0.2)
        proxy.slow(None)
        before = trio.current_time()
        await client.send_all(bytes(1_000))
        await read(server, 1_000)
        assert trio.current_time() == before
        with pytest.raises(ValueError, match="stall"):
            proxy.slow(0)


async def test_corrupt_flips_a_bit_of_each(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        proxy.corrupt("to_server", 3)
        await client.send_all(bytes(10))
        data = await read(server, 10)
        assert all(byte.bit_count() == 1 for byte in data[:3])
        assert data[3:] == bytes(7)


async def test_half_closing_passes_through(autojump_clock: object) -> None:
    async with between() as (_, client, server):
        await client.send_eof()
        assert await server.receive_some() == b""
        await server.send_all(b"still here")
        assert await read(client, 10) == b"still here"


@pytest.mark.parametrize(
    "fault",
    [
        lambda proxy: proxy.stall("to_sever"),
        lambda proxy: proxy.drop("rst"),
        lambda proxy: proxy.refuse(-3),
        lambda proxy: proxy.slow(5, "up"),
        lambda proxy: proxy.slow(-5),
        lambda proxy: proxy.cut_after(1, "nonsense"),
        lambda proxy: proxy.cut_after(-1, "to_server"),
        lambda proxy: proxy.corrupt("both"),
    ],
)
async def test_what_makes_no_sense_is_refused(autojump_clock: object, fault: Any) -> None:
    async with between() as (proxy, _, _):
        with pytest.raises(ValueError, match=r"not"):
            fault(proxy)
        assert proxy.log == []


async def test_healing_takes_every_fault_back(autojump_clock: object) -> None:
    async with between() as (proxy, client, server):
        proxy.stall()
        proxy.slow(1)
        proxy.refuse()
        proxy.cut_after(0, "to_server")
        proxy.corrupt("to_server")
        proxy.heal()
        await client.send_all(b"hello")
        assert await read(server, 5) == b"hello"
        await (await proxy.open_stream()).send_all(b"x")
    with pytest.raises(ConnectionRefusedError):
        await proxy.open_stream()  # the block has been left


async def test_leaving_the_block_leaves_nothing(autojump_clock: object) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with between() as (proxy, client, _):
        proxy.stall()
    with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
        await client.send_all(b"x")
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    with pytest.raises(ValueError, match="mine"):
        async with between():
            raise ValueError("mine")


async def test_a_plan_is_the_same_for_the_same_seed(autojump_clock: object) -> None:
    logs = []
    for seed in (7, 7, 8):
        async with between() as (proxy, _, _):
            start = trio.current_time()
            await FaultPlan(seed=seed, faults=50).run(proxy)
            logs.append([(round(f.at - start, 6), f.kind, f.detail) for f in proxy.log])
            assert not proxy._refusing
            assert not proxy._cuts
            assert not any(way.stalled for way in proxy._ways.values())
    assert logs[0] == logs[1] != logs[2]
    async with between() as (proxy, _, _):
        with trio.move_on_after(random.uniform(1, 20)):
            await FaultPlan(seed=1, faults=1_000).run(proxy)
        assert not any(way.stalled for way in proxy._ways.values())


async def test_a_client_in_memory_comes_back(autojump_clock: object) -> None:
    server = make_server()
    client = memory_client(server)
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as proxy:

        async def connect(address: object) -> trio.abc.Stream:
            return await proxy.open_stream()

        client = through(client, connect)
        async with running(client):
            proxy.drop()
            await client.stats()
        assert proxy.statistics().accepted == 2


async def test_over_tcp_a_client_comes_back_from_every_fault() -> None:
    server = make_server()
    started = trio.current_time()
    async with server.serve() as url, FaultyProxy.listen(url) as proxy:
        assert proxy.url.endswith("/dwp")
        assert proxy.url != url
        async with trio_dispatch.open_client(
            proxy.url, token="demo-token", min_reconnect_delay=0.01, max_reconnect_delay=0.02
        ) as client:
            async with client.connection_events() as events:
                await events.receive()
                for fault in ("reset", "eof"):
                    proxy.drop(fault)
                    assert not (await events.receive()).connected
                    assert (await events.receive()).connected
                proxy.refuse(2)
                proxy.drop()
                while not (await events.receive()).connected:
                    pass
            assert (await client.enqueue("noop")).state == "pending"
        assert proxy.statistics().refused == 2
        assert proxy.statistics().accepted == 4
    assert trio.current_time() - started < 5  # a reset handshake is not waited out
