"""``events_from="all"``: every event of every server once, and a gap that names who was away."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

import trio_dispatch
from trio_dispatch import (
    AuthError,
    Client,
    EnqueueRequest,
    Event,
    PermissionDenied,
    StreamGap,
    Subscription,
)
from trio_dispatch.server import Cluster, Identity

pytestmark = pytest.mark.wires("websockets-json")
"""The wires differ below what is tested here; those that differ in it are named."""

ALL_WIRES: list[dict[str, Any]] = [
    {"transport": "websockets"},
    {"transport": "trio-websocket", "format": "msgpack"},
    {"scheme": "http"},
]


def make_cluster(**options: Any) -> Cluster:
    cluster = Cluster({"t": Identity(scopes={"*"})}, seed=1, **options)

    @cluster.job
    async def noop(payload: Any) -> None: ...

    return cluster


@asynccontextmanager
async def open_all(
    cluster: Cluster, *, scheme: str = "ws", **options: Any
) -> AsyncIterator[Client]:
    """A client that hears all servers of a cluster."""
    urls = [node.memory_url.replace("ws", scheme, 1) for node in cluster.nodes]
    async with cluster.open_client(token="t", url=urls, events_from="all", **options) as client:
        yield client


def published(cluster: Cluster) -> Counter[tuple[str, str]]:
    return Counter((e.type, e.topic) for node in cluster.nodes for e in node.events)


def received(events: list[Event]) -> Counter[tuple[str, str]]:
    return Counter((e.type, e.topic) for e in events if not isinstance(e, StreamGap))


def gaps(events: list[Event]) -> list[StreamGap]:
    return [event for event in events if isinstance(event, StreamGap)]


def stored(events: Subscription) -> list[Event]:
    """Everything that has arrived and was not read."""
    found: list[Event] = []
    while True:
        try:
            found.append(events.receive_nowait())
        except trio.WouldBlock:
            return found


@pytest.mark.parametrize("wire_options", ALL_WIRES, ids=["websockets", "trio-websocket", "http"])
async def test_each_event_of_three_servers_arrives_once(
    autojump_clock: object, wire_options: dict[str, Any]
) -> None:
    cluster = make_cluster()
    jobs = 300 if "scheme" in wire_options else 3_000
    async with open_all(cluster, **wire_options) as client:
        async with client.subscribe("jobs", buffer=100_000) as events:
            async with client.run_jobs(
                (EnqueueRequest("noop") for _ in range(jobs)), limit=8
            ) as finished:
                assert len([job async for job in finished]) == jobs
            await cluster.idle()
            await trio.sleep(5)
            found = stored(events)
        assert gaps(found) == []
        assert received(found) == published(cluster)
        assert len(found) >= 3 * jobs
        assert sum(bool(node.events) for node in cluster.nodes) == 3


@pytest.mark.parametrize("away", [0, 1], ids=["the main server", "another server"])
async def test_one_server_away_and_back_is_one_gap_that_names_it(
    autojump_clock: object, away: int
) -> None:
    cluster = make_cluster()
    async with open_all(cluster) as client:
        async with client.subscribe("jobs", buffer=100_000) as events:
            node = cluster.nodes[away]
            await client.enqueue_many(EnqueueRequest("noop") for _ in range(20))
            await cluster.idle()
            node.kill()
            await trio.sleep(5)
            await client.enqueue_many(EnqueueRequest("noop") for _ in range(20))
            await trio.sleep(5)
            during = stored(events)  # who is away holds up nobody
            assert gaps(during) == []
            assert len(during) >= 20
            await node.start()
            await trio.sleep(60)
            (gap,) = stored(events)
            assert isinstance(gap, StreamGap)
            assert gap.server == node.memory_url
            assert gap.until is not None
            await client.enqueue_many(EnqueueRequest("noop") for _ in range(100))
            await cluster.idle()
            await trio.sleep(5)
            after = stored(events)
            assert gaps(after) == []
            assert Counter(e.type for e in after)["job.completed"] == 100


async def test_a_server_that_is_away_at_first_delays_nobody_and_leaves_a_gap(
    autojump_clock: object,
) -> None:
    cluster = make_cluster()
    async with open_all(cluster) as client:
        await trio.sleep(1)
        cluster.nodes[2].kill()
        await trio.sleep(1)
        started = trio.current_time()
        async with client.subscribe("jobs") as events:
            assert trio.current_time() - started < 1
            await client.enqueue("noop")
            assert not isinstance(await events.receive(), StreamGap)
            await cluster.nodes[2].start()
            await trio.sleep(60)
            (gap,) = gaps(stored(events))
            assert gap.server == cluster.nodes[2].memory_url


async def test_subscribing_right_after_connecting_misses_nothing(autojump_clock: object) -> None:
    """The other connections are not established yet, and entering waits for them."""
    for _ in range(5):
        cluster = make_cluster()
        async with open_all(cluster) as client, client.subscribe("jobs") as events:
            await client.enqueue_many(EnqueueRequest("noop") for _ in range(50))
            await cluster.idle()
            await trio.sleep(5)
            found = stored(events)
            assert gaps(found) == []
            assert received(found) == published(cluster)


async def test_leaving_the_client_leaves_nothing_on_any_server(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with cluster.run():
        async with open_all(cluster) as client:
            async with client.subscribe("jobs"):
                assert [len(node.connections) for node in cluster.nodes] == [1, 1, 1]
                assert all(c.channels == {"jobs"} for n in cluster.nodes for c in n.connections)
            await trio.sleep(1)
            assert not any(c.channels for n in cluster.nodes for c in n.connections)
        await trio.sleep(1)
        assert [len(node.connections) for node in cluster.nodes] == [0, 0, 0]


async def test_a_server_that_refuses_the_token_is_reported_to_subscribers_alone(
    autojump_clock: object,
) -> None:
    cluster = make_cluster()
    cluster.nodes[1].revoke("t")
    async with open_all(cluster) as client:
        with pytest.raises((AuthError, trio_dispatch.ClientClosed)):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        assert (await client.wait_job(await client.enqueue("noop"))).state == "completed"


async def test_a_channel_that_one_server_refuses_is_refused(autojump_clock: object) -> None:
    cluster = make_cluster()
    cluster.nodes[1].refuse("subscribe", 403)
    async with open_all(cluster) as client:
        with pytest.raises(PermissionDenied):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        async with client.subscribe("jobs"):
            """Only once."""


async def test_with_connection_the_gap_names_nobody(autojump_clock: object) -> None:
    cluster = make_cluster()
    urls = [node.memory_url for node in cluster.nodes]
    async with cluster.open_client(token="t", url=urls) as client:
        async with client.subscribe("jobs") as events:
            assert [len(node.connections) for node in cluster.nodes] == [1, 0, 0]
            cluster.nodes[0].kill()
            gap = await events.receive()
            assert isinstance(gap, StreamGap)
            assert gap.server == ""


async def test_options_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="events_from"):
        trio_dispatch.open_client("ws://a", events_from="every")  # type: ignore[arg-type]
