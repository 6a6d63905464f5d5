"""Waiting for the end of jobs: events say when to ask, and the server's answer decides."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator

import pytest
import trio

from tests.client.support import EITHER_LIBRARY, make_server, open_memory_client
from trio_dispatch import (
    Client,
    ClientClosed,
    EnqueueManyFailed,
    EnqueueRequest,
    JobFailed,
    JobHandle,
    NotFound,
    ServerError,
)

UNKNOWN = "job_01h2xcejqtf2nbrexx3vqjhp41"


async def end_of(client: Client, name: str) -> float:
    """How many seconds a job's wait takes."""
    handle = await client.enqueue(name)
    started = trio.current_time()
    await handle.wait()
    return trio.current_time() - started


async def test_an_instant_job_is_waited_for_in_milliseconds_without_a_single_event(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server(), "no-subscribe") as client:
        assert await end_of(client, "noop") <= 0.025


@pytest.mark.parametrize("seconds", [2, 20, 200])
async def test_a_wait_that_hears_nothing_ends_late_by_an_eighth_and_by_five_seconds_at_most(
    autojump_clock: object, seconds: float
) -> None:
    server = make_server()

    @server.job("long")
    async def long(payload: object) -> None:
        await trio.sleep(seconds)

    async with open_memory_client(server, "no-subscribe") as client:
        late = await end_of(client, "long") - seconds
        assert 0 <= late <= min(seconds / 8, 5) + 0.1


async def test_a_wait_outlives_a_server_that_fails(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handle = await client.enqueue("slow")
        server.refuse("job.get", 500, times=30)
        assert (await handle.wait()).state == "completed"


async def test_an_error_that_asking_again_does_not_mend_ends_the_wait(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handle = await client.enqueue("slow")
        server.refuse("job.get", 400, "what?", times=1)
        with pytest.raises(Exception, match=r"what\?"):
            await handle.wait()
    with pytest.raises(ClientClosed):
        await handle.wait()


async def test_a_job_that_was_known_is_missing_only_when_the_server_says_so_for_ten_seconds(
    autojump_clock: object,
) -> None:
    server = make_server()
    missing = "job not found: dispatch: job not found"
    async with open_memory_client(server) as client:
        handle = await client.enqueue("slow")
        server.refuse("job.get", 404, missing, times=3)
        assert (await client.wait_job(handle)).state == "completed"
        rule = server.refuse("job.get", 404, missing, times=1_000_000)
        started = trio.current_time()
        with pytest.raises(NotFound):
            await handle.wait()
        assert 10 <= trio.current_time() - started <= 12
        started = trio.current_time()
        with pytest.raises(NotFound):
            await client.wait_job(UNKNOWN)  # nothing says that it ever existed
        assert trio.current_time() - started < 0.1
        rule.end()


async def test_an_end_that_the_state_contradicts_for_ten_seconds_is_believed(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handle = await client.enqueue("nobody-registered-this")
        with trio.move_on_after(3) as scope:
            await handle.wait()
        assert scope.cancelled_caught
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waiting() -> None:
                with pytest.raises(JobFailed, match="out of luck") as caught:
                    await handle.wait()
                assert caught.value.job.state == "failed"
                assert caught.value.job.id == handle.job_id

            await trio.sleep(1)
            server.publish(
                "job.failed",
                f"job:{handle.job_id}",
                {"job_id": handle.job_id, "error": "out of luck"},
            )
            started = trio.current_time()
        assert 10 <= trio.current_time() - started <= 12.5


async def test_waits_end_with_their_client(autojump_clock: object) -> None:
    for token in ("demo-token", "no-subscribe"):
        server = make_server()
        async with open_memory_client(server, token) as client, trio.open_nursery() as nursery:
            handle = await client.enqueue("nobody-registered-this")
            ended: list[float] = []

            async def waiting(client: Client, handle: JobHandle, ended: list[float]) -> None:
                with pytest.raises(ClientClosed):
                    await client.wait_job(handle)
                ended.append(trio.current_time())

            nursery.start_soon(waiting, client, handle, ended)
            await trio.sleep(100)
            closed = trio.current_time()
            await client.aclose()
        assert ended[0] - closed < 2.1


# Many at once.


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_thousands_of_waits_are_one_subscription_one_task_and_one_question_each(
    autojump_clock: object,
) -> None:
    server = make_server()
    count = 3_000
    async with open_memory_client(server) as client:
        handles = await client.enqueue_many([EnqueueRequest("noop")] * count)
        sent = client.statistics().link.frames_sent
        tasks = trio.lowlevel.current_statistics().tasks_living
        most = [0, 0, 0]
        async with client.wait_jobs(handles) as finished:
            got = 0
            async for job in finished:
                assert job.state == "completed"
                got += 1
                found = client.statistics()
                most[0] = max(most[0], found.link.in_flight)
                most[1] = max(most[1], found.subscriptions)
                if got % 100 == 0:
                    living = trio.lowlevel.current_statistics().tasks_living
                    most[2] = max(most[2], living - tasks)
        assert got == count
        in_flight, subscriptions, new_tasks = most
        assert in_flight <= 64 + 2  # and the subscription, and a ping
        assert subscriptions <= 1
        assert new_tasks <= 150  # the server's, which come and go; not one for each
        assert client.statistics().link.frames_sent - sent <= 1.2 * count


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_a_reader_that_takes_nothing_holds_the_questions_up(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handles = await client.enqueue_many([EnqueueRequest("noop")] * 1_000)
        sent = client.statistics().link.frames_sent
        async with client.wait_jobs(handles) as finished:
            await trio.sleep(100)
            assert client.statistics().link.frames_sent - sent < 200
            assert len([job async for job in finished]) == 1_000


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_waits_share_their_questions_and_none_starves(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handles = await client.enqueue_many([EnqueueRequest("slow")] * 150)
        ended: list[str] = []

        async def wait(handle: JobHandle) -> None:
            ended.append((await handle.wait()).state)

        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(wait, handle)
            nursery.start_soon(wait, await client.enqueue("noop"))
        assert ended == ["completed"] * 151
        assert client._calls.questions._under_way == 0
        assert not client._calls.at_end
        assert not client._calls.questions._waiting


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_a_cancelled_wait_gives_its_question_back(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handles = await client.enqueue_many([EnqueueRequest("slow")] * 500)
        server.delay("job.get", 5, times=1)
        with trio.move_on_after(1):
            async with client.wait_jobs(handles):
                await trio.sleep_forever()
        await trio.sleep(10)
        assert client._calls.questions._under_way == 0
        assert client.statistics().subscriptions == 0


async def test_a_wait_for_many_is_entered_once_and_before_it_is_read(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server()) as client:
        finished = client.wait_jobs([await client.enqueue("noop")])
        with pytest.raises(RuntimeError, match="async with"):
            await finished.receive()
        async with finished:
            assert [job.state async for job in finished] == ["completed"]
            with pytest.raises(RuntimeError, match="once"):
                async with finished:
                    pytest.fail("entered twice")
        with pytest.raises(trio.ClosedResourceError):
            await finished.receive()
        assert (await client.stats()).connections == 0  # the client lives on


class OddError(Exception):
    """It cannot be copied: its constructor takes other arguments than it keeps."""

    def __init__(self, *, code: int) -> None:
        super().__init__(f"code {code}")


async def test_what_an_iterable_of_requests_raises_reaches_the_reader_as_it_is(
    autojump_clock: object,
) -> None:
    def requests() -> Iterator[EnqueueRequest]:
        yield EnqueueRequest("noop")
        raise OddError(code=7)

    async with open_memory_client(make_server()) as client:
        with pytest.raises(OddError, match="code 7"):
            async with client.run_jobs(requests()) as finished:
                async for _ in finished:
                    pass
        assert await end_of(client, "noop") < 1


async def test_an_enqueue_that_fails_ends_running_jobs(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        server.refuse("job.enqueue", 500, "no more", times=1)
        with pytest.raises(ServerError, match="no more"):
            async with client.run_jobs([EnqueueRequest("noop")] * 10, limit=2) as finished:
                async for _ in finished:
                    pass


@pytest.mark.parametrize("token", ["demo-token", "no-subscribe"])
async def test_jobs_are_run_as_fast_as_they_finish(autojump_clock: object, token: str) -> None:
    server = make_server(concurrency=100)

    @server.job("short")
    async def short(payload: object) -> None:
        await trio.sleep(0.020)

    async with open_memory_client(server, token) as client:
        started = trio.current_time()
        async with client.run_jobs([EnqueueRequest("short")] * 400, limit=8) as finished:
            assert len([job async for job in finished]) == 400
        seconds = trio.current_time() - started
        ideal = 400 / 8 * 0.020
        assert seconds <= ideal / 0.6  # as behind a balancer, where no events are heard


# Handles and errors as values.


async def test_handles_and_the_error_that_holds_them_can_be_copied_and_pickled(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server()) as client:
        handle = await client.enqueue("noop")
        for copied in (copy.copy(handle), copy.deepcopy(handle)):
            assert (copied.job_id, copied.queue) == (handle.job_id, handle.queue)
            assert (await copied.wait()).state == "completed"
        pickled: JobHandle = pickle.loads(pickle.dumps(handle))
        assert (pickled.job_id, pickled.state) == (handle.job_id, handle.state)
        for call in (pickled.wait, pickled.refresh, pickled.cancel):
            with pytest.raises(ClientClosed, match=rf"client\.wait_job\('{handle.job_id}'\)"):
                await call()
        failed = EnqueueManyFailed("1 of 2", [NotFound(404, "z")], [handle, None])
        for again in (copy.copy(failed), pickle.loads(pickle.dumps(failed))):
            assert [h and h.job_id for h in again.handles] == [handle.job_id, None]
            assert [str(e) for e in again.exceptions] == ["404 z"]


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_other_tasks_have_their_turn_while_many_jobs_are_encoded(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:
        turns = 0

        @nursery.start_soon
        async def count_turns() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        def requests() -> Iterator[EnqueueRequest]:
            for number in range(5_000):
                yield EnqueueRequest("noop", number)
            assert turns >= 15

        await client.enqueue_many(requests())
        nursery.cancel_scope.cancel()
