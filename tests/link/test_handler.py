"""The user's handler: one frame at a time, in order, and nothing that it does harms the link."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_dispatch._link.handler import LOG_PAUSE, WAITING, Handler, HandlerTask, OnFull
from trio_dispatch._link.interfaces import Room
from trio_dispatch._wire.errors import ConnectionLost
from trio_dispatch._wire.frames import Frame
from trio_dispatch._wire.session import Ready

LOG = logging.getLogger("tests.handler")


def frame(n: int) -> Frame:
    """A message."""
    return Frame(id=str(n), data={"n": n})


@asynccontextmanager
async def handling(
    handler: Handler | None, on_full: OnFull = "pause", room: Room | None = None
) -> AsyncIterator[HandlerTask]:
    """A handler at work."""
    task = HandlerTask(handler, LOG, room, on_full)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(task.run)
        yield task
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def test_a_plain_handler_gets_every_message_in_order() -> None:
    got: list[Frame] = []
    async with handling(got.append) as task:
        task.on_push(frame(1))
        task.on_stray(frame(2))
        assert got == []  # not in the reader, but in a task of its own
    assert got == [Frame(id="1", data={"n": 1}), Frame(id="2", data={"n": 2})]


async def test_an_async_handler_gets_one_frame_at_a_time(autojump_clock: object) -> None:
    log: list[str] = []

    async def handle(frame: Frame) -> None:
        log.append(f"begin {frame.id}")
        await trio.sleep(1)
        log.append(f"end {frame.id}")

    async with handling(handle) as task:
        for n in (1, 2):
            task.on_push(frame(n))
        await trio.sleep(3)
    assert log == ["begin 1", "end 1", "begin 2", "end 2"]


async def test_what_a_plain_handler_returns_is_awaited_if_it_can_be() -> None:
    awaited: list[str] = []

    async def later(id: str) -> None:
        await trio.lowlevel.checkpoint()
        awaited.append(id)

    async with handling(lambda frame: later(frame.id)) as task:
        task.on_push(frame(1))
    assert awaited == ["1"]


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_what_a_handler_raises_is_logged_and_the_next_frame_is_handled(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[str] = []

    def plain(frame: Frame) -> None:
        got.append(frame.id)
        raise ValueError("boom")

    async def slow(frame: Frame) -> None:
        await trio.lowlevel.checkpoint()
        plain(frame)

    async with handling(plain if kind == "plain" else slow) as task:
        task.on_push(frame(1))
        task.on_push(frame(2))
    assert got == ["1", "2"]
    assert [record.exc_text is not None for record in caplog.records] == [True, True]
    assert "boom" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_only_exceptions_are_caught(error: type[BaseException]) -> None:
    def handle(frame: Frame) -> None:
        raise error

    task = HandlerTask(handle, LOG)
    task.on_push(frame(1))
    with pytest.raises(error):
        await task.run()


async def test_a_handler_is_cancelled_with_the_link() -> None:
    ended: list[str] = []

    async def handle(frame: Frame) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(frame.id)

    async with handling(handle) as task:
        task.on_push(frame(1))
        task.on_push(frame(2))
    assert ended == ["1"]


async def test_frames_beyond_the_queue_are_dropped_counted_and_logged_once_a_minute(
    caplog: pytest.LogCaptureFixture, autojump_clock: object
) -> None:
    got: list[Frame] = []
    async with handling(got.append, "drop") as task:
        for n in range(WAITING + 200):
            task.on_push(frame(n))
        assert task.dropped == 200
        assert len(caplog.records) == 1
        await trio.sleep(LOG_PAUSE)
        for n in range(WAITING + 2):
            task.on_push(frame(n))
        assert len(caplog.records) == 2
    assert len(got) == 2 * WAITING
    assert "dropped so far: 201" in caplog.text


async def test_without_a_handler_frames_are_dropped_and_nobody_minds(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with handling(None) as task:
        for n in range(WAITING + 2):
            task.on_push(frame(n))
    assert task.dropped == 0
    assert caplog.records == []


async def test_what_else_the_link_tells_needs_nothing() -> None:
    got: list[Frame] = []
    async with handling(got.append) as task:
        task.on_ready(Ready(None, "", None))
        task.on_lost(None)
        task.on_end(ConnectionLost("gone"))
        task.on_push(frame(1))
    assert len(got) == 1


async def test_a_full_queue_loses_nothing_and_asks_for_a_pause() -> None:
    got: list[Frame] = []
    room = Room()
    async with handling(got.append, room=room) as task:
        for n in range(WAITING):
            task.on_push(frame(n))
        states = [room.is_full]
        for n in range(WAITING, 3 * WAITING):  # what had been read already
            task.on_push(frame(n))
        states.append(room.is_full)
        assert states == [False, True]
        with trio.fail_after(5):
            await room.wait()
    assert [frame.id for frame in got] == [str(n) for n in range(3 * WAITING)]
    assert task.dropped == 0
