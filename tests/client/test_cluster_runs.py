"""Runs on several servers with one store: known at once, complete, and ended with the truth.

The bounds are those of one server: behind a balancer the main connection and each run's connection
lead to different servers, and events are each server's own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from tests.client import support
from tests.client.run_support import EVENTS_OF_THREE_SECONDS, add_run_workflows, all_events, names
from tests.client.support import SCOPES, WEBSOCKETS, WIRES
from trio_dispatch import Client, RunHandle
from trio_dispatch.server import Cluster, Identity, Workflow

pytestmark = pytest.mark.wires(*WEBSOCKETS)


def make_cluster(nodes: int = 3) -> Cluster:
    cluster = Cluster(
        {token: Identity(subject=token, scopes=scopes) for token, scopes in SCOPES.items()},
        nodes=nodes,
        seed=1,
    )
    add_run_workflows(cluster)

    @cluster.workflow("approval")
    async def approval(workflow: Workflow, input: Any) -> None:
        await workflow.wait_for_event("approved", timeout=600)

    return cluster


@asynccontextmanager
async def client_of(cluster: Cluster, **options: Any) -> AsyncGenerator[Client, None]:
    """A client through the balancer, for two hours at most."""
    options = WIRES[support.wire] | options
    with trio.fail_after(7_200):
        async with cluster.open_client(token="demo-token", **options) as client:
            yield client


async def test_a_run_is_known_at_once_behind_a_balancer_and_its_events_are_complete(
    autojump_clock: object,
) -> None:
    async with client_of(make_cluster()) as client:
        for n in range(9):
            began = trio.current_time()
            run = await client.start_workflow("three-seconds", {"n": n})
            assert run.known
            assert trio.current_time() - began < 0.1
            assert [event.type for event in await all_events(run)] == EVENTS_OF_THREE_SECONDS
            assert (await run.wait()).input == {"n": n}
            assert trio.current_time() - began < 3.5


async def test_equal_starts_of_two_clients_over_three_servers_are_all_told_apart(
    autojump_clock: object,
) -> None:
    cluster = make_cluster()
    handles: dict[str, list[RunHandle]] = {"one": [], "two": []}

    async def start(client: Client, whose: str) -> None:
        run = await client.start_workflow("three-seconds", {"same": True})
        assert run.known
        handles[whose].append(run)
        events = await all_events(run)
        assert {event.run_id for event in events} == {run.run_id}
        assert [event.type for event in events] == EVENTS_OF_THREE_SECONDS

    async with (
        client_of(cluster, max_concurrent_runs=32) as one,
        client_of(cluster, max_concurrent_runs=32) as two,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(32):
                nursery.start_soon(start, one, "one")
                nursery.start_soon(start, two, "two")
        mine, theirs = ({run.run_id for run in handles[whose]} for whose in ("one", "two"))
        assert len(mine) == len(theirs) == 32
        assert not mine & theirs
        stored = {view.id: view.input_bytes for view in cluster.runs()}
        assert mine | theirs == set(stored)
        for run in handles["one"] + handles["two"]:
            assert stored[run.run_id] == run._record.text


async def test_a_long_run_outlasts_a_balancers_idle_timeout(autojump_clock: object) -> None:
    cluster = make_cluster()
    cluster.balancer.idle_timeout = 50
    async with client_of(cluster) as client:
        run = await client.start_workflow("sleep", {"seconds": 75})
        events = await all_events(run)
        assert names(events) == ["workflow.started", "workflow.completed"]
        assert (await run.wait()).state == "completed"
        assert trio.current_time() == pytest.approx(75, abs=0.5)


async def test_with_a_list_of_urls_runs_follow_the_client(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with client_of(cluster, url=cluster.urls, min_reconnect_delay=0.05) as client:
        await cluster.nodes[0].stop()
        await trio.sleep(1)
        run = await client.start_workflow("approval", {})
        assert run.known
        await cluster.nodes[0].start()
        await trio.sleep(1)
        await client.publish_event("approved")
        assert (await run.wait()).state == "completed"
        assert trio.current_time() < 5
        assert (await client.run_workflow("three-seconds", {})).state == "completed"


async def test_waits_go_on_while_the_store_is_away(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with client_of(cluster) as client:
        run = await client.start_workflow("sleep", {"seconds": 30})
        ended: list[str] = []

        async def wait() -> None:
            ended.append((await run.wait()).state)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.sleep(5)
            with cluster.store_away():
                await trio.sleep(10)
        assert ended == ["completed"]


async def test_a_start_waits_while_the_balancer_answers_503(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with client_of(cluster, max_reconnect_delay=2) as client:
        refusal = cluster.balancer.refuse(503)

        async def come_back() -> None:
            await trio.sleep(10)
            refusal.end()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            nursery.start_soon(client.run_workflow, "three-seconds", {})
            await client.run_workflow("three-seconds", {}, cancel_with_scope=True)
        assert trio.current_time() < 20
        assert len(cluster.runs()) == 2


async def test_a_run_whose_server_is_killed_ends_when_another_start_resumes_it(
    autojump_clock: object,
) -> None:
    cluster = make_cluster()
    async with client_of(cluster, min_reconnect_delay=0.05) as client:
        run = await client.start_workflow("steps", {"steps": 10, "pause": 1})
        await trio.sleep(2.5)
        executing = [
            node
            for node in cluster.nodes
            if any(event.topic == f"workflow:{run.run_id}" for event in node.events)
        ]
        assert len(executing) == 1
        executing[0].kill()
        await trio.sleep(20)
        assert not run._record.settled
        await executing[0].start()
        events = await all_events(run)
        assert names(events)[:3] == ["workflow.started", "s0", "s1"]
        assert "stream.gap" in names(events)
        assert (await run.wait()).state == "completed"


async def test_a_reload_of_the_balancer_ends_no_run(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with client_of(cluster, min_reconnect_delay=0.05) as client:
        run = await client.start_workflow("steps", {"steps": 10, "pause": 1})
        await trio.sleep(2.5)
        cluster.balancer.reload()
        events = await all_events(run)
        got = names(events)
        assert got[:4] == ["workflow.started", "s0", "s1", "s2"]
        assert "stream.gap" in got
        assert (await run.wait()).state == "completed"
        assert trio.current_time() <= 10 + 10 / 8 + 1.5
