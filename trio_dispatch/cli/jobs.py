"""``trio-dispatch enqueue`` and ``trio-dispatch job``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Annotated, Any, Final, cast

import trio
from cyclopts import App, Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trio_dispatch import (
    Client,
    EnqueueManyFailed,
    EnqueueRequest,
    Job,
    JobCancelled,
    JobFailed,
    JobHandle,
    PermissionDenied,
    Subscription,
)
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.output import JsonOption, print_json, print_line, print_lines
from trio_dispatch.cli.payload_input import PayloadArgument, parse_json, read_json, read_text
from trio_dispatch.cli.screen import is_live
from trio_dispatch.cli.show import clock, job_lines

CHUNK: Final = 1_000
"""Jobs of ``--many`` that are enqueued at a time."""

LAST_EVENT: Final = 0.5
"""Seconds that the event of a job's end may take longer than the answer."""

_KEYS: Final = frozenset({"name", "payload", "queue", "priority"})

job_app: Final = App(name="job", help="Look at a job, cancel it, or wait for it.")


def enqueue(
    name: Annotated[str | None, Parameter(help="The job's name.")] = None,
    payload: PayloadArgument = None,
    /,
    *,
    queue: Annotated[str | None, Parameter(help="The queue; the server's default without.")] = None,
    priority: Annotated[int, Parameter(help="Above 0: before others of its queue.")] = 0,
    wait: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Wait until it has ended, and tell how."),
    ] = False,
    many: Annotated[
        str | None,
        Parameter(
            help="Enqueue many: a file (- standard input) of JSON lines, each an object with "
            "`name`, `payload`, `queue` and `priority`. NAME and the options are for lines "
            "without.",
            allow_leading_hyphen=True,
        ),
    ] = None,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Enqueue a job, or many, and print their ids.

    With `--wait` the job's states are printed as they change, and the exit code tells how it
    ended: 0 completed, 1 failed or cancelled.
    """
    if many is not None:
        if payload is not None:
            raise UsageError("--many and PAYLOAD exclude each other")
        entries = _read_many(many, name, queue, priority)
        return with_client(server, lambda client: _enqueue_many(client, entries, wait, json))
    if name is None:
        raise UsageError("name the job, or give a file of jobs: --many FILE")
    value = None if payload is None else read_json(payload, "PAYLOAD")
    entry = EnqueueRequest(name, value, queue=queue, priority=priority)
    return with_client(server, lambda client: _enqueue_one(client, entry, wait, json))


async def _enqueue_one(client: Client, entry: EnqueueRequest, wait: bool, json: bool) -> Exit:
    if not wait:
        handle = await _checked(client, entry)
        if json:
            print_json({"job_id": handle.job_id, "queue": handle.queue, "state": handle.state})
        else:
            print_line(handle.job_id)
        return Exit.OK
    async with AsyncExitStack() as stack:
        # From before it exists, so that its first states are seen as well.
        events = None if json else await _listen(client, stack, "jobs")
        handle = await _checked(client, entry)
        if not json:
            print_line(handle.job_id)
        return await _wait(client, handle.job_id, events, json)


async def _listen(client: Client, stack: AsyncExitStack, channel: str) -> Subscription | None:
    """Subscribe; None where the token may not: the end is seen all the same."""
    try:
        return await stack.enter_async_context(
            client.subscribe(channel, buffer=10_000, overflow="drop_oldest")
        )
    except PermissionDenied:
        return None


async def _checked(client: Client, entry: EnqueueRequest) -> JobHandle:
    try:
        return await client.enqueue(
            entry.name, entry.payload, queue=entry.queue, priority=entry.priority
        )
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from exc


def _read_many(
    path: str, name: str | None, queue: str | None, priority: int
) -> list[EnqueueRequest]:
    text = read_text(path if path == "-" else f"@{path}", "--many")
    entries: list[EnqueueRequest] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        where = f"line {number} of {path}"
        found = parse_json(line, where)
        if not isinstance(found, dict):
            raise UsageError(f"{where} is no object with name, payload, queue and priority")
        fields = cast("dict[str, Any]", found)
        if wrong := fields.keys() - _KEYS:
            names = ", ".join(sorted(wrong))
            raise UsageError(f"{where} has {names}; it takes name, payload, queue and priority")
        job = fields.get("name", name)
        if job is None:
            raise UsageError(f"{where} has no name, and none was given for all")
        entries.append(
            EnqueueRequest(
                job,
                fields.get("payload"),
                queue=fields.get("queue", queue),
                priority=fields.get("priority", priority),
            )
        )
    if not entries:
        raise UsageError(f"--many: {path} holds no job")
    return entries


def _progress(
    total: int, what: str
) -> tuple[AbstractContextManager[object], Callable[[int], None]]:
    """A bar on standard error, where that is a terminal; and the function that advances it."""
    console = Console(stderr=True)
    if not is_live(console):
        return nullcontext(), _nothing
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
    )
    task = bar.add_task(what, total=total)
    return bar, partial(bar.advance, task)


def _nothing(count: int) -> None:
    """Advance no bar."""


async def _enqueue_many(
    client: Client, entries: Sequence[EnqueueRequest], wait: bool, json: bool
) -> Exit:
    if wait:
        return await _run_many(client, entries, json)
    code = Exit.OK
    shown, advance = _progress(len(entries), "enqueued")
    with shown:
        for start in range(0, len(entries), CHUNK):
            chunk = entries[start : start + CHUNK]
            try:
                handles: Sequence[JobHandle | None] = await client.enqueue_many(chunk)
            except (TypeError, ValueError) as exc:
                raise UsageError(f"{exc} ({start} jobs were enqueued before)") from exc
            except EnqueueManyFailed as exc:
                code = Exit.FAILED
                handles = exc.handles
                for error in exc.exceptions:
                    complain(f"not enqueued: {error}")
            for handle in filter(None, handles):
                if json:
                    print_json({"job_id": handle.job_id, "state": handle.state})
                else:
                    print_line(handle.job_id)
            advance(len(chunk))
    return code


async def _run_many(client: Client, entries: Sequence[EnqueueRequest], json: bool) -> Exit:
    code = Exit.OK
    shown, advance = _progress(len(entries), "finished")
    with shown:
        async with client.run_jobs(entries, limit=100) as finished:
            async for job in finished:
                if job.state != "completed":
                    code = Exit.FAILED
                if json:
                    print_json(job)
                else:
                    print_line(f"{job.id}  {job.name}  {job.state}  {job.last_error}".rstrip())
                advance(1)
    return code


@job_app.command
def get(
    job_id: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Show a job."""

    async def use(client: Client) -> Exit:
        _print_job(await client.get_job(_id(job_id)), json)
        return Exit.OK

    return with_client(server, use)


@job_app.command
def cancel(
    job_id: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Cancel a job. One that is running goes on, and may still complete."""

    async def use(client: Client) -> Exit:
        await client.cancel_job(_id(job_id))
        if json:
            print_json({"job_id": job_id, "cancelled": True})
        else:
            print_line(f"{job_id} is cancelled")
        return Exit.OK

    return with_client(server, use)


@job_app.command
def wait(
    job_id: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Wait until a job has ended, printing its states as they change.

    Exit code 0: it completed; 1: it failed, or was cancelled.
    """

    async def use(client: Client) -> Exit:
        await client.get_job(_id(job_id))
        async with AsyncExitStack() as stack:
            events = None if json else await _listen(client, stack, f"job:{job_id}")
            return await _wait(client, job_id, events, json)

    return with_client(server, use)


def _id(text: str) -> str:
    if not text.strip():
        raise UsageError("a job's id is not empty")
    return text


async def _wait(client: Client, job_id: str, events: Subscription | None, json: bool) -> Exit:
    """Wait for a job's end, telling its states on the way."""
    async with trio.open_nursery() as nursery:
        if events is not None:
            nursery.start_soon(_tell_states, events, job_id)
        try:
            ended = await client.wait_job(job_id)
        except (JobFailed, JobCancelled) as exc:
            ended = exc.job
        # The last event may be on its way; cancelling a job brings none.
        nursery.cancel_scope.deadline = trio.current_time() + LAST_EVENT
    _print_job(ended, json)
    return Exit.OK if ended.state == "completed" else Exit.FAILED


async def _tell_states(events: Subscription, job_id: str) -> None:
    async for event in events:
        if event.job_id != job_id:
            continue
        error = event.data.get("error")
        print_line(f"{clock(event.ts)}  {event.type}" + (f": {error}" if error else ""))
        if event.type in {"job.completed", "job.dlq", "job.cancelled"}:
            return


def _print_job(job: Job, json: bool) -> None:
    if json:
        print_json(job)
    else:
        print_lines(job_lines(job))
