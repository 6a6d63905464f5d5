"""A client's life: what opening, leaving, losing and refusing do; what comes out of its blocks."""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import pytest
import trio
import trio.testing

import trio_dispatch
from tests.client.support import WEBSOCKETS, make_server, memory_client, open_memory_client, through
from trio_dispatch import (
    AuthError,
    Client,
    ClientClosed,
    Connected,
    ConnectFailed,
    ConnectionLost,
    Disconnected,
)
from trio_dispatch._client.opening import run_alone, running
from trio_dispatch._link.connection import Connection
from trio_dispatch.testing import pipe

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


@pytest.mark.wires(*WEBSOCKETS)
async def test_the_block_begins_connected_and_ends_with_nothing_left(
    autojump_clock: object, wire: str
) -> None:
    server = make_server()
    async with server.run():
        async with running(memory_client(server)) as client:
            assert (client.connected, client.closed) == (True, False)
            assert client.session_id == server.connections[0].session_id
            assert client.transport == wire.rpartition("-")[0]
            assert server.connections[0].format == wire.rpartition("-")[2]
            assert "connected" in repr(client)
            async with client.subscribe("jobs"):
                pass
        assert [client.connected, client.session_id, client.closed] == [False, None, True]
        assert server.connections == []
        before = trio.current_time()
        for call in (client.stats(), client.enqueue("noop"), client.start_workflow("nap")):
            with pytest.raises(ClientClosed):
                await call
        with pytest.raises(ClientClosed):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        with pytest.raises(ClientClosed):
            await client.wait_connected()
        assert trio.current_time() == before


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_refused_token_raises_auth_error(autojump_clock: object) -> None:
    server = make_server()
    async with server.run():
        for token in ("wrong", None):
            with pytest.raises(AuthError, match="authentication failed") as caught:
                async with running(memory_client(server, token)):
                    pytest.fail("entered")
            assert caught.value.code == 401
            async with trio.open_nursery() as nursery:
                with pytest.raises(AuthError):
                    await nursery.start(run_alone, memory_client(server, token))
        assert server.connections == []


async def test_nobody_there_raises_connect_failed() -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    with pytest.raises(ConnectFailed, match=rf"ws://127\.0\.0\.1:{port}/dwp"):
        async with trio_dispatch.open_client(f"ws://127.0.0.1:{port}/dwp", token="t"):
            pytest.fail("entered")


async def test_a_server_that_says_nothing_is_given_up(autojump_clock: object) -> None:
    ends: list[trio.abc.Stream] = []

    async def connect(address: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        ends.append(far)
        return near

    client = memory_client(make_server(), connect_timeout=7)
    client = through(client, connect)
    with pytest.raises(ConnectFailed, match="within 7 s"):
        async with running(client):
            pytest.fail("entered")
    assert trio.current_time() == pytest.approx(7)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 404 Not Found\r\n\r\n", b"garbage\r\n\r\n"])
async def test_who_is_no_dispatch_server_raises_connect_failed(
    autojump_clock: object, answer: bytes
) -> None:
    async def connect(address: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        await far.send_all(answer)
        await far.send_eof()
        return near

    client = memory_client(make_server())
    client = through(client, connect)
    with pytest.raises(ConnectFailed):
        async with running(client):
            pytest.fail("entered")
    assert trio.current_time() == 0  # at once


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_connection_reset_in_the_handshake_is_noticed_at_once(
    autojump_clock: object,
) -> None:
    async def connect(address: object) -> trio.abc.Stream:
        near, far = pipe()
        far.reset()
        return near

    client = memory_client(make_server())
    client = through(client, connect)
    with pytest.raises(ConnectFailed, match="before the answer to the upgrade"):
        async with running(client):
            pytest.fail("entered")
    assert trio.current_time() == 0


@pytest.mark.parametrize("where", ["client", "subscription", "both"])
async def test_what_the_body_raises_comes_out_unchanged(autojump_clock: object, where: str) -> None:
    server = make_server()
    error = ValueError("mine")
    async with server.run():
        with pytest.raises(ValueError, match="mine") as caught:
            async with running(memory_client(server)) as client:
                if where == "client":
                    raise error
                async with client.subscribe("jobs"):
                    raise error
        assert caught.value is error
        assert caught.value.__cause__ is None
        group = ExceptionGroup("theirs", [error])
        with pytest.raises(type(group)) as caught_group:
            async with running(memory_client(server)):
                raise group
        assert caught_group.value is group


async def test_leaving_by_an_outer_scope_waits_for_nobody(autojump_clock: object) -> None:
    server = make_server()
    async with server.run():
        with trio.move_on_after(5) as scope:
            async with running(memory_client(server)) as client:
                async with client.subscribe("jobs"):
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(5)
        await trio.testing.wait_all_tasks_blocked()
        assert server.connections == []


@pytest.mark.wires(*WEBSOCKETS)
async def test_closing_is_idempotent_and_ends_waiting_calls(autojump_clock: object) -> None:
    server = make_server(queues=[])
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:
        handle = await client.enqueue("noop")

        @nursery.start_soon
        async def waiting() -> None:
            with pytest.raises(ClientClosed):
                await handle.wait()

        @nursery.start_soon
        async def reading() -> None:
            async with client.subscribe("jobs") as events:
                with pytest.raises(ClientClosed):
                    await events.receive()

        @nursery.start_soon
        async def running_a_workflow() -> None:
            with pytest.raises(ClientClosed):
                await client.run_workflow("nap")

        @nursery.start_soon
        async def listening() -> None:
            async with client.connection_events() as events:
                seen = [event.connected async for event in events]
            assert seen == [True, False]

        await trio.sleep(1)
        await client.aclose()
        await client.aclose()
        assert server.connections == [] or server.connections[0].blocked


@pytest.mark.wires(*WEBSOCKETS)
async def test_connection_events_begin_with_the_present_state(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.connection_events() as first, client.connection_events() as second:
            for events in (first, second):
                event = await events.receive()
                assert event == Connected("ws://localhost/dwp", client.session_id)
            await client.aclose()
            assert await first.receive() == Disconnected()
            with pytest.raises(trio.EndOfChannel):
                await first.receive()
        with pytest.raises(trio.ClosedResourceError):
            await second.receive()


async def test_a_client_in_a_nursery_lives_until_it_is_closed(autojump_clock: object) -> None:
    server = make_server()
    async with server.run(), trio.open_nursery() as nursery:
        client = memory_client(server)
        await nursery.start(run_alone, client)
        await client.stats()
        assert len(nursery.child_tasks) == 1
        async with client:
            await client.stats()
        assert client.closed
        await trio.testing.wait_all_tasks_blocked()
        assert len(nursery.child_tasks) == 0


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_client_that_ends_by_itself_cancels_the_body_and_raises(
    autojump_clock: object,
) -> None:
    server = make_server()
    client = memory_client(server, reconnect=False)
    waited: list[BaseException] = []
    async with server.run():
        with pytest.raises(ConnectionLost):
            async with running(client), trio.open_nursery() as nursery:

                @nursery.start_soon
                async def waiting() -> None:
                    async with client.subscribe("jobs") as events:
                        try:
                            await events.receive()
                        except ConnectionLost as exc:
                            waited.append(exc)

                await trio.sleep(1)
                drop(client)
                await trio.sleep_forever()
        assert len(waited) == 1
        with pytest.raises(ClientClosed) as caught:
            await client.stats()
        assert isinstance(caught.value.__cause__, ConnectionLost)


@pytest.mark.wires(*WEBSOCKETS)
async def test_alone_in_a_nursery_it_raises_there(autojump_clock: object) -> None:
    server = make_server()
    client = memory_client(server, reconnect=False)
    async with server.run():
        with pytest.raises(BaseException) as caught:  # noqa: PT011 - a group, by trio
            async with trio.open_nursery() as nursery:
                await nursery.start(run_alone, client)
                drop(client)
                await trio.sleep_forever()
        assert caught.group_contains(ConnectionLost)


def drop(client: Client) -> None:
    """Lose the main connection, as the network might."""
    connection = client._link._connection
    assert isinstance(connection, Connection)
    connection._lost("pulled the plug")


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_silent_server_is_noticed_and_a_quiet_one_kept(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        await trio.sleep(3600)
        assert client.statistics().link.connections == 1
        assert 200 < client.statistics().link.frames_sent < 300  # a ping every 15 s or so


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("localhost:8080", {}),
        ("ftp://x/dwp", {}),
        ("ws://", {}),
        ("ws://h:99999/", {}),
        ([], {}),
        (3, {}),
        ("ws://h/", {"token": ""}),
        ("ws://h/", {"token": 3}),
        ("ws://h/", {"format": "yaml"}),
        ("ws://h/", {"transport": "carrier-pigeon"}),
        ("ws://h/", {"connect_timeout": 0}),
        ("ws://h/", {"request_timeout": -1}),
        ("ws://h/", {"heartbeat_interval": "often"}),
        ("ws://h/", {"min_reconnect_delay": 5, "max_reconnect_delay": 1}),
        ("ws://h/", {"max_concurrent_runs": 0}),
        ("ws://h/", {"max_message_size": 0}),
        ("ws://h/", {"max_reconnect_attempts": -1}),
        ("ws://h/", {"headers": [("A\nB", "c")]}),
        ("ws://h/", {"token_provider": "token"}),
    ],
)
def test_arguments_that_cannot_work_are_refused_at_once(url: Any, options: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        trio_dispatch.open_client(url, **options)


def test_a_token_in_the_clear_to_another_machine_warns() -> None:
    with pytest.warns(trio_dispatch.InsecureTokenWarning, match="use wss://") as caught:
        trio_dispatch.open_client("ws://user:pw@example.com/dwp?token=s3cret", token="s3cret")
    assert "s3cret" not in str(caught[0].message)
    assert "pw" not in str(caught[0].message)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trio_dispatch.open_client("wss://example.com/dwp", token="s3cret")
        trio_dispatch.open_client("ws://127.0.0.1/dwp", token="s3cret")
        trio_dispatch.open_client("ws://[::1]/dwp", token="s3cret")
        trio_dispatch.open_client("ws://example.com/dwp")


@pytest.mark.wires(*WEBSOCKETS)
async def test_no_log_line_and_no_repr_shows_the_token(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = make_server()
    async with open_memory_client(server) as client:
        await client.enqueue("noop")
        await client.start_workflow("nap")
        assert "demo-token" not in repr(vars(client)) + repr(client._link._settings)
    assert "connected to ws://localhost/dwp" in caplog.text
    assert "job.enqueue" in caplog.text
    assert "demo-token" not in caplog.text


def test_help_shows_the_options() -> None:
    import inspect

    for function in (trio_dispatch.open_client, trio_dispatch.connect_client):
        signature = inspect.signature(function)
        assert signature.parameters["request_timeout"].default == 30
        assert "heartbeat_interval" in (function.__doc__ or "")
    assert list(inspect.signature(trio_dispatch.connect_client).parameters)[:2] == [
        "nursery",
        "url",
    ]


@pytest.mark.wires(*WEBSOCKETS)
@pytest.mark.parametrize("how", ["cancelled nursery", "aclose"])
async def test_however_a_client_ends_callers_in_other_nurseries_are_told(
    how: str, autojump_clock: object
) -> None:
    server = make_server()
    errors: list[Exception] = []

    async def ask(client: Client) -> None:
        with pytest.raises(ClientClosed) as caught:
            await client.stats()
        errors.append(caught.value)

    async def listen(client: Client) -> None:
        with pytest.raises(trio.EndOfChannel):
            async with client.connection_events() as events:
                while True:
                    await events.receive()
        errors.append(Exception("the end of connection events"))

    async with server.run(), trio.open_nursery() as callers:
        server.delay("stats", 1000)
        async with trio.open_nursery() as nursery:
            client = memory_client(server, request_timeout=None)
            await nursery.start(run_alone, client)
            callers.start_soon(ask, client)  # written
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(300):  # beyond the window: most are not
                callers.start_soon(ask, client)
            callers.start_soon(listen, client)
            await trio.testing.wait_all_tasks_blocked()
            before = trio.current_time()
            if how == "cancelled nursery":
                nursery.cancel_scope.cancel()
            else:
                await client.aclose()
        with trio.fail_after(2):
            while len(errors) < 302:
                await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() - before <= 2
        delivered = [e.maybe_delivered for e in errors if isinstance(e, ClientClosed)]
        assert True in delivered
        assert False in delivered
        callers.cancel_scope.cancel()


@pytest.mark.wires(*WEBSOCKETS)
@pytest.mark.parametrize("options", [{}, {"reconnect": False}, {"max_reconnect_attempts": 0}])
async def test_one_turn_round_a_list_of_urls_is_one_attempt(
    options: dict[str, Any], autojump_clock: object
) -> None:
    server, up, hosts = make_server(), {"c"}, list[str]()

    async def connect(address: Any) -> trio.abc.Stream:
        host = address.host.partition(".")[0]
        hosts.append(host)
        if host not in up:
            raise OSError(f"{host} is down")
        return await server.open_stream()

    def client() -> Client:
        urls = [f"ws://{name}.localhost/dwp" for name in "abc"]
        return through(memory_client(server, url=urls, **options), connect)

    async with server.run():
        before = trio.current_time()
        async with running(client()) as working:
            await working.stats()
        assert trio.current_time() == before  # without a pause
        assert hosts == ["a", "b", "c"]
        up.clear()
        hosts.clear()
        with pytest.raises(ConnectFailed, match=r"a is down; .*b is down; .*c is down"):
            async with running(client()):
                pytest.fail("entered")
        assert hosts == ["a", "b", "c"]


@pytest.mark.wires(*WEBSOCKETS)
async def test_after_a_loss_the_next_urls_are_tried_without_a_pause_between_them(
    autojump_clock: object,
) -> None:
    server, up, dials = make_server(), {"a"}, list[tuple[str, float]]()

    async def connect(address: Any) -> trio.abc.Stream:
        host = address.host.partition(".")[0]
        dials.append((host, trio.current_time()))
        if host not in up:
            raise OSError(f"{host} is down")
        return await server.open_stream()

    urls = [f"ws://{name}.localhost/dwp" for name in "abc"]
    async with server.run(), running(through(memory_client(server, url=urls), connect)) as client:
        await trio.sleep(60)
        lost_at = trio.current_time()
        server.drop_connections()
        await trio.sleep(10)
        await client.wait_connected()
    assert [host for host, _ in dials] == ["a", "b", "c", "a"]
    assert 1 <= dials[1][1] - lost_at <= 2
    assert dials[1][1] == dials[2][1] == dials[3][1]
