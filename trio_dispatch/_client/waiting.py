"""Waiting for the end of a job: where it is decided that a job has ended."""

from __future__ import annotations

from typing import Final

import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.polling import PollSchedule
from trio_dispatch._client.subscriptions import Subscription
from trio_dispatch._wire.errors import (
    ConnectionLost,
    JobCancelled,
    JobFailed,
    PermissionDenied,
    RequestError,
    RequestTimeout,
)
from trio_dispatch._wire.frames import Method
from trio_dispatch._wire.models import Job

_END_EVENTS: Final = frozenset({"job.completed", "job.failed", "job.dlq", "job.cancelled"})


async def wait_job(calls: Calls, job_id: str) -> Job:
    """See `Client.wait_job`."""
    job = await finished_job(calls, job_id)
    if job.state == "completed":
        return job
    raise (JobCancelled if job.state == "cancelled" else JobFailed)(job)


async def finished_job(calls: Calls, job_id: str) -> Job:
    """Wait until a job has finished, in whatever way, and return it."""
    subscription = calls.subscribe(f"job:{job_id}", buffer=16, overflow="drop_oldest")
    subscription.patient = True
    try:
        async with subscription:
            return await _watch_and_ask(calls, job_id, subscription)
    except PermissionDenied as exc:
        if exc.method != Method.SUBSCRIBE:
            raise
        return await _watch_and_ask(calls, job_id, None)


async def _watch_and_ask(calls: Calls, job_id: str, events: Subscription | None) -> Job:
    """Ask for the job until it has ended. Events only say when asking is worth it."""
    schedule = PollSchedule()
    while True:
        try:
            job = await calls.get_job(job_id)
        except (ConnectionLost, RequestTimeout):
            # Asking again does no harm, and is all that can be done.
            if calls.closed:
                raise
        else:
            if job.finished:
                return job
        deadline = schedule.next_time()
        if events is None:
            await trio.sleep_until(deadline)
            continue
        with trio.move_on_at(deadline):
            while True:
                try:
                    event = await events.receive()
                except RequestError:
                    events = None  # not restored after a reconnect: ask now and then instead
                    break
                if event.type in _END_EVENTS or event.type == "stream.gap":
                    break
