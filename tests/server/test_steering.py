"""Steering: each call shows on the wire, and nothing of it stays."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import trio

from tests.client.support import make_server, memory_client, open_memory_client
from tests.server.peer import connect, dropped
from trio_dispatch import (
    AuthError,
    Conflict,
    ConnectionLost,
    JobCancelled,
    PermissionDenied,
    RequestTimeout,
    ServerError,
)
from trio_dispatch._client.opening import running
from trio_dispatch.server import Quirks, Server

# Requests.


async def test_the_next_requests_of_a_method_are_refused(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        rule = server.refuse("job.enqueue", 403, "not today", times=2)
        for _ in range(2):
            with pytest.raises(PermissionDenied, match="not today"):
                await client.enqueue("noop")
        await client.enqueue("noop")
        assert (rule.applied, rule.remaining) == (2, 0)
        with server.refuse("stats", times=None):
            for _ in range(3):
                with pytest.raises(ServerError):
                    await client.stats()
        await client.stats()
        assert len(server.jobs()) == 1
        with pytest.raises(ValueError, match="times"):
            server.refuse("stats", times=0)


async def test_sessions_can_be_refused(autojump_clock: object) -> None:
    server = make_server()
    server.refuse("auth", 401, "closed for today")
    with pytest.raises(AuthError, match="closed for today"):
        async with open_memory_client(server):
            pytest.fail("entered")
    async with open_memory_client(server):
        pass


async def test_the_next_requests_of_a_method_are_delayed(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server, request_timeout=10) as client:
        with server.delay("job.get", 3, times=None) as rule:
            handle = await client.enqueue("noop")
            before = trio.current_time()
            await handle.refresh()
            assert trio.current_time() - before == pytest.approx(3)
        assert rule.applied == 1
        server.delay("job.get", 60)
        with pytest.raises(RequestTimeout):
            await handle.refresh()
        with pytest.raises(ValueError, match="negative"):
            server.delay("job.get", -1)
        assert "job.get: after 60 s" in repr(server.delay("job.get", 60))


# Connections.


@pytest.mark.parametrize("url", ["ws://localhost/dwp", "http://localhost/dwp"])
async def test_a_frozen_server_answers_when_it_thaws(autojump_clock: object, url: str) -> None:
    server = make_server()
    async with open_memory_client(server, url=url) as client:
        with server.freeze():
            with trio.move_on_after(5) as scope:
                await client.stats()
            assert scope.cancelled_caught
        await client.stats()
        server.freeze()
        server.thaw()
        server.thaw()
        await client.stats()


async def test_dropped_connections_are_dialled_again(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.subscribe("jobs") as events:
            assert server.drop_connections() == 1
            assert (await events.receive()).type == "stream.gap"
        assert client.statistics().link.connections == 2
        server.delay("job.enqueue", 1)
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def enqueue() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await client.enqueue("noop")
                assert caught.value.maybe_delivered

            await trio.sleep(0.5)
            server.drop_connections()


async def test_a_revoked_token_is_refused_at_the_next_dial(autojump_clock: object) -> None:
    server = make_server()
    async with server.run():
        with pytest.raises(AuthError):
            async with running(memory_client(server)) as client:
                server.revoke("demo-token")
                await client.stats()  # the session goes on
                server.drop_connections()
                await trio.sleep(60)
        server.reinstate("demo-token")
        async with running(memory_client(server)) as client:
            await client.stats()


# Work.


async def test_a_job_is_run_by_hand(autojump_clock: object) -> None:
    server = Server(make_server()._hub.tokens, queues=(), retry_delay=1_000)
    calls: list[Any] = []

    @server.job("twice")
    async def twice(payload: Any) -> None:
        calls.append(payload)
        if len(calls) == 1:
            raise ValueError("once more")

    async with open_memory_client(server) as client:
        handle = await client.enqueue("twice", {"n": 1})
        await trio.sleep(100)
        assert calls == []
        assert (await server.run_job(handle.job_id)).state == "retrying"
        assert (await server.run_job(handle.job_id)).state == "completed"
        assert (await handle.wait()).state == "completed"
        assert calls == [{"n": 1}] * 2
        with pytest.raises(ValueError, match="waits for no attempt"):
            await server.run_job(handle.job_id)
        with pytest.raises(LookupError, match="no job"):
            await server.run_job("job_x")
        unknown = await client.enqueue("unknown")
        with pytest.raises(ValueError, match="no job called 'unknown'"):
            await server.run_job(unknown.job_id)


async def test_any_event_can_be_published(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client, client.subscribe("jobs") as events:
        server.publish("job.exploded", "job:job_x", {"job_id": "job_x", "loud": True})
        event = await events.receive()
        assert (event.type, event.topic, event.data["loud"]) == ("job.exploded", "job:job_x", True)


async def test_idle_waits_for_retries_and_not_for_what_waits(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        await server.idle()
        await client.enqueue("fail")
        await client.enqueue("unknown")
        await client.start_workflow("approval")
        await client.start_workflow("nap")
        await server.idle()
        assert {job.state for job in server.jobs("fail")} == {"failed"}
        assert {run.name: run.state for run in server.runs()} == {
            "approval": "running",
            "nap": "completed",
        }
        await client.publish_event("approved")
        await server.idle()
        assert {run.state for run in server.runs()} == {"completed"}


async def test_assertions_show_what_differs(autojump_clock: object) -> None:
    @attrs.frozen
    class Mail:
        to: str
        subject: str = "hello"

    server = make_server()
    async with open_memory_client(server) as client:
        for n in range(7):
            await client.enqueue("noop", Mail(f"user{n}@example.com"))
        assert len(server.assert_enqueued("noop")) == 7
        (job,) = server.assert_enqueued("noop", Mail("user3@example.com"), count=1)
        assert job.name == "noop"
        server.assert_enqueued("slow", count=0)
        with pytest.raises(AssertionError) as caught:
            server.assert_enqueued("noop", {"to": "user9@example.com", "subject": "hello"})
        message = str(caught.value)
        assert "expected at least one, found 0 of 7" in message
        assert '-  "to": "user9@example.com"' in message
        assert '+  "to": "user0@example.com"' in message
        assert "and 2 more" in message
        with pytest.raises(AssertionError, match="with anything: expected 1, found 7"):
            server.assert_enqueued("noop", count=1)
        await client.run_workflow("nap", {"a": [1, 2]})
        assert server.assert_started("nap", {"a": (1, 2)}, count=1)[0].state == "completed"
        with pytest.raises(AssertionError, match="runs of 'nap'"):
            server.assert_started("nap", {"a": [1, 3]})


# Quirks.


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("transport", ["trio-websocket", "websockets"])
async def test_the_client_works_with_a_corrected_server_too(
    autojump_clock: object, transport: str, format: str
) -> None:
    server = make_server(quirks=Quirks.none(), concurrency=100)
    async with open_memory_client(
        server, url="ws://localhost/dwp", transport=transport, format=format
    ) as client:
        async with client.subscribe("jobs", "queue:q", buffer=10_000) as events:
            handles = [await client.enqueue("noop", queue="q") for _ in range(1_100)]
            await handles[-1].wait()
            await server.idle()
            await trio.sleep(1)
            assert events.statistics().stored == 3 * 1_100
            assert (await events.receive()).channels == ("jobs", "queue:q")
        run = await client.start_workflow("nap", {"a": 1})
        assert (run.known, run.state) == (True, "running")
        async with run.events() as events_of_run:
            types = [event.type async for event in events_of_run]
        assert types[-1] == "workflow.completed"
        assert (await run.wait()).state == "completed"
        slow = await client.enqueue("slow")
        await trio.sleep(1)
        await slow.cancel()
        with pytest.raises(JobCancelled):
            await slow.wait()
        await trio.sleep(5)
        assert (await slow.refresh()).state == "cancelled"
        with pytest.raises(Conflict):
            await slow.cancel()


async def test_queues_deliver_without_their_quirk(autojump_clock: object) -> None:
    server = make_server(quirks=Quirks(silent_queues=False, topics_as_channels=False))
    async with server.run():
        peer = await connect(server)
        await peer.request("subscribe", {"channel": "queue:q"})
        await peer.request("job.enqueue", {"name": "unknown", "queue": "q"})
        frame = peer.events[0] if peer.events else (await peer.receive()).json
        assert frame["channel"] == "queue:q"


async def test_a_refused_session_gets_a_close_frame_without_its_quirk(
    autojump_clock: object,
) -> None:
    for quirks, code in ((Quirks(drops_refused=False), 1008), (Quirks(), None)):
        server = make_server(quirks=quirks)
        async with server.run():
            peer = await connect(server, None)
            await peer.send(id="1", method="auth", data={"token": "wrong"})
            assert (await peer.answer())["error"]["code"] == 401
            assert await dropped(peer) == code


async def test_on_redis_cancelled_jobs_run_and_failed_ones_stay_retrying(
    autojump_clock: object,
) -> None:
    for quirks, states in (
        (Quirks.redis(), ["completed", "retrying"]),
        (Quirks(), ["cancelled", "failed"]),
    ):
        server = make_server(quirks=quirks, retry_delay=0.1)
        async with open_memory_client(server) as client, client.subscribe("jobs") as events:
            slow = [await client.enqueue("slow") for _ in range(10)]
            await trio.sleep(0.1)  # all workers are busy
            cancelled = await client.enqueue("noop")
            await cancelled.cancel()
            await slow[0].wait()
            failed = await client.enqueue("fail")
            async for event in events:
                if event.type == "job.failed":
                    break
            got = [(await client.get_job(job)).state for job in (cancelled, failed)]
            assert got == states
