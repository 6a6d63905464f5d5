"""``trio-dispatch enqueue``."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, nullcontext
from functools import partial
from typing import Annotated, Any, Final, cast

import trio
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from trio_dispatch import Client, EnqueueManyFailed, EnqueueRequest, JobHandle
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Ended, Exit, UsageError, complain
from trio_dispatch.cli.json_input import PayloadArgument, parse_json, read_json, read_text
from trio_dispatch.cli.output import OutputOptions, chosen, print_line
from trio_dispatch.cli.screen import is_live
from trio_dispatch.cli.waiting import (
    HINT_SECONDS,
    TimeoutOption,
    check_timeout,
    listen,
    wait_and_tell,
)

CHUNK: Final = 1_000
"""Jobs of ``--many`` that are enqueued at a time."""

RUNNING_AT_ONCE: Final = 100
"""Jobs of ``--many --wait`` that run at a time."""

_KEYS: Final = frozenset({"name", "payload", "queue", "priority"})


def enqueue(
    name: Annotated[str | None, Parameter(help="The job's name.")] = None,
    payload: PayloadArgument = None,
    /,
    *,
    queue: Annotated[str | None, Parameter(help="The queue (default: the server's).")] = None,
    priority: Annotated[int, Parameter(help="Above 0: before others of its queue.")] = 0,
    wait: Annotated[
        bool,
        Parameter(negative=(), show_default=False, help="Wait for its end, and report its states."),
    ] = False,
    timeout: TimeoutOption = None,
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
    output: OutputOptions | None = None,
) -> int:
    """Enqueue a job, or many, and print their ids.

    With `--wait` the job's states are printed as they change, and the exit code reports its end:
    0 completed, 1 failed or cancelled, 124 neither before `--timeout`.

    Examples: `enqueue send-email '{"to": "you"}' --wait --timeout 60`;
    `enqueue send-email --many emails.jsonl`.
    """
    check_timeout(timeout)
    if timeout is not None and not wait:
        raise UsageError("--timeout is for --wait: without it nothing waits")
    out = chosen(output)
    if many is not None:
        if payload is not None:
            raise UsageError("--many and PAYLOAD exclude each other")
        entries = _read_many(many, name, queue, priority)
        if wait:
            return with_client(server, lambda client: _run_many(client, entries, timeout, out))
        return with_client(server, lambda client: _enqueue_many(client, entries, out))
    if name is None:
        raise UsageError("name the job, or give a file of jobs: --many FILE")
    value = None if payload is None else read_json(payload, "PAYLOAD")
    entry = EnqueueRequest(name, value, queue=queue, priority=priority)
    if wait:
        return with_client(server, lambda client: _run_one(client, entry, timeout, out))
    return with_client(server, lambda client: _enqueue_one(client, entry, out))


async def _enqueue_one(client: Client, entry: EnqueueRequest, out: OutputOptions) -> Exit:
    handle = await _checked(client, entry)
    found = {"job_id": handle.job_id, "queue": handle.queue, "state": handle.state}
    out.show(found, lambda: [handle.job_id])
    return Exit.OK


async def _run_one(
    client: Client, entry: EnqueueRequest, timeout: float | None, out: OutputOptions
) -> Exit:
    async with AsyncExitStack() as stack:
        # From before it exists, so that its first states are seen as well.
        events = None if out.for_programs else await listen(client, stack, "jobs")
        handle = await _checked(client, entry)
        if not out.for_programs:
            print_line(handle.job_id)
        return await wait_and_tell(client, handle.job_id, events, timeout, out)


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
    # Not splitlines(): U+2028, NEL and their like are text, in JSON as well.
    for number, line in enumerate(text.split("\n"), start=1):
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
    client: Client, entries: Sequence[EnqueueRequest], out: OutputOptions
) -> Exit:
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
                found = {"job_id": handle.job_id, "state": handle.state}
                out.show(found, partial(_lines, handle.job_id))
            advance(len(chunk))
    return code


def _lines(line: str) -> list[str]:
    return [line]


async def _run_many(
    client: Client, entries: Sequence[EnqueueRequest], timeout: float | None, out: OutputOptions
) -> Exit:
    states = Counter[str]()
    shown, advance = _progress(len(entries), "finished")
    with shown, trio.move_on_after(math.inf if timeout is None else timeout) as limit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_hint, states)
            async with client.run_jobs(entries, limit=RUNNING_AT_ONCE) as finished:
                async for job in finished:
                    states[job.state] += 1
                    line = f"{job.id}  {job.name}  {job.state}  {job.last_error}".rstrip()
                    out.show(job, partial(_lines, line))
                    advance(1)
            nursery.cancel_scope.cancel()
    if limit.cancelled_caught:
        raise Ended(
            Exit.TIMED_OUT,
            f"{sum(states.values())} of {len(entries)} jobs have ended after {timeout:g} s; "
            "those that were enqueued go on",
        )
    return Exit.OK if set(states) <= {"completed"} else Exit.FAILED


async def _hint(states: Counter[str]) -> None:
    await trio.sleep(HINT_SECONDS)
    if not states:
        complain(
            f"no job has ended after {HINT_SECONDS:g} s. A job whose name no worker knows stays "
            "running for ever"
        )
