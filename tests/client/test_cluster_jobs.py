"""Jobs on several servers behind a balancer: what a wait costs where most events are not heard."""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import trio

from tests.client.support import WEBSOCKETS
from trio_dispatch import Client, ConnectFailed, EnqueueRequest
from trio_dispatch.server import Cluster, Identity

pytestmark = pytest.mark.wires(WEBSOCKETS[0], WEBSOCKETS[-1])
"""The wire changes nothing here."""


def make_cluster(**options: Any) -> Cluster:
    cluster = Cluster({"demo-token": Identity(scopes={"*"})}, nodes=3, seed=1, **options)

    @cluster.job("noop")
    async def noop(payload: object) -> None:
        pass

    @cluster.job("sleep")
    async def sleep(payload: Any) -> None:
        await trio.sleep(payload["seconds"])

    return cluster


async def seconds_of_wait(client: Client, name: str, payload: object = None) -> float:
    started = trio.current_time()
    await client.wait_job(await client.enqueue(name, payload))
    return trio.current_time() - started


async def test_an_instant_job_is_waited_for_in_25_ms(autojump_clock: object) -> None:
    async with make_cluster().open_client() as client:
        times = [await seconds_of_wait(client, "noop") for _ in range(50)]
        assert statistics.median(times) <= 0.025


@pytest.mark.parametrize("seconds", [5, 20, 50])
async def test_a_wait_ends_late_by_an_eighth_at_most(
    autojump_clock: object, seconds: float
) -> None:
    async with make_cluster().open_client() as client:
        for _ in range(4):
            took = await seconds_of_wait(client, "sleep", {"seconds": seconds})
            assert took - seconds <= min(seconds / 8, 5) + 0.5


async def test_running_jobs_is_at_least_60_percent_as_fast_as_on_one_server(
    autojump_clock: object,
) -> None:
    took: dict[str, float] = {}
    cluster = make_cluster(concurrency=100)
    for where, url in (("one", cluster.urls[0]), ("balancer", "ws://localhost/dwp")):
        async with cluster.open_client(url=url) as client:
            started = trio.current_time()
            requests = [EnqueueRequest("sleep", {"seconds": 0.020})] * 200
            async with client.run_jobs(requests, limit=8) as finished:
                assert len([job async for job in finished]) == 200
            took[where] = trio.current_time() - started
    assert took["one"] / took["balancer"] >= 0.6
    assert 200 / took["balancer"] >= 100


async def test_waits_go_on_while_the_store_is_away(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with cluster.open_client() as client, trio.open_nursery() as nursery:
        handles = [await client.enqueue("sleep", {"seconds": 15}) for _ in range(3)]
        ended: list[str] = []

        async def wait(handle: Any) -> None:
            ended.append((await handle.wait()).state)

        for handle in handles:
            nursery.start_soon(wait, handle)
        await trio.sleep(2)
        with cluster.store_away():
            await trio.sleep(10)
            assert ended == []
    assert ended == ["completed"] * 3


async def test_a_job_without_payload_is_enqueued_on_postgres(autojump_clock: object) -> None:
    async with make_cluster().open_client() as client:
        done = await client.wait_job(await client.enqueue("noop"))
        assert done.payload is None


async def test_a_list_whose_first_server_is_away_connects_at_once(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with cluster.run():
        await cluster.nodes[0].stop()
        started = trio.current_time()
        async with cluster.open_client(url=cluster.urls) as client:
            assert trio.current_time() - started < 0.5
            assert await seconds_of_wait(client, "noop") < 1
        for node in cluster.nodes[1:]:
            await node.stop()
        with pytest.raises(ConnectFailed):
            async with cluster.open_client(url=cluster.urls):
                pytest.fail("connected to nothing")


async def test_requests_wait_while_the_balancer_answers_503(autojump_clock: object) -> None:
    cluster = make_cluster()
    async with cluster.open_client() as client:
        with cluster.balancer.refuse(503):
            cluster.balancer.reload()
            await trio.sleep(0.1)
            async with trio.open_nursery() as nursery:
                took: list[float] = []

                @nursery.start_soon
                async def enqueue() -> None:
                    started = trio.current_time()
                    await client.enqueue("noop")
                    took.append(trio.current_time() - started)

                await trio.sleep(10)
                nursery.cancel_scope.deadline = trio.current_time() + 60
                assert took == []
                for refusal in list(cluster.balancer._refusals):
                    refusal.end()
        assert took[0] >= 10
