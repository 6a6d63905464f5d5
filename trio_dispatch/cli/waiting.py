"""Waiting for a job's end, and telling its states on the way."""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import Annotated, Final, TypeAlias

import trio
from cyclopts import Parameter

from trio_dispatch import (
    Client,
    DispatchError,
    Job,
    JobCancelled,
    JobFailed,
    PermissionDenied,
    Subscription,
)
from trio_dispatch.cli.exits import Ended, Exit, UsageError, complain
from trio_dispatch.cli.lines import clock, job_lines
from trio_dispatch.cli.output import OutputOptions, print_line

LAST_EVENT: Final = 0.5
"""Seconds that the event of a job's end may take longer than the answer."""

HINT_SECONDS: Final = 5.0
"""Seconds after which a job that goes on is explained."""

TimeoutOption: TypeAlias = Annotated[
    float | None,
    Parameter(
        name="--timeout",
        help="Give up waiting after so many seconds (exit code 124). What was started goes on.",
    ),
]


def check_timeout(timeout: float | None) -> None:
    """Refuse a timeout that is no number of seconds.

    Raises:
        UsageError: it is none.
    """
    if timeout is not None and not (math.isfinite(timeout) and timeout > 0):
        raise UsageError(f"--timeout is a number above 0, not {timeout}")


async def listen(client: Client, stack: AsyncExitStack, channel: str) -> Subscription | None:
    """Subscribe; None where the token may not: the end is seen all the same."""
    try:
        return await stack.enter_async_context(
            client.subscribe(channel, buffer=10_000, overflow="drop_oldest")
        )
    except PermissionDenied:
        return None


async def wait_and_tell(
    client: Client,
    job_id: str,
    events: Subscription | None,
    timeout: float | None,
    out: OutputOptions,
) -> Exit:
    """Wait for a job's end, telling its states on the way, and print it."""
    ended: Job | None = None
    async with trio.open_nursery() as nursery:
        if events is not None:
            nursery.start_soon(_tell_states, events, job_id)
        with trio.move_on_after(math.inf if timeout is None else timeout):
            ended = await _wait_with_hint(client, job_id)
        # The last event may be on its way; cancelling a job brings none.
        nursery.cancel_scope.deadline = trio.current_time() + (LAST_EVENT if ended else 0)
    if ended is None:
        raise Ended(Exit.TIMED_OUT, f"{job_id} has not ended after {timeout:g} s; it goes on")
    print_job(ended, out)
    return Exit.OK if ended.state == "completed" else Exit.FAILED


async def _wait_with_hint(client: Client, job_id: str) -> Job:
    async with trio.open_nursery() as nursery:

        async def hint() -> None:
            await trio.sleep(HINT_SECONDS)
            await explain_wait(client, job_id)

        nursery.start_soon(hint)
        try:
            ended = await client.wait_job(job_id)
        except (JobFailed, JobCancelled) as exc:
            ended = exc.job
        nursery.cancel_scope.cancel()
    return ended


async def explain_wait(client: Client, job_id: str) -> None:
    """Say why a job may not end, if its state is that of such a job."""
    try:
        job = await client.get_job(job_id)
    except DispatchError:
        return  # whoever waits for it hears of that
    if job.state == "pending":
        complain(
            f"{job_id} is still pending after {HINT_SECONDS:g} s: perhaps no worker takes jobs "
            f"from the queue {job.queue!r}"
        )
    elif job.state == "running" and not job.retry_count:
        complain(
            f"{job_id} is still running after {HINT_SECONDS:g} s. If no worker knows the name "
            f"{job.name!r}, it stays so for ever; `trio-dispatch job cancel` ends it"
        )


async def _tell_states(events: Subscription, job_id: str) -> None:
    async for event in events:
        if event.job_id != job_id:
            continue
        error = event.data.get("error")
        print_line(f"{clock(event.ts)}  {event.type}" + (f": {error}" if error else ""))
        if event.type in {"job.completed", "job.dlq", "job.cancelled"}:
            return


def print_job(job: Job, out: OutputOptions) -> None:
    """Print a job."""
    out.show(job, lambda: job_lines(job))
