"""HTTP mode: what it does otherwise than a WebSocket, and what it cannot do."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_dispatch
from tests.client.support import make_server, memory_client, through
from trio_dispatch import (
    AuthError,
    Client,
    ConnectFailed,
    ConnectionLost,
    Event,
    Frame,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    ServerError,
    StreamGap,
    WorkflowFailed,
)
from trio_dispatch._client.opening import running
from trio_dispatch.server import Identity, Server
from trio_dispatch.testing import FaultyProxy

URL = "http://localhost/dwp"


@asynccontextmanager
async def http_client(
    server: Server, token: str | None = "demo-token", **options: Any
) -> AsyncGenerator[tuple[Client, FaultyProxy], None]:
    """A client over HTTP, behind a proxy that a test can break."""
    client = memory_client(server, token, url=URL, **options)
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as proxy:

        async def connect(address: object) -> trio.abc.Stream:
            return await proxy.open_stream()

        client = through(client, connect)
        with trio.fail_after(7_200):
            async with running(client):
                yield client, proxy


async def answering(answer: bytes) -> trio.abc.Stream:
    """A stream to something that gives the same answer to whatever comes."""
    near, far = trio.testing.memory_stream_pair()
    await far.send_all(answer)
    await far.send_eof()
    return near


# What it is.


async def test_a_client_over_http_shows_what_it_is(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, _):
        assert (client.transport, client.session_id, client.connected) == ("http", None, True)
        assert "connected" in repr(client)
        async with client.subscribe("jobs"), client.subscribe("workflow:x", "workflow:y"):
            assert {c.channels for c in server.connections} == {
                frozenset({"jobs"}),
                frozenset({"workflows"}),
            }
            assert {c.transport for c in server.connections} == {"sse"}
        await trio.sleep(0.1)
        assert server.connections == []


async def test_what_http_cannot_do_says_what_to_use(autojump_clock: object) -> None:
    async with http_client(make_server()) as (client, _):
        for call in (
            client.start_workflow("nap"),
            client.run_workflow("nap"),
            client.request("workflow.start", {"name": "nap"}),
            client.send(Frame(method="stats")),
        ):
            with pytest.raises(NotSupported, match="ws://localhost/dwp"):
                await call
    for options in ({"format": "msgpack"}, {"transport": "websockets"}):
        with pytest.raises(NotSupported, match="wss://example"):
            trio_dispatch.open_client("https://example.com/dwp", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="either all"):
        trio_dispatch.open_client(["http://a/dwp", "ws://b/dwp"])


async def test_a_refused_token_ends_the_client(autojump_clock: object) -> None:
    with pytest.raises(AuthError, match="unauthorized"):
        async with http_client(make_server(), "wrong"):
            pytest.fail("entered")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"HTTP/1.1 404 Not Found\r\n\r\nno such page", "HTTP 404 Not Found: no such page"),
        (
            b"HTTP/1.1 503 Busy\r\nContent-Type: text/html\r\n\r\n<h1>Busy</h1>",
            r"dwp: the server answered HTTP 503 Busy \(an HTML page\)$",
        ),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "cannot connect"),
        (b"", "cannot connect"),
    ],
)
async def test_who_is_no_dispatch_server_is_told_so(
    autojump_clock: object, answer: bytes, message: str
) -> None:
    client = memory_client(make_server(), url=URL)
    client = through(client, lambda address: answering(answer))
    with pytest.raises(ConnectFailed, match=message):
        async with running(client):
            pytest.fail("entered")


async def test_a_server_that_never_answers_is_given_up(autojump_clock: object) -> None:
    async def silence(address: object) -> trio.abc.Stream:
        return trio.testing.memory_stream_pair()[0]

    client = memory_client(make_server(), url=URL, connect_timeout=7)
    client = through(client, silence)
    with pytest.raises(ConnectFailed, match="within 7 s"):
        async with running(client):
            pytest.fail("entered")
    assert trio.current_time() == pytest.approx(7)


# Events.


async def test_ten_thousand_events_come_once_each(autojump_clock: object) -> None:
    """A stream brings 1,000 events, and then none (protocol, "Server-sent events")."""
    server = make_server(concurrency=50)
    seen: Counter[tuple[str, str]] = Counter()
    async with http_client(server) as (client, _):
        async with client.subscribe("jobs", buffer=20_000) as events:

            async def enqueue(n: int) -> None:
                for _ in range(n):
                    await client.enqueue("noop")
                    await trio.sleep(0.01)

            async with trio.open_nursery() as nursery:
                for _ in range(16):
                    nursery.start_soon(enqueue, 209)
            with trio.move_on_after(5):
                async for event in events:
                    assert not isinstance(event, StreamGap)
                    seen[event.type, event.topic] += 1
    assert len(seen) == 3 * 16 * 209 > 10_000
    assert set(seen.values()) == {1}


async def test_a_quiet_stream_is_renewed_before_a_proxy_cuts_it(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, proxy):
        async with client.subscribe("jobs") as events:
            await trio.sleep(600)
            assert 24 <= proxy.statistics().accepted <= 27
            handle = await client.enqueue("noop")
            types = [(await events.receive()).type for _ in range(3)]
            assert sorted(types) == ["job.completed", "job.enqueued", "job.started"]
            assert (await handle.wait()).state == "completed"
            await trio.sleep(2)
            assert len(server.connections) == 1


async def test_subscriptions_get_what_they_asked_for_and_no_more(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, _):
        first = await client.enqueue("slow", queue="a")
        async with (
            client.subscribe("jobs", "workflows") as everything,
            client.subscribe("queue:b") as queue,
            client.subscribe(f"job:{first.job_id}", "queue:b") as both,
        ):
            second = await client.enqueue("noop", queue="b")
            await first.wait()
            await second.wait()
            await trio.sleep(1)
            assert everything.statistics().stored == 4
            assert {e.topic for e in drain(queue)} == {f"job:{second.job_id}"}
            got = drain(both)
            assert {(e.topic, e.channels) for e in got} == {
                (f"job:{first.job_id}", (f"job:{first.job_id}",)),
                (f"job:{second.job_id}", ("queue:b",)),
            }


def drain(events: Any) -> list[Event]:
    got: list[Event] = []
    try:
        while True:
            got.append(events.receive_nowait())
    except trio.WouldBlock:
        return got


async def test_many_narrow_subscriptions_share_a_wide_stream(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, _):
        handles = [await client.enqueue("slow") for _ in range(100)]
        most = 0
        done: list[str] = []

        async def wait(handle: trio_dispatch.JobHandle) -> None:
            nonlocal most
            done.append((await handle.wait()).state)

        async with trio.open_nursery() as nursery:
            for handle in handles:
                nursery.start_soon(wait, handle)
            await trio.sleep(0.5)
            most = len(server.connections)
        assert done == ["completed"] * 100
        assert 1 <= most <= 9


async def test_refused_channels_raise_before_a_single_event(autojump_clock: object) -> None:
    async with http_client(make_server(), "no-subscribe") as (client, _):
        with pytest.raises(PermissionDenied):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        handle = await client.enqueue("slow")
        assert (await handle.wait()).state == "completed"  # by asking now and then


async def test_a_lost_stream_leaves_a_gap_and_goes_on(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, proxy):
        async with client.subscribe("jobs") as events:
            first = await client.enqueue("noop")
            before = [await events.receive() for _ in range(3)]
            await first.wait()
            proxy.drop()
            gap = await events.receive()
            assert isinstance(gap, StreamGap)
            assert gap.since == max(event.ts for event in before if event.ts)
            assert gap.until is not None
            second = await client.enqueue("noop")
            assert (await events.receive()).topic == f"job:{second.job_id}"
        assert client.statistics().link.connections == 1  # the server was there all the time


async def test_a_server_that_is_away_is_waited_for(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server, request_timeout=None) as (client, proxy):
        async with client.subscribe("jobs") as events, client.connection_events() as changes:
            assert (await changes.receive()).connected
            proxy.refuse()
            proxy.drop()
            async with trio.open_nursery() as nursery:
                handles: list[Any] = []

                @nursery.start_soon
                async def enqueue() -> None:
                    handles.append(await client.enqueue("noop"))

                await trio.sleep(30)
                assert not client.connected
                assert handles == []
                proxy.accept()
            assert isinstance(await events.receive(), StreamGap)
            assert (await events.receive()).topic == f"job:{handles[0].job_id}"
            assert not (await changes.receive()).connected
            async for change in changes:
                if change.connected:
                    break
        assert len(server.jobs()) == 1


async def test_what_was_sent_when_the_connection_broke(autojump_clock: object) -> None:
    server = make_server()
    async with http_client(server) as (client, proxy):
        proxy.stall("to_client")
        async with trio.open_nursery() as nursery:
            outcome: list[object] = []

            @nursery.start_soon
            async def unsafe() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await client.enqueue("noop")
                outcome.append(caught.value.maybe_delivered)

            @nursery.start_soon
            async def safe() -> None:
                outcome.append(await client.stats())

            await trio.sleep(1)
            proxy.drop()
            proxy.resume()
        assert True in outcome
        assert any(isinstance(result, trio_dispatch.Stats) for result in outcome)


async def test_a_proxys_error_page_is_no_answer(autojump_clock: object) -> None:
    server = make_server()
    pages: list[bytes] = []

    async def connect(address: object) -> trio.abc.Stream:
        if pages:
            return await answering(pages.pop(0))
        return await server.open_stream()

    client = memory_client(server, url=URL)
    client = through(client, connect)
    async with server.run(), running(client):
        bad_gateway = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n\r\n<html>"
        busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n"
        pages.append(bad_gateway)
        with pytest.raises(ServerError, match=r"502 Bad Gateway .an HTML page.; .* may have been"):
            await client.enqueue("noop")
        pages.append(bad_gateway)
        await client.stats()  # safe to ask again
        before = trio.current_time()
        pages.append(busy)
        await client.stats()
        assert trio.current_time() - before == pytest.approx(7)
        pages += [busy, busy]
        with pytest.raises(ServerError, match=r"stats: 503 Busy .Retry-After: 7.$"):
            await client.stats()
        pages.append(b"HTTP/1.1 413 Too Large\r\n\r\nless, please")
        with pytest.raises(ProtocolError, match=r"HTTP 413 .*: less, please"):
            await client.enqueue("noop")
        assert client.connected


@pytest.mark.parametrize("status", [502, 503, 504])
async def test_a_run_that_a_proxy_answers_fails_as_its_status_says(
    autojump_clock: object, status: int
) -> None:
    """A 503 says that no server took the request, so it is sent again; the others do not."""
    server = make_server()
    pages: list[bytes] = []

    async def connect(address: object) -> trio.abc.Stream:
        return await answering(pages.pop()) if pages else await server.open_stream()

    client = through(memory_client(server, url=URL), connect)
    async with server.run(), running(client):
        page = f"HTTP/1.1 {status} Oh\r\nRetry-After: 20\r\nContent-Type: text/html\r\n\r\n<p>"
        pages.append(page.encode())
        if status == 503:
            await client.run_workflow("nap", cancel_with_scope=True)
            assert trio.current_time() >= 20
        else:
            with pytest.raises(ServerError, match=rf"{status} Oh .*an HTML page"):
                await client.run_workflow("nap", cancel_with_scope=True)


async def test_a_proxy_that_asks_for_time_gets_it(autojump_clock: object) -> None:
    server = make_server()
    away = False

    async def connect(address: object) -> trio.abc.Stream:
        if away:
            return await answering(b"HTTP/1.1 503 Busy\r\nRetry-After: 45\r\n\r\n")
        return await server.open_stream()

    client = memory_client(server, url=URL, fail_first_connect=False)
    client = through(client, connect)
    away = True
    async with server.run(), running(client):
        async with client.connection_events() as changes:
            async for change in changes:
                if isinstance(change, trio_dispatch.Disconnected) and change.reason is not None:
                    assert isinstance(change.reason, ConnectFailed)
                    assert "HTTP 503" in str(change.reason)
                    assert change.reason.retry_after == 45
                    assert change.retry_in == 45
                    break
        away = False
        await client.wait_connected()
        assert trio.current_time() == pytest.approx(45)


async def test_a_token_that_has_expired_is_replaced_without_a_word(autojump_clock: object) -> None:
    valid = {"old"}
    identity = Identity(subject="s", app_id="a", org_id="o", scopes={"*"})
    server = Server(lambda token: identity if token in valid else None)
    provided: list[str] = []

    def provider() -> str:
        provided.append(max(valid))
        return provided[-1]

    async with http_client(server, None, token_provider=provider) as (client, _):
        await client.stats()
        valid.clear()
        valid.add("renewed")
        handle = await client.enqueue("x")
        assert handle.job_id
        assert provided == ["old", "renewed"]


async def test_an_answer_beyond_the_maximum_is_refused(autojump_clock: object) -> None:
    async with http_client(make_server(), max_message_size=2_000) as (client, _):
        with pytest.raises(ValueError, match="max_message_size"):
            await client.enqueue("noop", "x" * 5_000)
        handle = await client.enqueue("noop", "x" * 1_700)
        with pytest.raises(ProtocolError, match="max_message_size"):
            await client.get_job(handle.job_id)


# Runs that end with their scope.


@pytest.mark.parametrize("url", [URL, "ws://localhost/dwp"])
async def test_cancelling_the_scope_cancels_the_run(autojump_clock: object, url: str) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server, url=url)) as client:
        with trio.move_on_after(1) as scope:
            await client.run_workflow("nap", cancel_with_scope=True)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(1)
        await trio.sleep(0.1)
        (run,) = server.runs()
        assert run.state == "failed"
        assert (run.error or "").endswith("context canceled")

        done = await client.run_workflow("nap", {"a": 1}, cancel_with_scope=True)
        assert (done.state, done.input) == ("completed", {"a": 1})
        with pytest.raises(WorkflowFailed):
            await client.run_workflow("order-pipeline", cancel_with_scope=True)
        with pytest.raises(trio_dispatch.ServerError):
            await client.run_workflow("unknown", cancel_with_scope=True)


async def test_leaving_the_client_ends_a_run_that_its_request_holds(autojump_clock: object) -> None:
    server = make_server()
    async with server.run():
        async with trio.open_nursery() as nursery:
            async with running(memory_client(server)) as client:

                @nursery.start_soon
                async def run() -> None:
                    with pytest.raises(trio_dispatch.ClientClosed):
                        await client.run_workflow("nap", cancel_with_scope=True)

                await trio.sleep(1)
        await trio.sleep(0.1)
        assert [run.state for run in server.runs()] == ["failed"]


async def test_a_run_that_loses_its_request_says_so(autojump_clock: object) -> None:
    async with http_client(make_server(), reconnect=False) as (client, proxy):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def run() -> None:
                with pytest.raises(ConnectionLost, match="ends with its request"):
                    await client.run_workflow("nap", cancel_with_scope=True)

            await trio.sleep(1)
            proxy.drop()
        proxy.refuse()
        with pytest.raises(ConnectFailed, match="over HTTP"):
            await client.run_workflow("nap", cancel_with_scope=True)
