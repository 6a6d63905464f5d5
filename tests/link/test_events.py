"""Connection events: everybody who listens is told everything, from the present state on."""

from __future__ import annotations

import gc
import weakref

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_dispatch._link.events import (
    EVENTS_KEPT,
    Announcer,
    Connected,
    ConnectionEvent,
    Disconnected,
    LinkEvents,
)
from trio_dispatch._wire.errors import ConnectionLost

UP = Connected("ws://h/dwp", "ws_1")


async def next_of(events: LinkEvents) -> ConnectionEvent:
    """The next event, which must be there."""
    with trio.fail_after(1):
        return await events.receive()


def test_events_tell_whether_there_is_a_connection() -> None:
    assert UP.connected
    assert not Disconnected().connected
    assert Connected("ws://h/dwp").session_id is None
    down = Disconnected(ConnectionLost("gone"), 1.5)
    assert (str(down.reason), down.retry_in) == ("gone", 1.5)
    assert Disconnected() == Disconnected(None, None)


async def test_a_stream_begins_with_the_present_state(autojump_clock: object) -> None:
    announcer = Announcer()
    opened_before = announcer.listen()
    async with announcer.listen() as events:
        assert await next_of(events) == Disconnected()
    announcer.tell(UP)
    async with announcer.listen() as events:
        assert await next_of(events) == UP
    down = Disconnected(ConnectionLost("gone"), 1)
    announcer.tell(down)
    async with opened_before as events:  # it listens from when its block is entered
        assert await next_of(events) == down


async def test_a_stream_that_is_never_entered_is_kept_by_nobody() -> None:
    announcer = Announcer()
    left = weakref.ref(announcer.listen())
    gc.collect()
    assert left() is None


async def test_reading_outside_its_block_is_a_mistake_that_says_so() -> None:
    events = Announcer().listen()
    with pytest.raises(RuntimeError, match="async with"):
        await events.receive()


async def test_a_stream_is_entered_once() -> None:
    async with Announcer().listen() as events:
        with pytest.raises(RuntimeError, match="once"):
            await events.__aenter__()
        assert await events.receive() == Disconnected()


async def test_leaving_does_not_replace_what_the_body_raised() -> None:
    with trio.CancelScope() as scope, pytest.raises(KeyboardInterrupt):
        async with Announcer().listen():
            scope.cancel()
            raise KeyboardInterrupt
    assert not scope.cancelled_caught


async def test_every_listener_gets_every_event_in_order(autojump_clock: object) -> None:
    announcer = Announcer()
    async with announcer.listen() as early:
        announcer.tell(UP)
        async with announcer.listen() as late:
            down = Disconnected(None, 2)
            announcer.tell(down)
            assert [await next_of(early) for _ in range(3)] == [Disconnected(), UP, down]
            assert [await next_of(late) for _ in range(2)] == [UP, down]


async def test_a_listener_waits_for_what_comes_next() -> None:
    announcer, got = Announcer(), []

    async def listen() -> None:
        async with announcer.listen() as events:
            async for event in events:
                got.append(event)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(listen)
        await wait_all_tasks_blocked()
        assert got == [Disconnected()]
        announcer.tell(UP)
        await wait_all_tasks_blocked()
        assert got == [Disconnected(), UP]
        announcer.end(None)  # ends the loop, and so the task
    assert got == [Disconnected(), UP]


async def test_an_error_that_ends_the_link_is_raised_behind_the_events() -> None:
    announcer = Announcer()
    async with announcer.listen() as events:
        announcer.end(ConnectionLost("gone"))
        assert await events.receive() == Disconnected()
        with pytest.raises(ConnectionLost, match="gone"):
            await events.receive()


@pytest.mark.parametrize(
    ("error", "expected"), [(None, trio.EndOfChannel), (ConnectionLost("gone"), ConnectionLost)]
)
async def test_who_listens_after_the_end_gets_the_last_state_and_the_end(
    error: Exception | None, expected: type[Exception]
) -> None:
    announcer = Announcer()
    last = Disconnected(error)
    announcer.tell(last)
    announcer.end(error)
    async with announcer.listen() as events:
        assert await events.receive() == last
        with pytest.raises(expected):
            await events.receive()


async def test_after_the_block_reading_is_a_mistake_and_nothing_is_stored() -> None:
    announcer = Announcer()
    async with announcer.listen() as events:
        pass
    announcer.tell(UP)
    announcer.end(ConnectionLost("gone"))
    with pytest.raises(trio.ClosedResourceError):
        await events.receive()


async def test_closing_is_a_checkpoint_and_idempotent() -> None:
    announcer = Announcer()
    events = announcer.listen()
    for _ in range(2):
        with assert_checkpoints():
            await events.aclose()


async def test_a_stream_that_was_left_is_forgotten() -> None:
    announcer = Announcer()
    async with announcer.listen() as events:
        left = weakref.ref(events)
    del events
    gc.collect()
    assert left() is None


async def test_leaving_one_stream_leaves_the_others(autojump_clock: object) -> None:
    announcer = Announcer()
    async with announcer.listen() as left, announcer.listen() as kept:
        await left.aclose()
        announcer.tell(UP)
        assert [await next_of(kept) for _ in range(2)] == [Disconnected(), UP]


async def test_a_listener_that_does_not_read_loses_the_oldest_and_holds_up_nobody(
    autojump_clock: object,
) -> None:
    announcer = Announcer()
    async with announcer.listen() as events:
        for n in range(EVENTS_KEPT + 4):
            announcer.tell(Connected("ws://h/dwp", str(n)))
        assert events.dropped == 5
        assert await next_of(events) == Connected("ws://h/dwp", "4")


async def test_cancelled_it_takes_nothing(autojump_clock: object) -> None:
    announcer = Announcer()
    async with announcer.listen() as events:
        with trio.CancelScope() as scope:
            scope.cancel()
            await events.receive()
        assert await next_of(events) == Disconnected()
