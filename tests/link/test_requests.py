"""Requests and the queue: who waits, what is written next, and when time is up."""

from __future__ import annotations

import math

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, assert_checkpoints, wait_all_tasks_blocked

from trio_dispatch._link.requests import Lane, Request, RequestQueue, timed_out
from trio_dispatch._wire.errors import ConnectionLost
from trio_dispatch._wire.frames import Frame, FrameType, WireFrame

ANSWER = WireFrame(id="answer")


def request(lane: Lane = Lane.CALLS) -> Request:
    """A request for nothing in particular."""
    return Request(Frame(method="stats"), lane=lane)


def nobody_gives_up(given_up: Request) -> None:
    """Stands where a request must not be given up."""
    raise AssertionError(given_up)


# Waiting.


async def test_the_answer_wakes_who_waits() -> None:
    asked, got = request(), []

    async def ask() -> None:
        got.append(await asked.wait(nobody_gives_up))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        asked.finish(ANSWER)
        assert asked.finished
        assert got == []  # woken, but not run yet: who settles requests is not interrupted
    assert got == [ANSWER]


async def test_an_error_is_raised_to_who_waits() -> None:
    asked, error = request(), ConnectionLost("gone", True)

    async def ask() -> None:
        with pytest.raises(ConnectionLost) as caught:
            await asked.wait(nobody_gives_up)
        assert caught.value is error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        asked.finish(error=error)


async def test_what_is_done_already_is_a_checkpoint_all_the_same() -> None:
    answered, failed, written = request(), request(), request()
    answered.finish(ANSWER)
    failed.finish(error=ConnectionLost("gone"))
    written.finish()
    with assert_checkpoints():
        assert await answered.wait(nobody_gives_up) is ANSWER
    with assert_checkpoints(), pytest.raises(ConnectionLost):
        await failed.wait(nobody_gives_up)
    with assert_checkpoints():
        assert await written.wait(nobody_gives_up) is None


async def test_a_request_is_settled_once() -> None:
    asked = request()
    asked.finish(ANSWER)
    asked.finish(error=ConnectionLost("too late"))
    assert await asked.wait(nobody_gives_up) is ANSWER
    assert asked.error is None


async def test_cancelled_it_gives_up_and_what_comes_later_is_nobodys() -> None:
    asked = request()
    given_up: list[Request] = []

    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.wait, given_up.append)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        # It is given up at once, so that a frame that is not written yet will never be.
        assert given_up == [asked]
        asked.finish(ANSWER)
    assert asked.answer is None
    assert given_up == [asked]


async def test_cancelled_before_it_waits_it_gives_up_as_well() -> None:
    asked = request()
    given_up: list[Request] = []
    with trio.CancelScope() as scope:
        scope.cancel()
        await asked.wait(given_up.append)
    assert scope.cancelled_caught
    assert given_up == [asked]


async def test_cancelled_after_the_answer_has_come_it_returns_the_answer() -> None:
    asked, got = request(), []

    async def ask() -> None:
        got.append(await asked.wait(nobody_gives_up))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await wait_all_tasks_blocked()
        asked.finish(ANSWER)
        nursery.cancel_scope.cancel()
    assert got == [ANSWER]


def test_a_request_that_nobody_waits_for_may_call_when_it_is_done() -> None:
    done: list[Request] = []
    asked = Request(Frame(), on_done=done.append)
    error = ConnectionLost("gone")
    asked.finish(error=error)
    asked.finish(ANSWER)
    assert done == [asked]
    assert asked.error is error


@pytest.mark.parametrize(
    ("written", "drops", "maybe"),
    [(False, 0, False), (True, 0, True), (False, 1, True), (True, 1, True)],
)
def test_what_was_ever_written_may_have_been_delivered(
    written: bool, drops: int, maybe: bool
) -> None:
    asked = request()
    asked.written, asked.drops = written, drops
    assert asked.maybe_delivered is maybe


# The queue.


def write_all(queue: RequestQueue) -> list[Request]:
    """Take everything as the writer does."""
    taken: list[Request] = []
    while (next_one := queue.peek(window_full=False)) is not None:
        queue.remove(next_one)
        taken.append(next_one)
    return taken


def test_lanes_go_in_their_order_and_each_in_the_order_of_arrival() -> None:
    queue = RequestQueue()
    calls = [request(), request()]
    again = [request(Lane.AGAIN), request(Lane.AGAIN)]
    restoring = [request(Lane.RESTORE), request(Lane.RESTORE)]
    for one in zip(calls, again, restoring, strict=True):
        for asked in one:
            queue.put(asked)
    assert len(queue) == 6
    assert write_all(queue) == [*restoring, *again, *calls]
    assert len(queue) == 0
    assert queue.peek(window_full=False) is None


def test_looking_at_the_next_one_does_not_take_it() -> None:
    queue, asked = RequestQueue(), request()
    queue.put(asked)
    assert queue.peek(window_full=False) is asked
    assert queue.peek(window_full=False) is asked
    assert asked in queue
    queue.remove(asked)
    assert asked not in queue


def test_when_the_window_is_full_only_subscriptions_go_out() -> None:
    queue = RequestQueue()
    queue.put(request())
    queue.put(request(Lane.AGAIN))
    assert queue.peek(window_full=True) is None
    restoring = request(Lane.RESTORE)
    queue.put(restoring)
    assert queue.peek(window_full=True) is restoring


def test_what_is_removed_is_never_written() -> None:
    queue = RequestQueue()
    asked = [request() for _ in range(3)]
    for one in asked:
        queue.put(one)
    queue.remove(asked[1])
    queue.remove(asked[1])
    queue.remove(request())
    assert write_all(queue) == [asked[0], asked[2]]


def test_clearing_a_lane_leaves_the_others() -> None:
    queue = RequestQueue()
    restoring, call = request(Lane.RESTORE), request()
    queue.put(restoring)
    queue.put(call)
    queue.clear(Lane.RESTORE)
    assert restoring not in queue
    assert write_all(queue) == [call]


def test_draining_takes_everything_in_order() -> None:
    queue = RequestQueue()
    call, restoring = request(), request(Lane.RESTORE)
    queue.put(call)
    queue.put(restoring)
    assert queue.drain() == [restoring, call]
    assert len(queue) == 0
    assert queue.drain() == []


@given(st.lists(st.tuples(st.sampled_from(Lane), st.booleans()), max_size=20))
def test_what_is_put_and_not_removed_is_written_once(plan: list[tuple[Lane, bool]]) -> None:
    queue, kept = RequestQueue(), []
    for lane, stays in plan:
        asked = request(lane)
        queue.put(asked)
        if stays:
            kept.append(asked)
        else:
            queue.remove(asked)
    assert len(queue) == len(kept)
    assert write_all(queue) == sorted(kept, key=lambda asked: asked.lane.value)


# Deadlines.


async def test_deadlines_pass_one_after_another(autojump_clock: MockClock) -> None:
    queue = RequestQueue()
    assert queue.next_deadline() is None
    asked = [request() for _ in range(3)]
    start = trio.current_time()
    for one in asked:
        queue.watch(one, 10)
        await trio.sleep(1)
    assert [one.deadline - start for one in asked] == [10, 11, 12]
    assert queue.next_deadline() == start + 10
    assert queue.expired(start + 9.9) == []
    assert queue.expired(start + 11) == asked[:2]
    assert queue.expired(start + 11) == []
    assert queue.next_deadline() == start + 12


async def test_a_request_that_is_done_has_no_deadline(autojump_clock: MockClock) -> None:
    queue, first, second = RequestQueue(), request(), request()
    assert first.deadline == math.inf
    queue.watch(first, 10)
    queue.watch(second, 20)
    queue.unwatch(first)
    queue.unwatch(first)
    assert queue.next_deadline() == second.deadline
    assert queue.expired(math.inf) == [second]
    assert queue.next_deadline() is None


async def test_a_deadline_that_is_set_anew_takes_its_place_at_the_end(
    autojump_clock: MockClock,
) -> None:
    queue, first, second = RequestQueue(), request(), request()
    queue.watch(first, 10)
    await trio.sleep(1)
    queue.watch(second, 10)
    await trio.sleep(1)
    queue.watch(first, 10)
    assert queue.next_deadline() == second.deadline
    assert queue.expired(second.deadline) == [second]
    assert queue.expired(first.deadline) == [first]


def test_a_timeout_says_what_became_of_the_request() -> None:
    unsent = timed_out(request(), 30)
    assert str(unsent) == (
        "stats: no answer within 30 s; "
        "it was never sent (no connection, or too many requests in flight)"
    )
    assert not unsent.maybe_delivered
    written = request()
    written.written = True
    sent = timed_out(written, 0.5)
    assert str(sent) == (
        "stats: no answer within 0.5 s; it was sent, so the server may still carry it out"
    )
    assert sent.maybe_delivered


@pytest.mark.parametrize(
    ("frame", "subject"), [(Frame(type=FrameType.PING), "ping"), (Frame(), "the message")]
)
def test_a_timeout_names_a_frame_without_a_method_as_well_as_it_can(
    frame: Frame, subject: str
) -> None:
    assert str(timed_out(Request(frame), 30)).startswith(f"{subject}: no answer")
