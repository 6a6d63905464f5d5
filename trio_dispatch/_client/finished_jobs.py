"""Many jobs at once: their ends, in the order in which they come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from types import TracebackType

import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls
from trio_dispatch._client.enqueueing import EnqueueRequest
from trio_dispatch._client.jobs import JobHandle
from trio_dispatch._client.waiting import finished_job
from trio_dispatch._wire.arguments import check_count, check_text
from trio_dispatch._wire.errors import fresh
from trio_dispatch._wire.models import Job

Worker = Callable[[trio.MemorySendChannel[Job]], Awaitable[None]]
"""Waits for jobs and sends each when it has finished."""


class FinishedJobs(trio.abc.ReceiveChannel[Job]):
    """Jobs as they finish, however they end; see `Client.wait_jobs` and `Client.run_jobs`.

    An async context manager, and inside the block a `trio.abc.ReceiveChannel`. Leaving the block
    ends the waiting, and leaves the jobs alone.
    """

    def __init__(
        self,
        background: Background,
        workers: Sequence[Worker],
        why_ended: Callable[[], Exception],
    ) -> None:
        self._background = background
        self._why_ended = why_ended
        self._workers = workers
        self._scope = trio.CancelScope()
        # Room for what each worker has at hand: who reads slowly holds them up, and no memory.
        self._send, self._receive = trio.open_memory_channel[Job](len(workers))
        self._error: Exception | None = None

    async def __aenter__(self) -> FinishedJobs:
        await trio.lowlevel.checkpoint()
        self._background.spawn(self._run)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    async def receive(self) -> Job:
        """Wait for the next job to finish; its ``state`` says how. Cancelled, it takes none.

        Raises:
            trio.EndOfChannel: these were all.
            trio.ClosedResourceError: the block has been left.
            DispatchError: a job could not be enqueued or found, or the client ended.
        """
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            if self._error is not None:
                raise fresh(self._error) from None
            raise

    async def aclose(self) -> None:
        """Wait for no further job."""
        self._close()
        await trio.lowlevel.checkpoint()

    def _close(self) -> None:
        self._scope.cancel()
        self._receive.close()

    async def _run(self) -> None:
        """Run the workers, in the client's nursery."""
        done = False
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    for worker in self._workers:
                        nursery.start_soon(self._work, worker)
                done = True
        finally:
            if not done and self._error is None:
                self._error = self._why_ended()
            self._send.close()

    async def _work(self, worker: Worker) -> None:
        try:
            await worker(self._send)
        except Exception as exc:  # noqa: BLE001 - the reader gets it
            self._error = self._error or exc
            self._scope.cancel()


def wait_workers(calls: Calls, jobs: Iterable[str | JobHandle]) -> list[Worker]:
    """One worker for each of *jobs*."""

    def worker(job_id: str) -> Worker:
        async def work(send: trio.MemorySendChannel[Job]) -> None:
            await send.send(await finished_job(calls, job_id))

        return work

    ids = [
        job.job_id if isinstance(job, JobHandle) else check_text(job, "a job's id") for job in jobs
    ]
    return [worker(job_id) for job_id in dict.fromkeys(ids)]


def run_workers(calls: Calls, requests: Iterable[EnqueueRequest], limit: int) -> list[Worker]:
    """*limit* workers, each of which enqueues a job and waits for it before it takes the next."""
    check_count(limit, "limit")
    todo = iter(requests)

    async def work(send: trio.MemorySendChannel[Job]) -> None:
        for entry in todo:
            if not isinstance(entry, EnqueueRequest):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"an entry is an EnqueueRequest, not {type(entry).__name__}")
            enqueued = await calls.enqueue(entry.name, entry.payload, entry.queue, entry.priority)
            await send.send(await finished_job(calls, enqueued.job_id))

    return [work] * limit
