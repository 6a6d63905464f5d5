"""The pipe is a trio stream like any other, and breaks like a connection."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trio_dispatch.testing import PipeEnd, pipe


async def test_it_is_a_half_closeable_stream_like_trios_own() -> None:
    async def maker() -> tuple[PipeEnd, PipeEnd]:
        return pipe()

    async def clogged() -> tuple[PipeEnd, PipeEnd]:
        a, b = pipe()
        for end in (a, b):
            with trio.move_on_after(0):
                await end.send_all(bytes(200_000))
            end._outgoing.held[:] = bytes(64 * 1024)
        return a, b

    await trio.testing.check_half_closeable_stream(maker, clogged)


async def test_a_reset_breaks_both_ends_and_loses_what_is_on_its_way() -> None:
    a, b = pipe()
    await a.send_all(b"lost")
    a.reset()
    for end in (a, b):
        with pytest.raises(trio.BrokenResourceError):
            await end.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await end.send_all(b"x")


async def test_sending_waits_while_64_kib_are_on_their_way(autojump_clock: object) -> None:
    a, b = pipe()
    await a.send_all(bytes(64 * 1024))
    with trio.move_on_after(1) as scope:
        await a.send_all(b"x")
    assert scope.cancelled_caught
    assert len(await b.receive_some()) == 64 * 1024
    await a.send_all(b"x")
