"""Many jobs at once: waiting for them in order of completion, running them with a limit."""

from __future__ import annotations

import pytest
import trio

from tests.client.support import make_server, memory_client, open_memory_client
from trio_dispatch import ClientClosed, EnqueueRequest, NotFound
from trio_dispatch._client.opening import running


async def test_jobs_come_in_the_order_in_which_they_finish(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        names = ["slow", "fail-once", "noop"]
        handles = {(await client.enqueue(name)).job_id: name for name in names}
        async with client.wait_jobs([*handles, *handles]) as finished:
            got = [(handles[job.id], job.state) async for job in finished]
    assert sorted(got) == [("fail-once", "failed"), ("noop", "completed"), ("slow", "completed")]
    assert got[-1] == ("slow", "completed")


async def test_waiting_for_no_job_ends_at_once(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.wait_jobs([]) as finished:
            assert [job async for job in finished] == []


async def test_leaving_the_block_leaves_the_jobs_alone(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handles = [await client.enqueue("slow") for _ in range(3)]
        async with client.wait_jobs(handles) as finished:
            pass
        with pytest.raises(trio.ClosedResourceError):
            await finished.receive()
        await trio.sleep(0.1)
        assert client.statistics().subscriptions == 0
        await trio.sleep(5)
        assert {job.state for job in server.jobs()} == {"completed"}


async def test_an_unknown_job_is_told_to_the_reader(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        slow = await client.enqueue("slow")
        async with client.wait_jobs([slow, "job_01h2xcejqtf2nbrexx3vqjhp41"]) as finished:
            with pytest.raises(NotFound):
                await finished.receive()
        with pytest.raises(TypeError, match="a job is an id"):
            client.wait_jobs([7])  # type: ignore[list-item]


async def test_a_client_that_closes_ends_the_waiting(autojump_clock: object) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        handle = await client.enqueue("slow")
        async with client.wait_jobs([handle]) as finished:
            await client.aclose()
            with pytest.raises(ClientClosed):
                await finished.receive()
        with pytest.raises(ClientClosed):
            async with client.wait_jobs([handle]):
                pytest.fail("entered")


async def test_no_more_jobs_are_under_way_than_the_limit(autojump_clock: object) -> None:
    server = make_server(concurrency=100)
    taken = 0

    def requests() -> object:
        nonlocal taken
        while True:
            taken += 1
            yield EnqueueRequest("slow", taken)

    async with open_memory_client(server) as client:
        async with client.run_jobs(requests(), limit=4) as finished:  # type: ignore[arg-type]
            got = [await finished.receive() for _ in range(12)]
            assert {job.state for job in got} == {"completed"}
            assert trio.current_time() >= 6  # three rounds of four, of two seconds each
        assert taken <= 12 + 4 + 4  # and no more are read than can be under way and unread
        with pytest.raises(ValueError, match="limit"):
            client.run_jobs([], limit=0)


async def test_a_slow_reader_holds_the_work_up(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.run_jobs(
            (EnqueueRequest("noop") for _ in range(100)), limit=2
        ) as finished:
            await trio.sleep(1_000)
            assert len(server.jobs()) <= 4
            assert len([job async for job in finished]) == 100
