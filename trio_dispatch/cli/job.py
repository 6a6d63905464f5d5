"""``trio-dispatch job``: get, cancel, wait, list."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import Annotated, Final, TypeAlias

from cyclopts import App, Parameter

from trio_dispatch import Client
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError
from trio_dispatch.cli.offered import ask_what_may_be_missing
from trio_dispatch.cli.output import OutputOptions, chosen
from trio_dispatch.cli.waiting import (
    TimeoutOption,
    check_timeout,
    listen,
    print_job,
    wait_and_tell,
)

job_app: Final = App(name="job", help="Look at a job, cancel it, or wait for it.")

JobArgument: TypeAlias = Annotated[str, Parameter(help="The job's id.")]


@job_app.command
def get(
    job_id: JobArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Show a job."""

    async def use(client: Client) -> Exit:
        print_job(await client.get_job(_id(job_id)), chosen(output))
        return Exit.OK

    return with_client(server, use)


@job_app.command
def cancel(
    job_id: JobArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Cancel a job. One that is running goes on, and may still complete."""

    async def use(client: Client) -> Exit:
        await client.cancel_job(_id(job_id))
        found = {"job_id": job_id, "cancelled": True}
        chosen(output).show(found, lambda: [f"{job_id} is cancelled"])
        return Exit.OK

    return with_client(server, use)


@job_app.command
def wait(
    job_id: JobArgument,
    /,
    *,
    timeout: TimeoutOption = None,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Wait until a job has ended, printing its states as they change.

    Exit code 0: it completed; 1: it failed, or was cancelled; 124: neither before `--timeout`.
    """
    check_timeout(timeout)
    out = chosen(output)

    async def use(client: Client) -> Exit:
        await client.get_job(_id(job_id))
        async with AsyncExitStack() as stack:
            channel = f"job:{job_id}"
            events = None if out.for_programs else await listen(client, stack, channel)
            return await wait_and_tell(client, job_id, events, timeout, out)

    return with_client(server, use)


@job_app.command(name="list")
def list_(
    *,
    state: Annotated[
        str | None, Parameter(help="Only those in this state: pending, running, failed, …")
    ] = None,
    queue: Annotated[str | None, Parameter(help="Only those of this queue.")] = None,
    name: Annotated[str | None, Parameter(help="Only those of this name.")] = None,
    limit: Annotated[int | None, Parameter(help="So many at most.")] = None,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """List jobs, where the server can do that (`job.list`); it says so where it cannot."""
    wanted = {"state": state, "queue": queue, "name": name, "limit": limit}
    return ask_what_may_be_missing("job.list", wanted, server, output)


def _id(text: str) -> str:
    if not text.strip():
        raise UsageError("a job's id is not empty")
    return text
