"""``trio-dispatch workflow``: run, start, get, timeline, cancel, replay."""

from __future__ import annotations

import math
from functools import partial
from typing import Annotated, Final, TypeAlias

import msgspec
import trio
from cyclopts import App, Parameter

from trio_dispatch import Client, RunHandle, TimelineStep, WorkflowFailed, WorkflowRun
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Ended, Exit, UsageError
from trio_dispatch.cli.json_input import read_json
from trio_dispatch.cli.lines import event_line, run_lines, step_line
from trio_dispatch.cli.offered import ask_what_may_be_missing
from trio_dispatch.cli.output import OutputOptions, chosen, line_width, print_line
from trio_dispatch.cli.waiting import TimeoutOption, check_timeout

workflow_app: Final = App(name="workflow", help="Start workflows, and look at their runs.")

NameArgument: TypeAlias = Annotated[str, Parameter(help="The workflow's name.")]
RunArgument: TypeAlias = Annotated[str, Parameter(help="The run's id.")]
InputArgument: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="The input as JSON; @FILE reads a file, - standard input (default: {}).",
        allow_leading_hyphen=True,
    ),
]


def _input(text: str | None) -> object:
    return msgspec.UNSET if text is None else read_json(text, "INPUT")


@workflow_app.command
def start(
    name: NameArgument,
    input: InputArgument = None,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Start a workflow, and print its run's id. The run goes on when this has ended."""
    value = _input(input)

    async def use(client: Client) -> Exit:
        run = await _started(client, name, value)
        run_id = await run.wait_known()
        found = {"run_id": run_id, "name": name, "state": run.state}
        chosen(output).show(found, lambda: [run_id])
        return Exit.OK

    return with_client(server, use)


async def _started(client: Client, name: str, value: object) -> RunHandle:
    try:
        return await client.start_workflow(name, value)
    except (TypeError, ValueError) as exc:
        raise UsageError(str(exc)) from exc


@workflow_app.command(name="run")
def run_(
    name: NameArgument,
    input: InputArgument = None,
    /,
    *,
    timeout: TimeoutOption = None,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Start a workflow, print what happens as it happens, and report how it ended.

    Exit code 0: it completed; 1: it failed; 124: neither before `--timeout`. The run goes on when
    Ctrl-C or `--timeout` ends the command.
    """
    value = _input(input)
    check_timeout(timeout)
    out = chosen(output)

    async def use(client: Client) -> Exit:
        run: WorkflowRun | None = None
        with trio.move_on_after(math.inf if timeout is None else timeout):
            run = await _run_and_tell(client, name, value, out)
        if run is None:
            raise Ended(Exit.TIMED_OUT, f"the run has not ended after {timeout:g} s; it goes on")
        _print_run(run, out)
        return Exit.OK if run.state == "completed" else Exit.FAILED

    return with_client(server, use)


async def _run_and_tell(
    client: Client, name: str, value: object, out: OutputOptions
) -> WorkflowRun:
    handle = await _started(client, name, value)
    async with handle.events() as events:
        async for event in events:
            if out.for_programs:
                out.value(event)
            else:
                print_line(event_line(event, line_width()))
    try:
        return await handle.wait()
    except WorkflowFailed as exc:
        return exc.run


@workflow_app.command
def get(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Show a run."""

    async def use(client: Client) -> Exit:
        _print_run(await client.get_workflow(run_id), chosen(output))
        return Exit.OK

    return with_client(server, use)


@workflow_app.command
def timeline(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Show which steps a run has finished."""

    async def use(client: Client) -> Exit:
        await client.get_workflow(run_id)  # an unknown run has an empty timeline
        for step in await client.workflow_timeline(run_id):
            chosen(output).show(step, partial(_step_lines, step))
        return Exit.OK

    return with_client(server, use)


@workflow_app.command
def cancel(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Cancel a run, where the server can do that (`workflow.cancel`)."""
    return ask_what_may_be_missing("workflow.cancel", {"run_id": run_id}, server, output)


@workflow_app.command
def replay(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Run a finished run again, where the server can do that (`workflow.replay`)."""
    return ask_what_may_be_missing("workflow.replay", {"run_id": run_id}, server, output)


def _step_lines(step: TimelineStep) -> list[str]:
    return [step_line(step)]


def _print_run(run: WorkflowRun, out: OutputOptions) -> None:
    out.show(run, lambda: run_lines(run))
