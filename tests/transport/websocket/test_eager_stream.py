"""The TCP stream under a client: it writes what goes at once, waits for the rest, and breaks."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trio_dispatch._transport.websocket.stream import EagerStream, WireStream


@asynccontextmanager
async def connected() -> AsyncGenerator[tuple[EagerStream, trio.SocketStream], None]:
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listeners[0] as listener:
        ours = await trio.open_tcp_stream(*listener.socket.getsockname()[:2])
        theirs = await listener.accept()
    stream = EagerStream(ours)
    try:
        yield stream, theirs
    finally:
        await trio.aclose_forcefully(stream)
        await trio.aclose_forcefully(theirs)


async def test_bytes_go_both_ways_and_the_end_is_empty() -> None:
    async with connected() as (ours, theirs):
        await ours.send_all(b"hello")
        assert await theirs.receive_some() == b"hello"
        await ours.wait_send_all_might_not_block()
        await theirs.send_all(b"world")
        with trio.testing.assert_checkpoints():
            assert await ours.receive_some(3) == b"wor"
        assert await ours.receive_some() == b"ld"
        await theirs.aclose()
        assert await ours.receive_some() == b""


async def test_what_does_not_go_at_once_goes_as_the_peer_reads() -> None:
    data = bytes(range(256)) * 40_000
    async with connected() as (ours, theirs):
        sent = 0
        while some := ours.send_nowait(data[sent:]):
            sent += some
        assert 0 < sent < len(data)
        got = bytearray()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, data[sent:])
            while len(got) < len(data):
                got += await theirs.receive_some()
        assert got == data


async def test_a_write_that_waits_can_be_cancelled_and_one_that_has_not_begun_too() -> None:
    async with connected() as (ours, _):
        with trio.CancelScope() as before:
            before.cancel()
            await ours.send_all(b"x")
        assert before.cancelled_caught
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, bytes(20_000_000))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def test_closing_wakes_the_reader_and_ends_everything() -> None:
    async with connected() as (ours, _):
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await ours.receive_some()

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            await ours.aclose()
        await ours.aclose()
        for use in (ours.receive_some, ours.wait_send_all_might_not_block):
            with pytest.raises(trio.ClosedResourceError):
                await use()
        with pytest.raises(trio.ClosedResourceError):
            ours.send_nowait(b"x")


async def test_a_reset_breaks_both_directions() -> None:
    async with connected() as (ours, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
        await theirs.aclose()
        with pytest.raises(trio.BrokenResourceError, match="the connection broke"):
            await ours.receive_some()
        with pytest.raises(trio.BrokenResourceError, match="the connection broke"):
            for _ in range(3):
                await ours.send_all(b"x")


async def test_a_wire_stream_writes_at_once_where_it_can_and_keeps_errors_for_later() -> None:
    async with connected() as (ours, theirs):
        wire = WireStream(ours)
        assert wire.send_nowait(b"abc") == 3
        assert await theirs.receive_some() == b"abc"
        wire.cork()
        assert wire.send_nowait(b"held back") == 0
        wire.uncork()
        await ours.aclose()
        assert wire.send_nowait(b"x") == 0
    one, _ = trio.testing.memory_stream_pair()
    assert WireStream(one).send_nowait(b"x") == 0
