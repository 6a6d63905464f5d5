"""Blocks that share one running server.

Several tasks may use the same server, each in an ``async with`` block of its own. The work is done
in the nursery of one of these blocks; when that block ends while others last, the work moves to the
nursery of another, and the server runs on. A block inside another one needs no nursery of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

import attrs
import trio

from trio_dispatch._transport.block import open_background
from trio_dispatch._transport.needs_trio import check_trio


class Work(Protocol):
    """What a host carries on."""

    async def begin(self, nursery: trio.Nursery) -> None:
        """Begin to work, in *nursery*."""

    async def move(self, nursery: trio.Nursery) -> None:
        """Go on in *nursery*: the one so far is about to be cancelled."""

    def end(self) -> None:
        """The nursery so far is about to be cancelled, and there is no other."""


@attrs.define(eq=False)
class _Block:
    task: trio.lowlevel.Task
    nursery: trio.Nursery


class Host:
    """The blocks of one server."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._blocks: list[_Block] = []
        self._working: _Block | None = None

    @property
    def running(self) -> bool:
        """Whether there is a block."""
        return bool(self._blocks)

    @asynccontextmanager
    async def block(self) -> AsyncGenerator[trio.Nursery, None]:
        """Run the server for the length of a block; gives the nursery for what belongs to it.

        Errors come out as for `open_background`.
        """
        check_trio("the embedded server")
        around = self._around()
        if around is not None:
            yield around.nursery
            return
        async with open_background() as nursery:
            block = _Block(trio.lowlevel.current_task(), nursery)
            self._blocks.append(block)
            try:
                if self._working is None:
                    self._working = block
                    await self._work.begin(nursery)
                yield nursery
            finally:
                self._blocks.remove(block)
                if self._working is block:
                    with trio.CancelScope(shield=True):  # `move` only starts tasks
                        await self._hand_over()

    async def _hand_over(self) -> None:
        self._working = self._blocks[0] if self._blocks else None
        if self._working is None:
            self._work.end()
        else:
            await self._work.move(self._working.nursery)

    def nursery(self) -> trio.Nursery:
        """Where a connection of the calling task belongs: its own block, else the oldest one.

        Raises:
            RuntimeError: there is no block.
        """
        if not self._blocks:
            raise RuntimeError("the server is not running; enter run() or serve() first")
        return (self._around() or self._blocks[0]).nursery

    def _around(self) -> _Block | None:
        """The innermost block that the calling task runs in, by way of the nurseries around it."""
        task: trio.lowlevel.Task | None = trio.lowlevel.current_task()
        inside: trio.Nursery | None = None
        while task is not None:
            nurseries = task.child_nurseries
            # Those that were opened later are not around it.
            count = len(nurseries) if inside is None else nurseries.index(inside) + 1
            for nursery in reversed(nurseries[:count]):
                for block in self._blocks:
                    if block.nursery is nursery:
                        return block
            # A task that `Nursery.start` starts is inside the caller for a moment only.
            inside = task.eventual_parent_nursery or task.parent_nursery
            task = inside.parent_task if inside is not None else None
        return None
