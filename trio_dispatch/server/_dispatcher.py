"""Who gets which job, and when schedules are due.

There is one dispatcher for each store. The servers of a cluster share it, which leaves it to
chance, by the seed, which of them takes a job.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import trio

from trio_dispatch.server._clock import NS_PER_SECOND, Clock
from trio_dispatch.server._registry import CronEntry, Registry
from trio_dispatch.server._store import JobRow, Store


class Node(Protocol):
    """A server that takes jobs."""

    @property
    def free(self) -> bool:
        """Whether another attempt may begin."""
        ...

    def begin(self, job: JobRow) -> None:
        """Make an attempt at *job*."""

    def fire(self, entry: CronEntry) -> None:
        """Enqueue the job of a schedule."""


class Dispatcher:
    """Hands due jobs to servers that are free.

    Args:
        waiting: whether all runs wait for events, for `idle`.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        rng: random.Random,
        waiting: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._store = store
        self._registry = registry
        self._rng = rng
        self._waiting = waiting
        self.nodes: list[Node] = []
        self._wake = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        registry.on_schedule = self.notice_change

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hand out jobs for ever."""
        now = self._clock.now()
        for entry in self._registry.crons.values():
            entry.next_at = entry.schedule.next_after(now)
        task_status.started()
        while True:
            free = self._free_nodes()
            self._fire_crons()
            while free:
                job = self._store.claim(self._clock.now())
                if job is None:
                    break
                self._choose(free).begin(job)
                free = self._free_nodes()
            await self._wait_for_work(full=not free)

    def _free_nodes(self) -> list[Node]:
        return [] if self._store.away else [node for node in self.nodes if node.free]

    def _choose(self, nodes: list[Node]) -> Node:
        return nodes[0] if len(nodes) == 1 else self._rng.choice(nodes)

    def _fire_crons(self) -> None:
        now = self._clock.now()
        nodes = self._free_nodes()
        for entry in list(self._registry.crons.values()):
            if entry.next_at is None:  # registered while the server runs
                entry.next_at = entry.schedule.next_after(now)
            if entry.next_at <= now and nodes:
                entry.next_at = entry.schedule.next_after(now)
                nodes[0].fire(entry)  # the leader alone

    async def _wait_for_work(self, *, full: bool) -> None:
        self._wake = trio.Event()
        dues = [entry.next_at for entry in self._registry.crons.values() if entry.next_at]
        due = self._store.next_due()
        if due is not None:
            dues.append(due)
        if full or not dues:
            await self._wake.wait()
            return
        # A nanosecond more than is left, as the sum of floats may fall just short of it.
        delay = max(min(dues) - self._clock.now() + 1, 0) / NS_PER_SECOND
        with trio.move_on_after(delay):
            await self._wake.wait()

    def notice_change(self) -> None:
        """Look again: there may be work, or room for it, and who waits for `idle` may go on."""
        self._wake.set()
        self._changed.unpark_all()

    async def wait_change(self) -> None:
        """Wait until something has moved on."""
        await self._changed.park()

    def is_idle(self) -> bool:
        """Whether nothing moves by itself: no job is under way or due, and all runs wait."""
        return self._waiting() and not self._store.has_work(self._registry.jobs)

    async def idle(self) -> None:
        """Wait until nothing moves by itself."""
        await trio.lowlevel.checkpoint()
        while not self.is_idle():
            await self._changed.park()
