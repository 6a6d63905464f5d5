"""The server as a whole: its life, its port, what it shows, and that nothing holds it up."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_dispatch.server
from tests.server.peer import TOKENS, Dropped, Peer, connect, running
from trio_dispatch.server import Server, Workflow

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


def test_every_public_name_is_there() -> None:
    for name in trio_dispatch.server.__all__:
        assert getattr(trio_dispatch.server, name).__doc__


@pytest.mark.parametrize(
    "options",
    [
        {"path": "dwp"},
        {"concurrency": 0},
        {"retry_delay": -1},
        {"max_retry_delay": -1},
        {"max_message_size": 0},
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Server(TOKENS, **options)


def test_one_string_is_no_collection_of_queues() -> None:
    with pytest.raises(TypeError, match="collection"):
        Server(TOKENS, queues="default")


# Life


async def test_what_the_block_raises_comes_out_unchanged() -> None:
    server = Server(TOKENS)
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with server.serve():
            raise error
    assert caught.value is error
    with pytest.raises(ExceptionGroup):
        async with server.run():
            raise ExceptionGroup("mine", [error])
    with pytest.raises(KeyboardInterrupt):
        async with server.run():
            raise KeyboardInterrupt


async def test_the_error_of_the_block_survives_a_cancellation_at_the_same_time() -> None:
    server = Server(TOKENS)
    with pytest.raises(ValueError, match="mine"), trio.CancelScope() as scope:
        async with server.run():
            scope.cancel()
            raise ValueError("mine")


async def test_a_server_is_cancelled_like_anything_else(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    with trio.move_on_after(5) as scope:
        async with server.serve(), server.run():
            await trio.sleep_forever()
    assert scope.cancelled_caught
    with pytest.raises(RuntimeError, match="not running"):
        await server.open_stream()


async def test_without_an_engine_there_are_no_streams() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        await Server(TOKENS).open_stream()


async def test_when_the_engine_ends_connections_drop_and_work_is_cancelled(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    ended: list[str] = []

    async def forever(name: str) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(name)

    @server.job("job")
    async def job(payload: Any) -> None:
        await forever("job")

    @server.workflow("run")
    async def run(workflow: Workflow, input: Any) -> None:
        await workflow.step("step", forever, "run")

    async with server.run():
        peer = await connect(server)
        await peer.call("job.enqueue", {"name": "job"})
        await peer.send(id="1", method="workflow.start", data={"name": "run"})
        await trio.sleep(1)
    assert sorted(ended) == ["job", "run"]
    with pytest.raises(Dropped) as caught:
        await peer.receive()
    assert caught.value.code is None
    assert server.connections == []
    # The run goes on when the server is entered again.
    assert server.runs()[0].state == "running"
    # The job starts in a task of its own, before the run or after it.
    assert sorted(event.type for event in server.events) == [
        "job.enqueued",
        "job.started",
        "workflow.started",
    ]


async def test_a_server_may_be_entered_again_and_has_kept_everything(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    async with server.run():
        await (await connect(server)).call("job.enqueue", {"name": "later", "queue": "q"})
        first = server.jobs()

    @server.job("noop")
    async def noop(payload: Any) -> None:
        pass

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "noop"})
        await trio.sleep(1)
    assert [job.name for job in server.jobs()] == ["later", "noop"]
    assert server.jobs(name="later")[0].id == first[0].id
    assert server.statistics().jobs == {"running": 1, "completed": 1}


async def test_an_attempt_that_the_end_cut_off_is_made_again(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    began = 0

    @server.job("slow")
    async def slow(payload: Any) -> None:
        nonlocal began
        began += 1
        await trio.sleep(5)

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "slow"})
        await trio.sleep(1)
    assert server.jobs()[0].state == "pending"
    async with server.run():
        await trio.sleep(6)
    assert server.jobs()[0].state == "completed"
    assert (began, server.jobs()[0].retry_count) == (2, 0)


async def test_an_inner_block_does_not_end_what_an_outer_one_runs(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.workflow("slow")
    async def slow(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3)

    async with server.run():
        async with server.run():
            peer = await connect(server)
            await peer.send(id="1", method="workflow.start", data={"name": "slow"})
            await trio.sleep(1)
        assert (await peer.answer())["data"]["state"] == "completed"


# TCP. Real sockets have the real clock: no test waits for a time here.


async def tcp(url: str) -> trio.SocketStream:
    host, port = url.removeprefix("ws://").removesuffix("/dwp").rsplit(":", 1)
    return await trio.open_tcp_stream(host, int(port))


async def test_a_port_serves_several_clients_and_is_closed_with_its_block() -> None:
    server = Server(TOKENS)
    async with server.serve("127.0.0.1", 0) as url:
        assert url.startswith("ws://127.0.0.1:")
        peers = [Peer(await tcp(url)) for _ in range(3)]
        for peer in peers:
            await peer.upgrade()
            await peer.authenticate()
        assert (await peers[0].call("stats"))["broker"]["subscriber_count"] == 3
        assert await peers[0].close() == 1000
    for peer in peers[1:]:
        with pytest.raises(Dropped):
            await peer.receive()
        await peer.stream.aclose()
    with pytest.raises(OSError, match="all attempts to connect"):
        await tcp(url)


async def test_one_name_gives_one_port() -> None:
    async with Server(TOKENS, path="/x").serve("localhost") as url:
        assert url.startswith("ws://localhost:")
        assert url.endswith("/x")


async def test_a_wildcard_address_is_reached_by_loopback() -> None:
    async with Server(TOKENS).serve("0.0.0.0") as url:
        assert url.startswith("ws://127.0.0.1:")
        await (await tcp(url)).aclose()


async def test_a_refused_client_over_tcp_sees_why_even_when_it_had_sent_more() -> None:
    server = Server(TOKENS)
    async with server.serve() as url:
        peer = Peer(await tcp(url))
        await peer.upgrade()
        await peer.send(id="1", method="auth", token="wrong")
        for number in range(100):
            await peer.send(id=str(number), method="stats", data="x" * 1000)
        assert (await peer.answer())["error"]["code"] == 401
        with pytest.raises(Dropped):
            await peer.receive()
        await peer.stream.aclose()


async def test_a_client_that_does_not_read_holds_up_neither_the_server_nor_its_end() -> None:
    server = Server(TOKENS)
    async with server.serve() as url:
        stalled, good = Peer(await tcp(url)), Peer(await tcp(url))
        for peer in (stalled, good):
            await peer.upgrade()
            await peer.authenticate()
        big = "x" * 500_000
        job_id = (await good.call("job.enqueue", {"name": "n", "payload": big}))["job_id"]

        async def ask() -> None:
            while True:
                await stalled.send(id="1", method="job.get", data={"job_id": job_id})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            # Its requests are carried out until too much waits to be written; others', all along.
            last = 1
            while server.connections[0].frames != last or last < 3:
                last = server.connections[0].frames
                for _ in range(50):
                    await good.call("stats")
            nursery.cancel_scope.cancel()
        assert await good.close() == 1000
    await stalled.vanish()


# Looking in


async def test_a_server_shows_what_happens_in_it(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.job("noop")
    async def noop(payload: Any) -> None:
        pass

    async with running(server) as peer:
        await peer.call("subscribe", {"channel": "jobs"})
        await peer.call("job.enqueue", {"name": "noop", "priority": 3, "queue": "q"})
        await peer.call("workflow.event", {"name": "e"})
        await trio.sleep(0.01)
        await peer.settle()
        (view,) = server.connections
        assert (view.session_id, view.transport) == (peer.session_id, "websocket")
        assert (view.frames, view.credits, view.events_delivered) == (4, 997, 3)
        assert view.channels == {"jobs"}
        assert not view.blocked
        assert not view.peer_gone
        statistics = server.statistics()
        assert (statistics.connections, statistics.topics, statistics.frames) == (1, 1, 4)
        assert (statistics.events_published, statistics.events_delivered) == (3, 3)
        assert statistics.events_waiting == 1
        assert statistics.jobs == {"completed": 1}
    (job,) = server.jobs(name="noop", state="completed")
    assert (job.queue, job.priority, job.scope_app_id) == ("q", 3, "app1")
    assert job.started_at is not None
    assert job.completed_at is not None
    assert job.created_at <= job.started_at <= job.completed_at
    first = server.events[0]
    assert (first.type, first.topic) == ("job.enqueued", f"job:{job.id}")
    assert first.data["job_id"] == job.id
    assert first.ts >= job.created_at
    assert "job.enqueued" in repr(first)


async def test_the_servers_time_is_trios_time(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "a"})
        await trio.sleep(3600)
        await peer.call("job.enqueue", {"name": "b"})
    first, second = server.jobs()
    assert (second.created_at - first.created_at).total_seconds() == pytest.approx(3600, abs=0.01)


async def test_a_logger_of_the_users_own_gets_the_failures(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(TOKENS, logger=logging.getLogger("mine"))

    @server.workflow("bad")
    async def bad(workflow: Workflow, input: Any) -> None:
        raise ValueError("boom")

    async with running(server) as peer:
        await peer.call("workflow.start", {"name": "bad"})
    assert {record.name for record in caplog.records} == {"mine"}


async def test_federation_is_off_unless_it_has_a_name() -> None:
    async with running(Server(TOKENS)) as peer:
        answer = await peer.request("federation.heartbeat", {})
        assert answer["error"] == {"code": 405, "message": "federation not enabled"}
    async with running(Server(TOKENS, federation_id="n1")) as peer:
        data = {"name": "e", "source_id": "there"}
        assert (await peer.call("federation.event", data))["source"] == "there"
