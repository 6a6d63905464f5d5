"""``trio-dispatch workflow`` and ``trio-dispatch event``."""

from __future__ import annotations

from typing import Annotated, Final

import msgspec
from cyclopts import App, Parameter

from trio_dispatch import Client, RunHandle, WorkflowFailed, WorkflowRun
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError
from trio_dispatch.cli.output import JsonOption, print_json, print_line, print_lines
from trio_dispatch.cli.payload_input import PayloadArgument, read_json
from trio_dispatch.cli.show import event_line, run_lines, step_line

workflow_app: Final = App(name="workflow", help="Start workflows, and look at their runs.")
event_app: Final = App(name="event", help="Publish events that workflows wait for.")

NameArgument = Annotated[str, Parameter(help="The workflow's name.")]
RunArgument = Annotated[str, Parameter(help="The run's id.")]
InputArgument = Annotated[
    str | None,
    Parameter(
        help="The input as JSON; @FILE reads a file, - standard input. {} without.",
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
    json: JsonOption = False,
) -> int:
    """Start a workflow, and print its run's id. The run goes on when this has ended."""
    value = _input(input)

    async def use(client: Client) -> Exit:
        run = await _started(client, name, value)
        run_id = await run.wait_known()
        if json:
            print_json({"run_id": run_id, "name": name, "state": run.state})
        else:
            print_line(run_id)
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
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Start a workflow, print what happens as it happens, and tell how it ended.

    Exit code 0: it completed; 1: it failed. Ctrl-C leaves the run alone.
    """
    value = _input(input)

    async def use(client: Client) -> Exit:
        handle = await _started(client, name, value)
        async with handle.events() as events:
            async for event in events:
                if json:
                    print_json(event)
                else:
                    print_line(event_line(event), cut=True)
        try:
            run = await handle.wait()
        except WorkflowFailed as exc:
            run = exc.run
        _print_run(run, json)
        return Exit.OK if run.state == "completed" else Exit.FAILED

    return with_client(server, use)


@workflow_app.command
def get(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Show a run."""

    async def use(client: Client) -> Exit:
        _print_run(await client.get_workflow(run_id), json)
        return Exit.OK

    return with_client(server, use)


@workflow_app.command
def timeline(
    run_id: RunArgument,
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Show which steps a run has finished."""

    async def use(client: Client) -> Exit:
        await client.get_workflow(run_id)  # an unknown run has an empty timeline
        for step in await client.workflow_timeline(run_id):
            if json:
                print_json(step)
            else:
                print_line(step_line(step))
        return Exit.OK

    return with_client(server, use)


@event_app.command
def publish(
    name: Annotated[str, Parameter(help="The event's name.")],
    payload: PayloadArgument = None,
    /,
    *,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Publish an event, and print its id. It releases one workflow that waits for it."""
    value = None if payload is None else read_json(payload, "PAYLOAD")

    async def use(client: Client) -> Exit:
        try:
            event_id = await client.publish_event(name, value)
        except (TypeError, ValueError) as exc:
            raise UsageError(str(exc)) from exc
        if json:
            print_json({"event_id": event_id, "name": name})
        else:
            print_line(event_id)
        return Exit.OK

    return with_client(server, use)


def _print_run(run: WorkflowRun, json: bool) -> None:
    if json:
        print_json(run)
    else:
        print_lines(run_lines(run))
