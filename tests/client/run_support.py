"""What the tests of runs share: workflows that take time, and a network with two ways."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.client.support import make_server, memory_client, through
from trio_dispatch import Client, Event, RunHandle
from trio_dispatch._client.opening import running
from trio_dispatch.server import Cluster, Server, Workflow
from trio_dispatch.testing import FaultyProxy

EVENTS_OF_THREE_SECONDS = [
    "workflow.started",
    "workflow.step_completed",
    "workflow.step_completed",
    "workflow.completed",
]


def make_run_server(**options: Any) -> Server:
    """A server with workflows that take time."""
    server = make_server(**options)
    add_run_workflows(server)
    return server


def add_run_workflows(server: Server | Cluster) -> None:
    """Register workflows that take time."""

    async def step(value: Any) -> Any:
        return value

    @server.workflow("three-seconds")
    async def three_seconds(workflow: Workflow, input: Any) -> None:
        await workflow.step("first", step, input)
        await workflow.sleep("nap", 3)
        await workflow.step("last", step, input)

    @server.workflow("sleep")
    async def sleep(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", input["seconds"])

    @server.workflow("steps")
    async def steps(workflow: Workflow, input: Any) -> None:
        for n in range(input["steps"]):
            await workflow.step(f"s{n}", step, n)
            await trio.sleep(input.get("pause", 0))


@attrs.frozen
class TwoWays:
    """A client whose main connection and whose runs' connections go different ways."""

    client: Client
    server: Server
    main: FaultyProxy
    runs: FaultyProxy


@asynccontextmanager
async def open_two_ways(
    server: Server | None = None, token: str = "demo-token", **options: Any
) -> AsyncGenerator[TwoWays, None]:
    """A running server, two proxies before it, and a client of it."""
    server = server or make_run_server()
    async with (
        server.run(),
        FaultyProxy.in_memory(server.open_stream) as main,
        FaultyProxy.in_memory(server.open_stream) as runs,
    ):

        async def to_main(address: object) -> trio.abc.Stream:
            return await main.open_stream()

        async def to_runs(address: object) -> trio.abc.Stream:
            return await runs.open_stream()

        client = through(memory_client(server, token, **options), main=to_main, runs=to_runs)
        async with running(client):
            yield TwoWays(client, server, main, runs)


async def all_events(run: RunHandle) -> list[Event]:
    """The events of a run, to its end."""
    async with run.events() as events:
        return [event async for event in events]


def names(events: list[Event]) -> list[str]:
    """Their types; the step's name for a step."""
    return [str(event.data.get("step_name", event.type)) for event in events]


def missing(server: Server, run: RunHandle, events: list[Event]) -> set[str]:
    """What the server published for the run, and is not among *events*."""
    published = {
        str(event.data.get("step_name", event.type))
        for event in server.events
        if event.topic == f"workflow:{run.run_id}"
    }
    return published - set(names(events))
