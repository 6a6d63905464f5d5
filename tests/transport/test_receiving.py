"""Channels that are opened by a block: one set of rules for entering, reading and leaving."""

from __future__ import annotations

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_dispatch._transport.receiving import BlockChannel


class Numbers(BlockChannel[int]):
    """Counts, and what was done to it."""

    def __init__(self, opening: float = 0, error: Exception | None = None) -> None:
        super().__init__("numbers()")
        self.opening = opening
        self.error = error
        self.calls: list[str] = []
        self.last = 0

    async def _open(self) -> None:
        self.calls.append("open")
        await trio.sleep(self.opening)
        if self.error is not None:
            raise self.error

    def _close(self) -> None:
        self.calls.append("close")

    async def receive(self) -> int:
        self._check_inside()
        await trio.lowlevel.checkpoint()
        self.last += 1
        return self.last


async def test_it_is_read_inside_its_block() -> None:
    numbers = Numbers()
    with assert_checkpoints():
        entered = await numbers.__aenter__()
    assert entered is numbers
    assert await numbers.receive() == 1
    await numbers.__aexit__(None, None, None)
    assert numbers.calls == ["open", "close"]


async def test_reading_without_entering_is_a_mistake_that_names_the_remedy() -> None:
    numbers = Numbers()
    with pytest.raises(RuntimeError, match=r"async with numbers\(\)"):
        await numbers.receive()
    with pytest.raises(RuntimeError, match=r"async with numbers\(\)"):
        async for _ in numbers:
            pytest.fail("read")
    assert numbers.calls == []


async def test_entering_twice_is_a_mistake_inside_the_block_and_after_it() -> None:
    numbers = Numbers()
    async with numbers:
        with pytest.raises(RuntimeError, match=r"call numbers\(\) again"):
            await numbers.__aenter__()
        assert await numbers.receive() == 1  # the block goes on
    with pytest.raises(RuntimeError, match=r"call numbers\(\) again"):
        await numbers.__aenter__()
    assert numbers.calls == ["open", "close"]


async def test_after_the_block_it_is_closed_for_whatever_reason_it_ended() -> None:
    for error in (None, ValueError("boom")):
        numbers = Numbers()
        try:
            async with numbers:
                if error is not None:
                    raise error
        except ValueError as exc:
            assert exc is error
        with pytest.raises(trio.ClosedResourceError, match=r"numbers\(\)"):
            await numbers.receive()
        assert numbers.calls == ["open", "close"]


async def test_leaving_waits_for_nothing() -> None:
    async with Numbers():
        with trio.CancelScope() as scope:
            async with Numbers():
                scope.cancel()
        assert not scope.cancelled_caught


async def test_closing_is_idempotent_and_a_checkpoint() -> None:
    numbers = Numbers()
    async with numbers:
        for _ in range(2):
            with assert_checkpoints():
                await numbers.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await numbers.receive()
    assert numbers.calls == ["open", "close"]


async def test_what_was_closed_before_it_was_entered_cannot_be_entered() -> None:
    numbers = Numbers()
    await numbers.aclose()
    with pytest.raises(RuntimeError):
        await numbers.__aenter__()
    with pytest.raises(trio.ClosedResourceError):
        await numbers.receive()
    assert numbers.calls == []


async def test_an_entry_that_fails_or_is_cancelled_closes_what_it_opened(
    autojump_clock: object,
) -> None:
    failing = Numbers(error=ValueError("boom"))
    with pytest.raises(ValueError, match="boom"):
        await failing.__aenter__()
    slow = Numbers(opening=10)
    with trio.move_on_after(1) as scope:
        await slow.__aenter__()
    assert scope.cancelled_caught
    for numbers in (failing, slow):
        assert numbers.calls == ["open", "close"]
        with pytest.raises(trio.ClosedResourceError):
            await numbers.receive()


async def test_an_entry_that_was_cancelled_before_opens_nothing() -> None:
    numbers = Numbers()
    with trio.CancelScope() as scope:
        scope.cancel()
        await numbers.__aenter__()
    assert numbers.calls == ["close"]


async def test_while_it_is_opening_it_can_be_neither_entered_nor_read_but_closed(
    autojump_clock: object,
) -> None:
    numbers = Numbers(opening=10)

    async def enter() -> None:
        with pytest.raises(trio.ClosedResourceError, match="while it was opening"):
            await numbers.__aenter__()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(enter)
        await wait_all_tasks_blocked()
        with pytest.raises(RuntimeError):
            await numbers.__aenter__()
        with pytest.raises(RuntimeError):
            await numbers.receive()
        await numbers.aclose()
    assert numbers.calls == ["open", "close"]
