"""What the tests of runs share: workflows that take time, and a network with two ways."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from tests.client.support import make_server, memory_client, through
from trio_dispatch import Client, ConnectionLost, Event, RunHandle, WorkflowFailed
from trio_dispatch._client.opening import running
from trio_dispatch.server import Cluster, RunView, Server, Workflow
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


USERS = 5
STARTS = 4
"""Of each user."""

INPUTS: tuple[object, ...] = ({}, {"a": 1}, {"a": 1}, [1], 5, "text")


class RunUsers:
    """Users who start runs at random, give some up, wait, and read events."""

    def __init__(self) -> None:
        self.told: list[tuple[RunHandle, str]] = []
        """Handles, and the states that their waits returned."""
        self.read: list[tuple[RunHandle, list[Event]]] = []
        """Handles, and the events that were read to the end."""
        self.lost = 0
        """Starts that were lost before their run was known."""

    async def use(self, client: Client, rng: random.Random) -> None:
        for _ in range(STARTS):
            await trio.sleep(rng.random())
            patience = rng.choice((0.001, 0.05, 0.5, float("inf"), float("inf"), float("inf")))
            with trio.move_on_after(patience):
                await self.start_and_follow(client, rng)

    async def start_and_follow(self, client: Client, rng: random.Random) -> None:
        run: RunHandle | None = None
        try:
            run = await client.start_workflow("w", rng.choice(INPUTS))
            known = run.known
            choice = rng.randrange(4)
            if choice == 0:
                return
            if choice == 1:
                known = bool(await run.wait_known())
            if choice == 2:
                async with run.events() as events:
                    self.read.append((run, [event async for event in events]))
                known = True
            try:
                self.told.append((run, (await run.wait()).state))
            except WorkflowFailed as exc:
                self.told.append((run, exc.run.state))
        except ConnectionLost as exc:
            if (run is not None and run.known) or not exc.maybe_delivered:
                raise AssertionError(f"{run} was known or never sent, and lost") from exc
            self.lost += 1
        else:
            assert known or run.known

    def check_told(self, runs: Iterable[RunView]) -> None:
        """See whether the handles told the truth, which is in the store."""
        stored = {run.id: run for run in runs}
        ours = [run.run_id for run, _ in self.told]
        assert len(set(ours)) == len(ours), "two handles have the same run"
        for run, state in self.told:
            assert stored[run.run_id].state == state
            assert stored[run.run_id].input_bytes == run._record.text
