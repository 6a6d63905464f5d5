"""Blocks: what the body raises comes out as it is, else what ended the resource, and no task stays.

`Link` and `Client` are such resources; here stands a small one of the same build, so that every
way for a block to end can be tried.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import TracebackType
from typing import ParamSpec

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_dispatch._transport.block import Blocks, in_background, open_background
from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.groups import leaves
from trio_dispatch._wire.errors import ConnectionLost

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


P = ParamSpec("P")


class Resource:
    """Something that lives in the background, and may end by itself."""

    def __init__(self) -> None:
        self.blocks = Blocks()
        self.error: Exception | None = None
        self.scope = trio.CancelScope()
        self.ended = trio.Event()
        self.closing_takes = 0.0
        self.closed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        try:
            with self.scope:
                task_status.started()
                await trio.sleep_forever()
        finally:
            if self.error is not None:
                self.blocks.cancel()
            self.ended.set()

    def end(self, error: Exception | None = None) -> None:
        """End by itself."""
        self.error = error
        self.scope.cancel()

    async def aclose(self) -> None:
        self.closed += 1
        await trio.sleep(self.closing_takes)
        self.scope.cancel()
        await self.ended.wait()

    async def __aenter__(self) -> Resource:
        self.blocks.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self.blocks.leave(exc, self.aclose, lambda: self.error)


class NothingToClose:
    """A resource that has nothing to close."""

    async def __aenter__(self) -> NothingToClose:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        pass


@asynccontextmanager
async def alone() -> AsyncIterator[Resource]:
    """A resource that is a task of the caller's, like that of `connect_client`."""
    async with trio.open_nursery() as nursery:
        resource = Resource()
        await nursery.start(resource.run)
        yield resource
        nursery.cancel_scope.cancel()


def opened(resource: Resource | None = None) -> AbstractAsyncContextManager[Resource]:
    """A resource in a block of its own, like that of `open_client`."""
    resource = resource or Resource()
    return in_background(resource.run, resource)


async def fail_when_cancelled(error: BaseException) -> None:
    """A task that answers cancellation with an error."""
    try:
        await trio.sleep_forever()
    finally:
        raise error


BODY_ERRORS = [
    ValueError("boom"),
    RuntimeError("boom"),
    StopIteration("boom"),
    StopAsyncIteration("boom"),
    ConnectionLost("boom"),
    KeyboardInterrupt(),
    SystemExit(3),
    ExceptionGroup("boom", [ValueError("a"), ExceptionGroup("b", [KeyError("c")])]),
    BaseExceptionGroup("boom", [KeyboardInterrupt(), ValueError("a")]),
]
by_name = pytest.mark.parametrize("error", BODY_ERRORS, ids=lambda error: type(error).__name__)


def outcome(main: Callable[[], Awaitable[None]], **options: object) -> BaseException | None:
    """What comes out of a run."""
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0), **options)  # type: ignore[arg-type]
    except BaseException as exc:  # noqa: BLE001 - looked at by the test
        return exc
    return None


# What the body does.


async def test_a_body_that_returns_closes_the_resource() -> None:
    async with opened() as resource:
        assert isinstance(resource, Resource)
    assert resource.ended.is_set()
    assert resource.closed == 1


def loosely(test: Callable[P, None]) -> Callable[P, None]:
    """Try with exception groups both as trio has them now, and as it had them once."""
    ignore = pytest.mark.filterwarnings(
        "ignore:.*strict_exception_groups:trio.TrioDeprecationWarning"
    )
    return ignore(pytest.mark.parametrize("strict", [True, False])(test))


@by_name
@loosely
def test_what_the_body_raises_comes_out_as_it_is(error: BaseException, strict: bool) -> None:
    resource: Resource

    async def main() -> None:
        nonlocal resource
        with pytest.raises(type(error)) as caught:
            async with opened() as resource:
                raise error
        assert caught.value is error
        assert resource.ended.is_set()

    assert outcome(main, strict_exception_groups=strict) is None
    assert error.__cause__ is None
    assert error.__context__ is None


def test_a_group_that_the_bodys_nursery_raises_comes_out_as_it_is() -> None:
    async def fail(error: Exception) -> None:
        raise error

    async def main() -> None:
        async with opened():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail, ValueError("a"))
                nursery.start_soon(fail, KeyError("b"))

    group = outcome(main)
    assert isinstance(group, ExceptionGroup)
    assert {type(error) for error in group.exceptions} == {ValueError, KeyError}


def test_what_the_body_raises_wins_over_what_ended_the_resource() -> None:
    async def main() -> None:
        async with opened() as resource:
            resource.end(ConnectionLost("gone"))
            await wait_all_tasks_blocked_uncancelled()
            raise ValueError("boom")

    assert str(outcome(main)) == "boom"


async def wait_all_tasks_blocked_uncancelled() -> None:
    """Let everything happen that can, in a body that is cancelled already."""
    with trio.CancelScope(shield=True):
        await wait_all_tasks_blocked()


@loosely
def test_what_the_body_raises_wins_over_what_the_background_raises_on_its_way_out(
    strict: bool,
) -> None:
    async def main() -> None:
        async with in_background(fail_in_the_end, NothingToClose()):
            await wait_all_tasks_blocked()
            raise ValueError("boom")

    assert str(outcome(main, strict_exception_groups=strict)) == "boom"


async def fail_in_the_end(*, task_status: trio.TaskStatus[None]) -> None:
    """A background that answers cancellation with an error, later than the body does."""
    task_status.started()
    try:
        await trio.sleep_forever()
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(1)
        raise KeyError("background")


def test_the_background_ends_with_the_block() -> None:
    ended: list[str] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        try:
            await trio.sleep_forever()
        finally:
            ended.append("background")

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            pass
        assert ended == ["background"]
        with pytest.raises(ValueError, match="boom"):
            async with in_background(run, NothingToClose()):
                raise ValueError("boom")
        assert ended == ["background"] * 2

    assert outcome(main) is None


# What ends the resource.


def test_an_error_that_ends_the_resource_cancels_the_body_and_is_raised() -> None:
    error = ConnectionLost("gone", True)
    reached: list[str] = []

    async def main() -> None:
        async with trio.open_nursery() as nursery:

            async def use() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    async with opened() as resource:
                        nursery.start_soon(trio.sleep, 0)
                        resource.end(error)
                        try:
                            await trio.sleep_forever()
                        finally:
                            reached.append("cleanup")
                assert caught.value is not error  # others may raise it, too
                assert caught.value.args == error.args
                reached.append("after")

            nursery.start_soon(use)

    assert outcome(main) is None
    assert reached == ["cleanup", "after"]


def test_the_error_is_raised_even_when_the_body_never_noticed() -> None:
    async def main() -> None:
        async with opened() as resource:
            resource.end(ConnectionLost("gone"))
            await wait_all_tasks_blocked_uncancelled()

    assert isinstance(outcome(main), ConnectionLost)


def test_a_resource_that_ends_in_peace_lets_the_body_go_on() -> None:
    reached: list[str] = []

    async def main() -> None:
        async with opened() as resource:
            resource.end()
            await trio.sleep(1)
            reached.append("end of the body")

    assert outcome(main) is None
    assert reached == ["end of the body"]


def test_what_is_left_of_a_group_when_the_body_is_cancelled_is_the_bodys_own() -> None:
    async def main() -> None:
        async with opened() as resource:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled, ValueError("boom"))
                nursery.start_soon(trio.sleep_forever)
                await wait_all_tasks_blocked()
                resource.end(ConnectionLost("gone"))

    group = outcome(main)
    assert isinstance(group, BaseExceptionGroup)
    assert [str(error) for error in leaves(group)] == ["boom"]


def test_what_the_background_raises_cancels_the_body_and_comes_out_bare() -> None:
    reached: list[str] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(1)
        raise ValueError("boom")

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            try:
                await trio.sleep_forever()
            finally:
                reached.append("cleanup")

    error = outcome(main)
    assert (type(error), str(error)) == (ValueError, "boom")
    assert reached == ["cleanup"]


@pytest.mark.parametrize("error", [ValueError("boom"), KeyboardInterrupt(), ConnectionLost("x")])
def test_what_the_background_raises_before_it_is_ready_comes_out_bare(
    error: BaseException,
) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        await trio.sleep(1)
        raise error

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            raise AssertionError("the body must not begin")

    assert outcome(main) is error


def test_a_background_that_returns_before_it_is_ready_is_a_bug() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        pass

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            raise AssertionError("the body must not begin")

    error = outcome(main)
    assert isinstance(error, RuntimeError)
    assert "started" in str(error)


def test_a_background_that_is_closed_by_the_body_is_waited_for() -> None:
    async def main() -> None:
        async with opened() as resource:
            await resource.aclose()
        assert resource.ended.is_set()

    assert outcome(main) is None


# KeyboardInterrupt and SystemExit win.


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3)])
def test_an_interrupt_in_the_background_wins_over_everything(error: BaseException) -> None:
    async def main() -> None:
        resource = Resource()

        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(fail_when_cancelled, error)
                nursery.start_soon(fail_when_cancelled, KeyError("background"))
                await resource.run(task_status=task_status)
                nursery.cancel_scope.cancel()

        async with in_background(run, resource):
            await wait_all_tasks_blocked()
            raise ValueError("boom")

    assert outcome(main) is error


@loosely
def test_an_interrupt_in_the_background_comes_out_bare(strict: bool) -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await fail_when_cancelled(KeyboardInterrupt())

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            await wait_all_tasks_blocked()

    assert type(outcome(main, strict_exception_groups=strict)) is KeyboardInterrupt


def test_an_interrupt_in_the_background_cancels_the_body() -> None:
    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        raise KeyboardInterrupt

    async def main() -> None:
        async with in_background(run, NothingToClose()):
            await trio.sleep_forever()

    assert type(outcome(main)) is KeyboardInterrupt


# Cancellation from outside.


def test_cancelling_a_scope_around_the_block_leaves_nothing_and_raises_nothing() -> None:
    async def main() -> None:
        start = trio.current_time()
        resource = Resource()
        resource.closing_takes = 60
        with trio.move_on_after(1) as scope:
            async with opened(resource):
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == start + 1  # cancelled, it takes no time to close
        assert resource.ended.is_set()

    assert outcome(main) is None


def test_cancelling_a_scope_in_the_body_stays_in_the_body() -> None:
    reached: list[str] = []

    async def main() -> None:
        async with opened() as resource:
            with trio.move_on_after(1) as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught
            assert not resource.ended.is_set()
            reached.append("end of the body")

    assert outcome(main) is None
    assert reached == ["end of the body"]


def test_what_the_body_raises_when_cancelled_from_outside_comes_out_as_it_is() -> None:
    async def main() -> None:
        resource = Resource()
        resource.closing_takes = 60
        with trio.move_on_after(1):
            async with opened(resource):
                try:
                    await trio.sleep_forever()
                finally:
                    raise ValueError("boom")

    error = outcome(main)
    assert (type(error), str(error)) == (ValueError, "boom")


def test_cancelled_while_it_closes_the_block_raises_what_the_body_raised() -> None:
    async def main() -> None:
        resource = Resource()
        resource.closing_takes = 60
        with trio.move_on_after(1) as scope:
            async with opened(resource):
                raise ValueError("boom")
        assert not scope.cancelled_caught

    assert str(outcome(main)) == "boom"


def test_cancelled_while_it_closes_a_body_that_returned_is_cancelled() -> None:
    reached: list[str] = []

    async def main() -> None:
        resource = Resource()
        resource.closing_takes = 60
        with trio.move_on_after(1) as scope:
            async with opened(resource):
                pass
            reached.append("after the block")
        assert scope.cancelled_caught
        assert resource.ended.is_set()

    assert outcome(main) is None
    assert reached == []


def test_cancelled_from_outside_as_well_as_by_the_resource_the_cancellation_goes_on() -> None:
    async def main() -> None:
        resource = Resource()
        with trio.CancelScope() as scope:
            async with opened(resource):
                resource.end(ConnectionLost("gone"))
                await wait_all_tasks_blocked_uncancelled()
                scope.cancel()
                await trio.sleep_forever()
        assert scope.cancelled_caught
        assert resource.ended.is_set()

    assert outcome(main) is None


def test_cancelled_from_outside_what_the_background_raises_comes_out_bare() -> None:
    async def main() -> None:
        with trio.move_on_after(1):
            async with in_background(fail_in_the_end, NothingToClose()):
                await trio.sleep_forever()

    assert type(outcome(main)) is KeyError


def test_of_a_group_the_outer_scope_takes_its_cancelled_and_leaves_the_rest() -> None:
    async def main() -> None:
        with trio.move_on_after(1):
            async with opened():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(fail_when_cancelled, ValueError("boom"))
                    nursery.start_soon(trio.sleep_forever)

    group = outcome(main)
    assert isinstance(group, BaseExceptionGroup)
    assert [str(error) for error in leaves(group)] == ["boom"]


# Several blocks.


async def test_blocks_of_one_task_may_be_nested_and_the_first_to_end_closes() -> None:
    async with alone() as resource:
        async with resource:
            async with resource:
                pass
            assert resource.closed == 1
            await trio.lowlevel.checkpoint()
        assert resource.closed == 2


@pytest.mark.parametrize("depth", [1, 2, 3])
async def test_an_error_goes_through_all_nested_blocks(depth: int) -> None:
    reached: list[int] = []

    async def nest(level: int) -> None:
        try:
            async with resource:
                if level < depth:
                    await nest(level + 1)
                else:
                    resource.end(ConnectionLost("gone"))
                    await trio.sleep_forever()
        finally:
            reached.append(level)

    async with alone() as resource:
        with pytest.raises(ConnectionLost, match="gone"):
            await nest(1)
    assert reached == list(range(depth, 0, -1))


async def test_blocks_in_several_tasks_all_raise_the_error_each_its_own() -> None:
    seen: list[BaseException] = []

    async def use() -> None:
        with pytest.raises(ConnectionLost) as caught:
            async with resource:
                await trio.sleep_forever()
        seen.append(caught.value)

    async with alone() as resource:
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(use)
            await wait_all_tasks_blocked()
            resource.end(ConnectionLost("gone"))
    assert len({id(error) for error in seen}) == 3


async def test_a_block_that_begins_after_the_end_raises_the_error_at_its_end() -> None:
    async with alone() as resource:
        assert not resource.blocks.used
        resource.end(ConnectionLost("gone"))
        await resource.ended.wait()
        with pytest.raises(ConnectionLost):
            async with resource:
                await trio.lowlevel.checkpoint()
        assert resource.blocks.used


async def test_a_block_that_is_cancelled_while_it_closes_is_cancelled(
    autojump_clock: object,
) -> None:
    reached: list[str] = []
    async with alone() as resource:
        resource.closing_takes = 60
        with trio.move_on_after(1) as scope:
            async with resource:
                pass
            reached.append("after the block")
        assert scope.cancelled_caught
    assert reached == []


async def test_a_block_that_was_left_is_forgotten() -> None:
    async with alone() as resource:
        async with resource:
            assert resource.blocks._scopes
        assert not resource.blocks._scopes


async def test_cancelling_touches_no_block_that_has_been_left() -> None:
    async with alone() as resource:
        async with resource:
            pass
        resource.blocks.cancel()
        await trio.lowlevel.checkpoint()
        assert resource.blocks.used


# Looking into groups.


def test_the_leaves_of_a_group_are_what_was_raised_outermost_first() -> None:
    a, b, c, d = ValueError("a"), KeyError("b"), KeyboardInterrupt(), OSError("d")
    group = BaseExceptionGroup("g", [a, BaseExceptionGroup("h", [b, c]), d])
    assert list(leaves(group)) == [a, b, c, d]
    assert list(leaves(a)) == [a]


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("body", ["waits", "raises"])
def test_an_interrupt_in_a_background_task_comes_out_alone(
    interrupt: type[BaseException], body: str
) -> None:
    async def fail() -> None:
        raise interrupt

    async def main() -> None:
        async with open_background() as nursery, open_background() as inner:
            nursery.start_soon(trio.sleep_forever)
            inner.start_soon(fail)
            if body == "raises":
                await trio.lowlevel.checkpoint()
                raise ValueError("boom")
            await trio.sleep_forever()

    assert type(outcome(main)) is interrupt


def test_an_error_of_a_background_task_comes_out_alone() -> None:
    async def fail() -> None:
        raise KeyError("background")

    async def main() -> None:
        async with open_background() as nursery:
            nursery.start_soon(fail)
            await trio.sleep_forever()

    assert isinstance(outcome(main), KeyError)


def test_closing_at_once_does_not_replace_what_is_raised() -> None:
    class Slow(trio.abc.AsyncResource):
        async def aclose(self) -> None:
            await trio.sleep(1)

    async def main() -> None:
        with trio.CancelScope() as scope:
            try:
                scope.cancel()
                raise KeyboardInterrupt
            finally:
                await close_now(Slow())

    assert isinstance(outcome(main), KeyboardInterrupt)
