"""Mailboxes: a memory channel that tells what is missing, and where.

Its meaning to readers is that of trio's own memory channel (cancellation is atomic, each item goes
to one reader, in order, closing wakes everybody); to the one who puts, it never blocks. Between
the two stand overflows and gaps.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_dispatch._link.mailbox import IN_A_ROW, Mailbox, Overflow
from trio_dispatch._wire.errors import ConnectionLost, SubscriptionOverflow
from trio_dispatch._wire.models import StreamGap

POLICIES = pytest.mark.parametrize("overflow", ["raise", "drop_oldest"])


def at(second: int) -> datetime:
    """A time."""
    return datetime(2026, 11, 21, tzinfo=timezone.utc) + timedelta(seconds=second)


def mailbox(*items: int, capacity: int = 100, overflow: Overflow = "raise") -> Mailbox[int]:
    """A mailbox with *items*."""
    box: Mailbox[int] = Mailbox(capacity, overflow)
    for item in items:
        box.put(item)
    return box


def take(box: Mailbox[int]) -> object:
    """What `receive_nowait` gives, in few words."""
    try:
        item = box.receive_nowait()
    except trio.WouldBlock:
        return "nothing"
    except trio.EndOfChannel:
        return "end"
    except trio.ClosedResourceError:
        return "closed"
    except SubscriptionOverflow as exc:
        return f"missed {exc.missed}"
    except ConnectionLost:
        return "lost"
    if isinstance(item, StreamGap):
        return ("gap", item.since, item.until, *filter(None, [item.server]))
    return item


def take_all(box: Mailbox[int]) -> list[object]:
    """Everything that can be had now, and why there is no more."""
    found: list[object] = []
    while not found or found[-1] not in ("nothing", "end", "closed", "lost"):
        found.append(take(box))
    return found


# A memory channel.


@POLICIES
async def test_items_come_in_the_order_in_which_they_were_put(overflow: Overflow) -> None:
    box = mailbox(1, 2, 3, overflow=overflow)
    assert len(box) == 3
    assert await box.receive() == 1
    box.put(4)
    assert [await box.receive() for _ in range(3)] == [2, 3, 4]
    assert len(box) == 0
    with pytest.raises(trio.WouldBlock):
        box.receive_nowait()


async def test_receiving_waits_for_an_item() -> None:
    box, got = mailbox(), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        assert got == []
        box.put(1)
        await wait_all_tasks_blocked()
        assert got == [1]


async def test_receiving_is_a_checkpoint_whatever_comes_of_it() -> None:
    box = mailbox(1, 2, capacity=1)
    with assert_checkpoints():
        assert await box.receive() == 1
    with assert_checkpoints(), pytest.raises(SubscriptionOverflow):
        await box.receive()
    box.open_gap(at(1))
    box.close_gap(at(2))
    with assert_checkpoints():
        assert isinstance(await box.receive(), StreamGap)
    box.end()
    with assert_checkpoints(), pytest.raises(trio.EndOfChannel):
        await box.receive()
    box.close()
    with assert_checkpoints(), pytest.raises(trio.ClosedResourceError):
        await box.receive()


async def test_a_loop_gives_other_tasks_a_turn_now_and_then_and_can_always_be_cancelled() -> None:
    box = mailbox(*range(3 * IN_A_ROW), capacity=100)
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count_turns)
        for _ in range(3 * IN_A_ROW):
            await box.receive_in_a_row()
        assert 1 <= turns <= 6
        nursery.cancel_scope.cancel()
    box.put(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.receive_in_a_row()
    assert scope.cancelled_caught
    assert take_all(box) == [1, "nothing"]


async def test_cancelled_before_it_receives_it_takes_nothing() -> None:
    box = mailbox(1)
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.receive()
    assert scope.cancelled_caught
    assert take_all(box) == [1, "nothing"]


async def test_cancelled_before_it_learns_of_an_overflow_it_leaves_it_to_the_next() -> None:
    box = mailbox(1, 2, capacity=1)
    assert take(box) == 1
    with trio.CancelScope() as scope:
        scope.cancel()
        await box.receive()
    assert take(box) == "missed 1"


async def test_cancelled_while_it_waits_it_takes_nothing() -> None:
    box = mailbox()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        box.put(1)
    assert take_all(box) == [1, "nothing"]


async def test_cancelled_when_its_item_is_there_it_takes_it() -> None:
    box, got = mailbox(), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        box.put(1)
        nursery.cancel_scope.cancel()
    assert got == [1]
    assert take_all(box) == ["nothing"]


async def test_a_cancelled_reader_leaves_the_next_item_to_another() -> None:
    box, got = mailbox(), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as cancelled:
                cancelled.start_soon(read)
                await wait_all_tasks_blocked()
                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                scope.cancel()
        box.put(1)
    assert got == [1]


async def test_cancelled_when_it_has_its_item_it_keeps_it() -> None:
    for _ in range(20):  # which task runs first is up to chance
        box, got = mailbox(1), []
        async with trio.open_nursery() as nursery:

            async def cancel(nursery: trio.Nursery = nursery) -> None:
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel)
            got.append(await box.receive())
        assert got == [1]


@pytest.mark.parametrize("burst", [1, 2, 10])
async def test_each_item_goes_to_one_of_several_readers(burst: int) -> None:
    box = mailbox()
    got: dict[int, list[Any]] = {n: [] for n in range(5)}

    async def read(n: int) -> None:
        while True:
            got[n].append(await box.receive())

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(read, n)
        await wait_all_tasks_blocked()
        for item in range(10):
            box.put(item)
            if (item + 1) % burst == 0:
                await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert all(items == sorted(items) for items in got.values())
    assert sorted(item for items in got.values() for item in items) == list(range(10))
    if burst == 1:
        assert all(len(items) == 2 for items in got.values())  # who waits longest comes first


async def test_a_reader_whose_item_was_taken_by_another_waits_on() -> None:
    box, got = mailbox(), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        box.put(1)
        assert take(box) == 1
        await wait_all_tasks_blocked()
        assert got == []
        box.put(2)
    assert got == [2]


# The end.


async def test_after_the_end_what_is_stored_can_be_read() -> None:
    box = mailbox(1, 2)
    box.end()
    box.put(3)
    box.open_gap(at(1))
    assert [await box.receive(), await box.receive()] == [1, 2]
    for _ in range(2):
        with pytest.raises(trio.EndOfChannel):
            await box.receive()
    assert box.dropped == 0


async def test_an_error_is_raised_behind_what_is_stored_and_fresh_each_time() -> None:
    box = mailbox(1)
    error = ConnectionLost("gone", True)
    box.end(error)
    box.end()
    assert await box.receive() == 1
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="gone") as caught:
            await box.receive()
        assert caught.value is not error
        assert caught.value.maybe_delivered
    assert error.__traceback__ is None


async def test_the_first_error_counts() -> None:
    box = mailbox()
    box.end(ConnectionLost("first"))
    box.end(ConnectionLost("second"))
    with pytest.raises(ConnectionLost, match="first"):
        await box.receive()


@pytest.mark.parametrize(
    ("finish", "expected"),
    [
        (lambda box: box.end(), trio.EndOfChannel),
        (lambda box: box.end(ConnectionLost("gone")), ConnectionLost),
        (lambda box: box.close(), trio.ClosedResourceError),
    ],
    ids=["end", "error", "close"],
)
async def test_ending_and_closing_wake_all_readers(
    finish: Callable[[Mailbox[int]], None], expected: type[Exception]
) -> None:
    box, seen = mailbox(), []

    async def read() -> None:
        with pytest.raises(expected) as caught:
            await box.receive()
        seen.append(caught.value)

    async with trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(read)
        await wait_all_tasks_blocked()
        finish(box)
    assert len({id(error) for error in seen}) == 3


async def test_closing_drops_what_is_stored_and_makes_reading_a_mistake() -> None:
    box = mailbox(1, 2, capacity=1)
    box.open_gap(at(1))
    box.close()
    box.close()
    assert len(box) == 0
    box.put(3)
    box.open_gap(at(2))
    box.close_gap(at(3))
    box.end(ConnectionLost("gone"))
    assert len(box) == 0
    for _ in range(2):
        with pytest.raises(trio.ClosedResourceError):
            await box.receive()
        with pytest.raises(trio.ClosedResourceError):
            box.receive_nowait()
    assert box.dropped == 1


# Overflow.


def test_raise_what_was_stored_comes_first_then_the_count_then_what_is_new() -> None:
    box = mailbox(1, 2, 3, 4, 5, capacity=2)
    assert len(box) == 2
    assert box.dropped == 3
    assert take(box) == 1
    box.put(6)  # there is room again, but the reader does not know yet what it has missed
    assert box.dropped == 4
    assert take_all(box) == [2, "missed 4", "nothing"]
    box.put(7)
    assert take_all(box) == [7, "nothing"]
    assert box.dropped == 4


def test_raise_every_overflow_is_told_with_its_own_count() -> None:
    box = mailbox(1, 2, capacity=1)
    assert take_all(box) == [1, "missed 1", "nothing"]
    for item in (3, 4, 5):
        box.put(item)
    assert take_all(box) == [3, "missed 2", "nothing"]
    assert box.dropped == 3


def test_raise_an_overflow_is_told_before_the_end() -> None:
    box = mailbox(1, 2, capacity=1)
    box.end(ConnectionLost("gone"))
    assert take_all(box) == [1, "missed 1", "lost"]


def test_drop_oldest_the_newest_are_kept_and_the_others_counted() -> None:
    box = mailbox(1, 2, 3, 4, 5, capacity=2, overflow="drop_oldest")
    assert len(box) == 2
    assert box.dropped == 3
    assert take(box) == 4
    box.put(6)
    assert box.dropped == 3
    assert take_all(box) == [5, 6, "nothing"]


@POLICIES
async def test_a_full_mailbox_wakes_its_reader_all_the_same(overflow: Overflow) -> None:
    box, got = mailbox(capacity=1, overflow=overflow), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        box.put(1)
        box.put(2)
    assert got == [1 if overflow == "raise" else 2]
    assert box.dropped == 1


# Gaps.


@POLICIES
def test_a_gap_stands_where_the_connection_was_lost_and_takes_no_room(overflow: Overflow) -> None:
    box = mailbox(1, 2, capacity=2, overflow=overflow)
    box.open_gap(at(1))
    assert len(box) == 2
    assert box.dropped == 0
    box.close_gap(at(2))
    assert len(box) == 2
    assert take_all(box) == [1, 2, ("gap", at(1), at(2)), "nothing"]


async def test_a_gap_is_delivered_when_it_is_over_and_what_is_behind_it_after_it() -> None:
    box, got = mailbox(1), []

    async def read() -> None:
        while True:
            got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        box.open_gap(at(1))
        box.put(2)
        await wait_all_tasks_blocked()
        assert got == [1]
        box.close_gap(at(2))
        await wait_all_tasks_blocked()
        assert got == [1, StreamGap(since=at(1), until=at(2)), 2]
        nursery.cancel_scope.cancel()


async def test_a_gap_that_is_over_wakes_a_reader_for_everything_behind_it() -> None:
    box, got = mailbox(), []

    async def read() -> None:
        got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        for _ in range(4):
            nursery.start_soon(read)
        box.open_gap(at(1))
        await wait_all_tasks_blocked()
        for item in (1, 2, 3):
            box.put(item)
        await wait_all_tasks_blocked()
        assert got == []
        box.close_gap(at(2))
    assert sorted(map(str, got)) == sorted(map(str, [1, 2, 3, StreamGap(since=at(1), until=at(2))]))


def test_a_gap_may_have_no_times() -> None:
    box = mailbox()
    box.open_gap(None)
    box.close_gap(None)
    assert take_all(box) == [("gap", None, None), "nothing"]


def test_closing_a_gap_where_there_is_none_does_nothing() -> None:
    box = mailbox(1)
    box.close_gap(at(1))
    assert take_all(box) == [1, "nothing"]


def test_gaps_with_nothing_between_them_are_one() -> None:
    box = mailbox()
    box.open_gap(at(1))
    box.open_gap(at(2))  # lost again before all was restored
    box.close_gap(at(3))
    box.open_gap(at(4))  # lost again before anything came
    assert take(box) == "nothing"
    box.close_gap(at(5))
    assert take_all(box) == [("gap", at(1), at(5)), "nothing"]


def test_gaps_with_something_between_them_are_several() -> None:
    box = mailbox()
    for n in range(3):
        box.open_gap(at(10 * n))
        box.close_gap(at(10 * n + 5))
        box.put(n)
    assert take_all(box) == [
        ("gap", at(0), at(5)),
        0,
        ("gap", at(10), at(15)),
        1,
        ("gap", at(20), at(25)),
        2,
        "nothing",
    ]


def test_a_gap_that_is_open_behind_another_open_one_ends_with_it() -> None:
    box = mailbox()
    box.open_gap(at(1))
    box.put(1)  # one channel was restored, others not yet
    box.open_gap(at(2))
    box.close_gap(at(3))
    assert take_all(box) == [("gap", at(1), at(3)), 1, ("gap", at(2), at(3)), "nothing"]


def test_drop_oldest_drops_no_gap_but_the_item_behind_it() -> None:
    box = mailbox(capacity=2, overflow="drop_oldest")
    box.open_gap(at(1))
    for item in (1, 2, 3):
        box.put(item)
    box.close_gap(at(2))
    assert take_all(box) == [("gap", at(1), at(2)), 2, 3, "nothing"]
    assert box.dropped == 1


def test_drop_oldest_merges_gaps_when_it_drops_all_between_them() -> None:
    box = mailbox(capacity=2, overflow="drop_oldest")
    box.open_gap(at(1))
    box.close_gap(at(2))
    box.put(1)
    box.open_gap(at(3))
    box.close_gap(at(4))
    box.put(2)
    box.put(3)
    assert take_all(box) == [("gap", at(1), at(4)), 2, 3, "nothing"]
    assert box.dropped == 1


def test_drop_oldest_merges_with_a_gap_that_is_still_open() -> None:
    box = mailbox(capacity=1, overflow="drop_oldest")
    box.open_gap(at(1))
    box.close_gap(at(2))
    box.put(1)
    box.open_gap(at(3))
    box.put(2)
    assert take(box) == "nothing"
    box.close_gap(at(4))
    assert take_all(box) == [("gap", at(1), at(4)), 2, "nothing"]


def test_raise_an_overflow_and_a_gap_are_told_one_after_the_other() -> None:
    box = mailbox(1, 2, capacity=1)
    box.open_gap(at(1))
    box.put(3)
    box.close_gap(at(2))
    box.put(4)
    # What was missed behind the gap is counted behind it.
    assert take(box) == 1
    box.put(5)  # not stored: the reader has not been told yet
    told = [take(box), take(box)]
    box.put(6)  # nor now: there is another overflow to be told of
    assert told + take_all(box) == [
        "missed 1",
        ("gap", at(1), at(2)),
        "missed 4",
        "nothing",
    ]
    box.put(7)
    assert take_all(box) == [7, "nothing"]
    assert box.dropped == 5


def test_raise_the_mailbox_may_overflow_while_a_gap_is_open() -> None:
    box = mailbox(capacity=1)
    box.open_gap(at(1))
    for item in (1, 2, 3):
        box.put(item)
    assert take(box) == "nothing"
    box.close_gap(at(2))
    assert take_all(box) == [("gap", at(1), at(2)), 1, "missed 2", "nothing"]


def test_an_error_stands_for_the_gap_that_it_ends() -> None:
    box = mailbox(1)
    box.open_gap(at(1))
    box.end(ConnectionLost("gone"))
    assert take_all(box) == [1, "lost"]


def test_an_end_without_an_error_leaves_the_gap_in_its_place() -> None:
    box = mailbox(1)
    box.open_gap(at(1))
    box.end()
    assert take_all(box) == [1, ("gap", at(1), None), "end"]


@pytest.mark.parametrize("error", [None, ConnectionLost("gone")])
async def test_what_came_behind_an_open_gap_can_be_read_when_the_stream_ends(
    error: Exception | None,
) -> None:
    box, got = mailbox(), []
    box.open_gap(at(1))
    box.put(1)

    async def read() -> None:
        with pytest.raises((trio.EndOfChannel, ConnectionLost)):
            while True:
                got.append(await box.receive())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        box.end(error)
    assert got == [StreamGap(since=at(1), until=None), 1]


def gap(server: str, since: int, until: int) -> StreamGap:
    """A gap in the stream of one of several servers."""
    return StreamGap(since=at(since), until=at(until), server=server)


def test_a_server_that_is_lost_holds_up_no_other() -> None:
    box: Mailbox[str] = Mailbox(100, "raise")
    box.put("a1", server="a")
    box.open_gap(at(1), "a")
    box.put("b1", server="b")
    box.put("a2", server="a")  # one of its channels is restored already
    box.put("b2", server="b")
    assert [box.receive_nowait() for _ in range(3)] == ["a1", "b1", "b2"]
    with pytest.raises(trio.WouldBlock):
        box.receive_nowait()
    box.put("b3", server="b")
    box.close_gap(at(2), "a")
    box.put("a3", server="a")
    assert len(box) == 3
    assert [box.receive_nowait() for _ in range(4)] == ["b3", gap("a", 1, 2), "a2", "a3"]


def test_gaps_of_several_servers_are_told_apart_and_each_is_one() -> None:
    box: Mailbox[str] = Mailbox(100, "raise")
    for n in range(3):
        for server in ("a", "b"):
            box.open_gap(at(10 * n), server)
        for server in ("b", "a"):
            box.close_gap(at(10 * n + 5), server)
    assert [box.receive_nowait() for _ in range(2)] == [gap("b", 0, 25), gap("a", 0, 25)]
    with pytest.raises(trio.WouldBlock):
        box.receive_nowait()


def test_drop_oldest_drops_across_servers_and_then_behind_open_gaps() -> None:
    box: Mailbox[str] = Mailbox(2, "drop_oldest")
    box.open_gap(at(1), "a")
    box.put("a1", server="a")
    box.put("b1", server="b")
    box.put("a2", server="a")
    box.put("a3", server="a")
    assert box.dropped == 2  # b1, and then a1
    box.close_gap(at(2), "a")
    assert [box.receive_nowait() for _ in range(3)] == [gap("a", 1, 2), "a2", "a3"]


@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "lose", "restore", "take"]), st.sampled_from("ab")),
        max_size=60,
    )
)
def test_each_of_two_servers_has_the_stream_that_it_would_have_alone(
    steps: list[tuple[str, str]],
) -> None:
    both: Mailbox[str] = Mailbox(1000, "raise")
    alone: dict[str, Mailbox[str]] = {server: Mailbox(1000, "raise") for server in "ab"}
    got: list[object] = []
    got_alone: dict[str, list[object]] = {"a": [], "b": []}

    def read(box: Mailbox[str]) -> list[object]:
        found: list[object] = []
        while True:
            one = take(box)  # type: ignore[arg-type]
            if one in ("nothing", "end"):
                return found
            found.append(one)

    for n, (step, server) in enumerate(steps):
        for box in (both, alone[server]):
            if step == "put":
                box.put(f"{server}{n}", server=server)
            elif step == "lose":
                box.open_gap(at(n), server)
            elif step == "restore":
                box.close_gap(at(n), server)
        if step == "take":
            got += read(both)
            for name, box in alone.items():  # they are read at the same moments
                got_alone[name] += read(box)
    both.end()
    got += read(both)
    for server, box in alone.items():
        box.end()
        expected = got_alone[server] + read(box)
        found = [
            one for one in got if (one[3] if isinstance(one, tuple) else str(one)[0]) == server
        ]
        assert _without_repeated_gaps(found) == _without_repeated_gaps(expected)


def _without_repeated_gaps(found: list[object]) -> list[object]:
    """Gaps of one server that merge or not, as another server's items stand between them or not."""
    kept: list[object] = []
    for one in found:
        last = kept[-1] if kept else None
        if isinstance(one, tuple) and isinstance(last, tuple):
            kept[-1] = (*last[:2], *one[2:])
        else:
            kept.append(one)
    return kept


def test_marks_are_bounded_however_often_the_connection_is_lost() -> None:
    box = mailbox(1, capacity=1)
    for n in range(1, 10_001):
        box.put(n)
        box.open_gap(at(n))
        box.close_gap(at(n))
    box.put(0)
    assert len(box._entries) < 200
    found = take_all(box)
    gaps = [one for one in found if isinstance(one, tuple)]
    assert gaps[0][1] == at(1)
    assert gaps[-1][2] == at(10_000)
    counts = [int(one[7:]) for one in found if isinstance(one, str) and one.startswith("missed")]
    assert sum(counts) == box.dropped == 10_001


# A bound on bytes.


def test_raise_items_that_are_too_large_together_find_it_full() -> None:
    box: Mailbox[int] = Mailbox(100, "raise")
    assert box.max_bytes == 16 * 1024**2
    half = box.max_bytes // 2
    assert [box.put(n, half) for n in range(1, 4)] == [0, 0, 1]
    assert (box.stored_bytes, box.dropped) == (2 * half, 1)
    assert take_all(box) == [1, 2, "missed 1", "nothing"]
    assert box.stored_bytes == 0


def test_drop_oldest_makes_room_for_a_large_item() -> None:
    box: Mailbox[int] = Mailbox(100, "drop_oldest")
    quarter = box.max_bytes // 4
    assert [box.put(n, quarter) for n in range(1, 5)] == [0, 0, 0, 0]
    assert box.put(5, 2 * quarter) == 2
    assert take_all(box) == [3, 4, 5, "nothing"]


@POLICIES
def test_one_item_is_stored_however_large(overflow: Overflow) -> None:
    box: Mailbox[int] = Mailbox(100, overflow)
    assert box.put(1, 10 * box.max_bytes) == 0
    assert box.put(2, 10 * box.max_bytes) == 1
    assert take(box) == (1 if overflow == "raise" else 2)


def test_a_larger_buffer_may_store_more_bytes() -> None:
    assert Mailbox[int](100_000, "raise").max_bytes == 100_000 * 1024


# A model: the same in plain lists.


class AnyOrder(RuleBasedStateMachine):
    """Puts, gaps and takes in any order, beside a model that is slow and simple."""

    @initialize(capacity=st.integers(1, 4), overflow=st.sampled_from(["raise", "drop_oldest"]))
    def make(self, capacity: int, overflow: Overflow) -> None:
        self.box = mailbox(capacity=capacity, overflow=overflow)
        self.entries: list[list[Any]] = []
        """Each is ``["item", n]``, ``["missed", count]`` or ``["gap", since, until, open]``."""
        self.ending: str | None = None
        self.clock = self.dropped = self.put_so_far = 0
        self.taken: list[int] = []

    def stored(self) -> int:
        return sum(entry[0] == "item" for entry in self.entries)

    @rule(count=st.integers(1, 3))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.put_so_far += 1
            self.box.put(self.put_so_far)
            missed = [entry for entry in self.entries if entry[0] == "missed"]
            if self.ending is not None:
                continue
            if missed or (self.stored() == self.box.capacity and self.box.overflow == "raise"):
                self.dropped += 1
                if not self.entries or self.entries[-1][0] != "missed":
                    self.entries.append(["missed", 0])
                self.entries[-1][1] += 1
                continue
            if self.stored() == self.box.capacity:
                self.dropped += 1
                oldest = next(entry for entry in self.entries if entry[0] == "item")
                self.entries.remove(oldest)
                self.merge_gaps()
            self.entries.append(["item", self.put_so_far])

    def merge_gaps(self) -> None:
        for n in range(len(self.entries) - 1, 0, -1):
            one, two = self.entries[n - 1], self.entries[n]
            if one[0] == two[0] == "gap":
                self.entries[n - 1 : n + 1] = [["gap", one[1], *two[2:]]]

    @rule()
    def lose(self) -> None:
        self.clock += 1
        self.box.open_gap(at(self.clock))
        if self.ending is None:
            self.entries.append(["gap", at(self.clock), None, True])
            self.merge_gaps()

    @rule()
    def restore(self) -> None:
        self.clock += 1
        self.box.close_gap(at(self.clock))
        self.close_gaps(at(self.clock))

    def close_gaps(self, until: datetime | None) -> None:
        for entry in self.entries:
            if entry[0] == "gap" and entry[3]:
                entry[2:] = [until, False]

    @rule(count=st.integers(1, 4))
    def take(self, count: int) -> None:
        for _ in range(count):
            found = take(self.box)
            if not self.entries:
                assert found == (self.ending or "nothing")
            elif self.entries[0][0] == "gap" and self.entries[0][3]:
                assert found == "nothing"
            else:
                kind, *rest = self.entries.pop(0)
                if kind == "item":
                    assert [found] == rest
                    self.taken += rest
                elif kind == "missed":
                    assert found == f"missed {rest[0]}"
                else:
                    assert found == ("gap", rest[0], rest[1])

    @rule(chance=st.integers(0, 9), error=st.booleans())
    def finish(self, chance: int, error: bool) -> None:
        if chance or self.ending is not None:
            return
        self.box.end(ConnectionLost("gone") if error else None)
        self.ending = "lost" if error else "end"
        if error and self.entries and self.entries[-1][0] == "gap" and self.entries[-1][3]:
            self.entries.pop()
        self.close_gaps(None)

    @invariant()
    def nothing_is_lost_in_silence(self) -> None:
        assert len(self.box) == self.stored() <= self.box.capacity
        assert self.box.dropped == self.dropped
        if self.ending is None:
            assert len(self.taken) + self.stored() + self.dropped == self.put_so_far
        assert self.taken == sorted(set(self.taken))


AnyOrder.TestCase.settings = settings(max_examples=80, stateful_step_count=30, deadline=None)
TestAnyOrder = AnyOrder.TestCase


# Readers that come and go.


class Readers:
    """Tasks that read one item each, on a mailbox to which anything may happen meanwhile."""

    def __init__(self, overflow: Overflow) -> None:
        self.box = mailbox(capacity=3, overflow=overflow)
        self.got: list[object] = []
        self.put_so_far = self.waiting = 0
        self.scopes: list[trio.CancelScope] = []

    async def run(self, steps: list[Callable[[Readers], None]], *, settle: bool) -> None:
        async with trio.open_nursery() as self.nursery:
            for step in steps:
                step(self)
                if settle:
                    await self.check()
            await self.check()
            self.nursery.cancel_scope.cancel()
        items = [item for item in self.got if isinstance(item, int)]
        assert len(set(items)) == len(items)
        assert len(items) + len(self.box) + self.box.dropped == self.put_so_far

    async def check(self) -> None:
        await wait_all_tasks_blocked()
        if self.waiting:
            assert take(self.box) == "nothing"

    async def read_one(self) -> None:
        with trio.CancelScope() as scope:
            self.scopes.append(scope)
            self.waiting += 1
            try:
                self.got.append(await self.box.receive())
            except SubscriptionOverflow as exc:
                self.got.append(f"missed {exc.missed}")
            finally:
                self.waiting -= 1

    # The steps.

    def read(self) -> None:
        self.nursery.start_soon(self.read_one)

    def put(self) -> None:
        self.put_so_far += 1
        self.box.put(self.put_so_far)

    def cancel(self) -> None:
        if self.scopes:
            self.scopes.pop(0).cancel()

    def lose(self) -> None:
        self.box.open_gap(at(0))

    def restore(self) -> None:
        self.box.close_gap(at(1))

    def take(self) -> None:
        self.got.append(take(self.box))


R = Readers
STEPS = st.sampled_from([R.read, R.read, R.put, R.put, R.put, R.cancel, R.lose, R.restore, R.take])


@given(st.lists(STEPS, max_size=30), st.sampled_from(["raise", "drop_oldest"]), st.booleans())
@settings(max_examples=60)
def test_no_reader_sleeps_while_there_is_something_for_it(
    steps: list[Callable[[Readers], None]], overflow: Overflow, settle: bool
) -> None:
    async def main() -> None:
        await Readers(overflow).run(steps, settle=settle)

    trio.run(main)
