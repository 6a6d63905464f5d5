"""Waiting for many jobs at once, which are returned in the order in which they end."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, enqueue_frame, read_enqueued
from trio_dispatch._client.enqueueing import EnqueueRequest
from trio_dispatch._client.references import JobReference, is_known, job_id_of
from trio_dispatch._client.waiting import JOB, NARROW, Alarm, EndWatch
from trio_dispatch._link.requests import Request
from trio_dispatch._transport.receiving import BlockChannel
from trio_dispatch._wire.arguments import check_count
from trio_dispatch._wire.errors import DispatchError, fresh
from trio_dispatch._wire.models import Job

UNREAD: Final = 64
"""How many finished jobs of `Client.wait_jobs` wait for the reader; then the wait pauses."""


class Source(Protocol):
    """The source of the jobs to wait for."""

    unread: int
    """How many finished jobs may wait for the reader."""

    async def run(self, watch: EndWatch[Job]) -> None:
        """Add jobs to *watch* until there are no more. May raise any exception."""

    def on_progress(self) -> None:
        """A job has ended, or the reader has taken one."""

    def close(self) -> None:
        """The reader has left."""


class EnqueuedJobs:
    """Jobs that are already enqueued."""

    unread = UNREAD

    def __init__(self, jobs: Iterable[JobReference]) -> None:
        self._known: dict[str, bool] = {}
        for job in jobs:
            job_id = job_id_of(job)
            self._known[job_id] = self._known.get(job_id, False) or is_known(job)

    async def run(self, watch: EndWatch[Job]) -> None:
        """Add all of them."""
        watch.complete = True
        if self._known:
            watch.listen(*(self._known if len(self._known) <= NARROW else ()))
        for job_id, known in self._known.items():
            watch.add(job_id, known=known)
        self._known.clear()
        watch.ring()
        await trio.lowlevel.checkpoint()

    def on_progress(self) -> None:
        """Nothing more to do."""

    def close(self) -> None:
        """Nothing to release."""


class JobsToRun:
    """Jobs that are enqueued as earlier ones finish.

    Args:
        calls: used to enqueue.
        requests: the jobs to enqueue; the next one is read when an earlier one has finished.
        limit: how many jobs may be enqueued and not finished.
    """

    def __init__(self, calls: Calls, requests: Iterable[EnqueueRequest], limit: int) -> None:
        self._calls = calls
        self._requests = requests
        self._limit = check_count(limit, "limit")
        self.unread = self._limit
        self._alarm = Alarm()
        self._enqueueing: dict[Request, None] = {}
        self._error: Exception | None = None
        self._watch: EndWatch[Job]

    async def run(self, watch: EndWatch[Job]) -> None:
        """Enqueue one after another, *limit* at once."""
        self._watch = watch
        watch.listen()
        for number, entry in enumerate(self._requests):
            if not isinstance(entry, EnqueueRequest):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"entry {number} is an EnqueueRequest, not {type(entry).__name__}")
            frame = enqueue_frame(entry.name, entry.payload, entry.queue, entry.priority)
            request = Request(frame, self._calls.check_frame(frame), on_done=self._enqueued)
            self._enqueueing[request] = None
            self._calls.submit(request)
            await trio.lowlevel.checkpoint()
            await self._wait_until_fewer_than(self._limit)
        await self._wait_until_fewer_than(1)
        watch.complete = True
        watch.ring()

    async def _wait_until_fewer_than(self, count: int) -> None:
        while len(self._enqueueing) + len(self._watch) >= count or self._error is not None:
            if self._error is not None:
                raise self._error
            await self._alarm.wait(float("inf"))

    def _enqueued(self, request: Request) -> None:
        if request not in self._enqueueing:
            return  # the reader has left
        del self._enqueueing[request]
        try:
            if request.answer is None:
                assert request.error is not None
                raise request.error
            self._watch.add(read_enqueued(request.answer).job_id, known=True)
        except DispatchError as exc:
            self._error = exc
        self._alarm.ring()

    def on_progress(self) -> None:
        """Continue, as there may be space for the next job."""
        self._alarm.ring()

    def close(self) -> None:
        """Enqueue no more; requests that are not yet written are withdrawn."""
        requests, self._enqueueing = self._enqueueing, {}
        for request in requests:
            request.cancel()
            self._calls.withdraw(request)


class FinishedJobs(BlockChannel[Job]):
    """Jobs as they finish; see `Client.wait_jobs` and `Client.run_jobs`.

    This is an async context manager, and inside the block a `trio.abc.ReceiveChannel`. Leaving the
    block ends the wait and does not affect the jobs.
    """

    def __init__(self, call: str, calls: Calls, background: Background, source: Source) -> None:
        super().__init__(call)
        self._background = background
        self._why_ended = calls.why_ended
        self._source = source
        self._watch = EndWatch(calls, JOB, self._on_end, self._has_room)
        self._scope = trio.CancelScope()
        self._jobs: deque[Job] = deque()
        self._readers = trio.lowlevel.ParkingLot()
        self._error: Exception | None = None
        self._ended = False

    async def _open(self) -> None:
        self._background.spawn(self._run)

    def _close(self) -> None:
        self._scope.cancel()
        self._jobs.clear()
        self._readers.unpark_all()

    async def receive(self) -> Job:
        """Wait for the next job to finish, and return it; its ``state`` shows how it ended.

        If it is cancelled, no job is lost.

        Raises:
            trio.EndOfChannel: all jobs have been returned.
            trio.ClosedResourceError: the block has exited.
            RuntimeError: the block has not been entered.
            DispatchError: a job could not be enqueued or found, or the client ended.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_inside()
            if self._jobs:
                job = self._jobs.popleft()
                self._watch.ring()
                self._source.on_progress()
                return job
            if self._error is not None:
                raise fresh(self._error)
            if self._ended:
                raise trio.EndOfChannel
            await self._readers.park()

    # In the background.

    async def _run(self) -> None:
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._feed)
                    await self._watch.run()
                self._ended = True
        finally:
            self._source.close()
            if not self._ended and self._error is None:
                self._error = self._why_ended()
            self._readers.unpark_all()

    async def _feed(self) -> None:
        try:
            await self._source.run(self._watch)
        except Exception as exc:  # noqa: BLE001 - the reader gets it: users' iterators raise anything
            self._fail(exc)

    def _has_room(self) -> bool:
        return len(self._jobs) < self._source.unread

    def _on_end(self, job_id: str, outcome: Job | Exception) -> None:  # noqa: ARG002 (the job names itself)
        if isinstance(outcome, Exception):
            self._fail(outcome)
            return
        self._jobs.append(outcome)
        self._readers.unpark()
        self._source.on_progress()

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self._scope.cancel()
