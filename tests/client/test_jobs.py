"""Jobs through the client: enqueued, told, waited for, cancelled; many at once."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import attrs
import msgspec
import pytest
import trio

import trio_dispatch
from tests.client.support import WEBSOCKETS, make_server, open_memory_client
from trio_dispatch import (
    ClientClosed,
    EnqueueManyFailed,
    EnqueueRequest,
    Job,
    JobCancelled,
    JobFailed,
)


async def test_an_enqueued_job_is_told_as_it_was_enqueued(autojump_clock: object) -> None:
    server = make_server(queues=["default"])
    async with open_memory_client(server) as client:
        handle = await client.enqueue("noop", {"to": "x"}, queue="email", priority=5)
        assert (handle.queue, handle.state) == ("email", "pending")
        job = await client.get_job(handle.job_id)
        assert isinstance(job, Job)
        assert (job.id, job.name, job.queue) == (handle.job_id, "noop", "email")
        assert (job.state, job.priority, job.payload) == ("pending", 5, {"to": "x"})
        assert job.created_at is not None
        assert job.created_at.tzinfo is not None
        assert job.payload_as(dict[str, str]) == {"to": "x"}


@attrs.frozen
class Mail:
    to: str
    at: dt.datetime
    id: uuid.UUID


async def test_payloads_are_whatever_msgspec_encodes(autojump_clock: object) -> None:
    mail = Mail("x", dt.datetime(2026, 1, 2, tzinfo=dt.timezone.utc), uuid.UUID(int=7))
    async with open_memory_client(make_server()) as client:
        job = await (await client.enqueue("noop", mail)).wait()
        assert job.payload_as(Mail) == mail
        assert job.payload == msgspec.to_builtins(mail)
        nothing = await (await client.enqueue("noop")).wait()
        assert nothing.payload is None
        assert nothing.payload_bytes == b"null"  # Postgres refuses a job without any
        null = await (await client.enqueue("noop", msgspec.Raw(b"null"))).wait()
        assert null.payload_bytes == b"null"


@pytest.mark.parametrize(
    ("arguments", "error", "word"),
    [
        ({"name": ""}, ValueError, "empty"),
        ({"name": 3}, TypeError, "string"),
        ({"name": "\ud800"}, ValueError, "not valid text"),
        ({"name": "x", "payload": float("nan")}, ValueError, "nan"),
        ({"name": "x", "payload": {"a": [float("inf")]}}, ValueError, r"\['a'\]\[0\]"),
        ({"name": "x", "payload": object()}, TypeError, "payload of 'x'"),
        ({"name": "x", "queue": ""}, ValueError, "queue"),
        ({"name": "x", "priority": "high"}, TypeError, "priority"),
        ({"name": "x", "priority": True}, TypeError, "priority"),
        ({"name": "x", "priority": 2**63}, ValueError, "64 bits"),
        ({"name": "x", "payload": "x" * 5000}, ValueError, "max_message_size"),
    ],
)
async def test_what_cannot_work_is_refused_before_anything_is_sent(
    autojump_clock: object, arguments: dict[str, Any], error: type[Exception], word: str
) -> None:
    server = make_server()
    async with open_memory_client(server, max_message_size=4096) as client:
        sent = client.statistics().link.frames_sent
        with pytest.raises(error, match=word):
            await client.enqueue(**arguments)
        with pytest.raises(error, match=word):
            await client.enqueue_many([EnqueueRequest("noop"), EnqueueRequest(**arguments)])
        assert client.statistics().link.frames_sent == sent
        assert server.jobs() == []


async def test_waiting_ends_with_the_job(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        started = trio.current_time()
        handle = await client.enqueue("slow")
        job = await handle.wait()
        assert 2 <= trio.current_time() - started < 2.1
        assert job.state == handle.state == "completed"
        assert await client.wait_job(handle.job_id) == job  # over already: at once
        assert trio.current_time() - started < 2.2


async def test_a_job_that_failed_for_good_raises_with_its_last_state(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server()) as client:
        handle = await client.enqueue("fail")
        with pytest.raises(JobFailed, match="boom") as caught:
            await handle.wait()
        assert caught.value.job.retry_count == 4  # three retries: four attempts
        assert handle.state == "failed"


async def test_a_cancelled_job_raises_job_cancelled(autojump_clock: object) -> None:
    server = make_server(queues=["default"])
    async with open_memory_client(server) as client:
        handle = await client.enqueue("noop", queue="nobody-works-here")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def waiting() -> None:
                with pytest.raises(JobCancelled):
                    await handle.wait()

            await trio.sleep(0.5)
            await handle.cancel()  # publishes no event: the waiting task has to ask
        assert trio.current_time() < 5
        assert (await handle.refresh()).state == "cancelled"


async def test_waiting_works_without_the_subscribe_scope(autojump_clock: object) -> None:
    async with open_memory_client(make_server(), "no-subscribe") as client:
        job = await (await client.enqueue("slow")).wait()
        assert job.state == "completed"


@pytest.mark.wires(*WEBSOCKETS)
async def test_the_callers_scope_ends_a_wait_for_a_job_that_nobody_knows(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handle = await client.enqueue("nobody-registered-this")
        with trio.move_on_after(3600) as scope:
            await handle.wait()
        assert scope.cancelled_caught
        frames = server.connections[0].frames
        assert frames < 900  # asked every five seconds at most
        await trio.sleep(1)
        assert server.connections[0].channels == frozenset()


async def test_the_servers_errors_come_by_their_codes(autojump_clock: object) -> None:
    unknown = "job_01h2xcejqtf2nbrexx3vqjhp41"
    server = make_server()
    async with open_memory_client(server) as client:
        with pytest.raises(trio_dispatch.NotFound, match="job not found") as not_found:
            await client.get_job(unknown)
        assert (not_found.value.code, not_found.value.method) == (404, "job.get")
        with pytest.raises(trio_dispatch.NotFound):
            await client.wait_job(unknown)
        with pytest.raises(trio_dispatch.BadRequest):
            await client.cancel_job("nope")
        with pytest.raises(trio_dispatch.MethodNotSupported):
            await client.request("cron.list")
        with pytest.raises(ValueError, match="empty"):
            await client.get_job("")
    async with open_memory_client(server, "read-only") as client:
        with pytest.raises(trio_dispatch.PermissionDenied, match=r"job\.enqueue"):
            await client.enqueue("noop")


async def test_many_jobs_come_back_in_order(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        handles = await client.enqueue_many(
            EnqueueRequest("noop", {"n": n}, queue=f"q{n % 3}", priority=n % 2)
            for n in range(2_000)
        )
        assert len({handle.job_id for handle in handles}) == 2_000
        stored = {job.id: job for job in server.jobs()}
        for n, handle in enumerate(handles):
            job = stored[handle.job_id]
            assert job.payload == {"n": n}
            assert (job.queue, handle.queue, job.priority) == (f"q{n % 3}", f"q{n % 3}", n % 2)
        assert await client.enqueue_many([]) == []


async def test_entries_that_fail_are_told_with_the_handles_of_the_others(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def batch() -> None:
            with pytest.raises(EnqueueManyFailed, match="of 5000 jobs were not") as caught:
                await client.enqueue_many(EnqueueRequest("noop") for _ in range(5_000))
            handles = caught.value.handles
            assert len(handles) == 5_000
            assert len(caught.value.exceptions) == handles.count(None) > 0
            assert {h.job_id for h in handles if h} <= {job.id for job in server.jobs()}
            assert {type(e) for e in caught.value.exceptions} == {ClientClosed}
            # What was certainly not sent is known not to be.
            unsent = [
                e
                for e in caught.value.exceptions
                if isinstance(e, ClientClosed) and not e.maybe_delivered
            ]
            assert len(server.jobs()) <= 5_000 - len(unsent)

        while client.statistics().link.frames_received < 1_000:
            await trio.lowlevel.checkpoint()
        await client.aclose()


async def test_a_cancelled_batch_withdraws_what_is_not_written(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def batch() -> None:
                await client.enqueue_many(EnqueueRequest("noop") for _ in range(20_000))

            for _ in range(10):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.sleep(1)
        assert len(server.jobs()) < 5_000
        assert client.statistics().link.queued == 0
        job = await (await client.enqueue("noop")).wait()  # and the client still works
        assert job.state == "completed"
