"""Handles of jobs that this client has enqueued."""

from __future__ import annotations

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.waiting import wait_job
from trio_dispatch._wire.errors import JobFailed
from trio_dispatch._wire.models import Enqueued, Job


class JobHandle:
    """A job that this client has enqueued.

    Attributes:
        job_id: the server's id.
        queue: the queue that the job was put into.
        state: the last state that this handle has heard of; `refresh` and `wait` renew it.
    """

    def __init__(self, calls: Calls, enqueued: Enqueued) -> None:
        self._calls = calls
        self.job_id = enqueued.job_id
        self.queue = enqueued.queue
        self.state = enqueued.state

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id} in {self.queue!r}: {self.state}>"

    async def wait(self) -> Job:
        """Wait until the job has ended, and return it. See `Client.wait_job`."""
        try:
            job = await wait_job(self._calls, self.job_id)
        except JobFailed as exc:
            self.state = exc.job.state
            raise
        self.state = job.state
        return job

    async def cancel(self) -> None:
        """Cancel the job on the server. See `Client.cancel_job`."""
        await self._calls.cancel_job(self.job_id)
        self.state = "cancelled"

    async def refresh(self) -> Job:
        """Ask the server for the job's present state, and return it."""
        job = await self._calls.get_job(self.job_id)
        self.state = job.state
        return job
