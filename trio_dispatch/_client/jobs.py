"""Handles of jobs that this client has enqueued."""

from __future__ import annotations

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.waiting import wait_job
from trio_dispatch._wire.errors import ClientClosed, JobFailed
from trio_dispatch._wire.models import Enqueued, Job


class JobHandle:
    """A job that a client has enqueued.

    You can copy and pickle a handle. A copy in the same process belongs to the same client. An
    unpickled handle belongs to no client, and only identifies its job.

    Attributes:
        job_id: the server's id.
        queue: the queue of the job.
        state: the last state that this handle has seen; `refresh` and `wait` update it.
    """

    def __init__(self, calls: Calls | None, enqueued: Enqueued) -> None:
        self._calls = calls
        self.job_id = enqueued.job_id
        self.queue = enqueued.queue
        self.state = enqueued.state

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id} in {self.queue!r}: {self.state}>"

    def __reduce__(self) -> tuple[object, ...]:
        return JobHandle, (None, self._enqueued())

    def __copy__(self) -> JobHandle:
        return JobHandle(self._calls, self._enqueued())

    def __deepcopy__(self, memo: dict[int, object]) -> JobHandle:
        return self.__copy__()

    def _enqueued(self) -> Enqueued:
        return Enqueued(self.job_id, self.queue, self.state)

    def _connected_calls(self) -> Calls:
        if self._calls is None:
            raise ClientClosed(
                f"this handle of job {self.job_id} was unpickled, and belongs to no client; "
                f"use client.wait_job({self.job_id!r}) or client.get_job({self.job_id!r})"
            )
        return self._calls

    async def wait(self) -> Job:
        """Wait until the job has ended, and return it. See `Client.wait_job`."""
        try:
            job = await wait_job(self._connected_calls(), self.job_id, known=True)
        except JobFailed as exc:
            self.state = exc.job.state
            raise
        self.state = job.state
        return job

    async def cancel(self) -> None:
        """Cancel the job on the server. See `Client.cancel_job`."""
        await self._connected_calls().cancel_job(self.job_id)
        self.state = "cancelled"

    async def refresh(self) -> Job:
        """Get the job in its present state from the server."""
        job = await self._connected_calls().get_job(self.job_id)
        self.state = job.state
        return job
