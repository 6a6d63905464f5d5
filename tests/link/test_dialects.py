"""Links to servers of six kinds: hello, requests, errors, events, streams, reconnects."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from tests.link.servers import KINDS, HomeAssistant, SmallServer, open_small
from trio_dispatch import (
    AuthError,
    ConnectionLost,
    DialectPing,
    Fields,
    Header,
    JsonRpc,
    Link,
    LinkConnection,
    QueryToken,
    RequestError,
    WebSocketPing,
    open_link,
)
from trio_dispatch._link.handler import WAITING

LIBRARIES = ("trio-websocket", "websockets")
all_kinds = pytest.mark.parametrize("kind", KINDS)
both = pytest.mark.parametrize("transport", LIBRARIES)
streaming = pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.many])


async def echo(link: Link[Any], server: SmallServer, what: object) -> object:
    """Ask, and return what the answer holds."""
    return server.kind.result(await link.request(server.kind.echo(what)))


@both
@all_kinds
async def test_requests_errors_and_events(
    kind: str, transport: str, autojump_clock: object
) -> None:
    got: list[Any] = []
    async with open_small(KINDS[kind], handler=got.append, transport=transport) as (server, link):
        await link.wait_connected()
        answers: list[object] = []
        async with trio.open_nursery() as nursery:
            for n in range(300):

                @nursery.start_soon
                async def ask(n: int = n) -> None:
                    answers.append(await echo(link, server, n))

        assert sorted(map(str, answers)) == sorted(map(str, range(300)))
        with pytest.raises(RequestError, match="no such"):
            await link.request(server.kind.failing)
        await link.send(server.kind.event)
        await trio.sleep(1)
        assert [server.kind.is_event(message) for message in got] == [True]


@both
@all_kinds
async def test_a_lost_connection_is_replaced(
    kind: str, transport: str, autojump_clock: object
) -> None:
    async with open_small(KINDS[kind], transport=transport) as (server, link):
        assert await echo(link, server, "before") == "before"
        server.paused = True
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await echo(link, server, "lost")
                assert caught.value.maybe_delivered

            await trio.testing.wait_all_tasks_blocked()
            await server.drop()
        server.paused = False
        assert await echo(link, server, "after") == "after"
        assert link.statistics().connections == 2


@both
@all_kinds
async def test_late_answers_go_to_the_handler(
    kind: str, transport: str, autojump_clock: object
) -> None:
    got: list[Any] = []
    async with open_small(KINDS[kind], handler=got.append, transport=transport) as (server, link):
        await link.wait_connected()
        server.paused = True
        with trio.move_on_after(1):
            await echo(link, server, "late")
        await server.resume()
        await trio.sleep(1)
        assert [server.kind.result(message) for message in got] == ["late"]


@both
@streaming
async def test_a_stream_gets_all_its_answers_in_order(
    kind: str, transport: str, autojump_clock: object
) -> None:
    async with open_small(KINDS[kind], transport=transport) as (server, link):
        assert server.kind.many is not None
        answers: list[Any] = []
        async with link.stream(server.kind.many(5_000)) as stream:
            await trio.sleep(1)  # far more than are stored
            with trio.move_on_after(60):
                async for answer in stream:
                    answers.append(answer)
                    if len(answers) % 1_000 == 0:
                        await trio.sleep(0.1)
        assert server.kind.numbers(answers) == list(range(5_000))
        assert await echo(link, server, "still here") == "still here"


@both
@streaming
async def test_leaving_a_stream_tells_the_server_and_losing_the_connection_raises(
    kind: str, transport: str, autojump_clock: object
) -> None:
    async with open_small(KINDS[kind], transport=transport) as (server, link):
        assert server.kind.many is not None
        await link.wait_connected()
        server.paused = True
        async with link.stream(server.kind.many(2)):
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked()
        assert server.received[-1]["type"] in ("complete", "unsubscribe_events")
        async with link.stream(server.kind.many(2)) as stream:
            await trio.testing.wait_all_tasks_blocked()
            await server.drop()
            with pytest.raises(ConnectionLost):
                await stream.receive()
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive()


async def test_a_stream_needs_its_block_and_an_error_ends_it(autojump_clock: object) -> None:
    async with open_small(KINDS["graphql"]) as (server, link):
        stream = link.stream(server.kind.failing)
        with pytest.raises(RuntimeError, match="async with"):
            await stream.receive()
        async with stream:
            with pytest.raises(RequestError, match="no such field"):
                await stream.receive()
            with pytest.raises(RuntimeError, match="once"):
                await stream.__aenter__()


async def test_a_refused_greeting_ends_the_link(autojump_clock: object) -> None:
    with pytest.raises(AuthError, match="bad token"):
        async with open_small(KINDS["home-assistant"], auth_token="wrong"):
            await trio.sleep_forever()


@both
async def test_subprotocols_are_offered(transport: str, autojump_clock: object) -> None:
    async with open_small(KINDS["graphql"], transport=transport) as (server, link):
        await link.wait_connected()
        assert server.requests[0].proposed_subprotocols == ("graphql-transport-ws",)
        await trio.testing.wait_all_tasks_blocked()
        assert {"type": "pong"} in server.received  # its ping is answered


@both
@pytest.mark.parametrize(
    ("auth", "header", "query"),
    [
        ("bearer", ("authorization", "Bearer good"), "a=b"),
        (Header("X-Key"), ("x-key", "good"), "a=b"),
        (QueryToken("key"), None, "a=b&key=good"),
        (None, None, "a=b"),
    ],
)
async def test_the_token_goes_where_auth_says(
    auth: Any, header: tuple[str, str] | None, query: str, transport: str, autojump_clock: object
) -> None:
    async with open_small(KINDS["hub"], auth=auth, transport=transport) as (server, link):
        await link.wait_connected()
        request = server.requests[0]
        assert request.path.partition("?")[2] == query
        sent = {name.decode().lower(): value.decode() for name, value in request.headers}
        tokens = {name: value for name, value in sent.items() if "good" in value}
        assert tokens == (dict([header]) if header else {})


@both
@pytest.mark.parametrize("kind", ["json-rpc", "phoenix"])
async def test_on_connect_runs_on_each_connection_before_what_waits(
    kind: str, transport: str, autojump_clock: object
) -> None:
    made: list[str] = []
    server: SmallServer

    async def register(connection: LinkConnection[Any]) -> None:
        made.append(connection.url)
        await trio.sleep(1)
        answer = await connection.request(server.kind.echo("register"))
        assert server.kind.result(answer) == "register"

    async with open_small(KINDS[kind], transport=transport, on_connect=register) as (server, link):
        assert await echo(link, server, "first") == "first"
        await server.drop()
        await trio.testing.wait_all_tasks_blocked()
        assert await echo(link, server, "second") == "second"
        said = [re.findall("register|first|second", str(m)) for m in server.received]
        assert [word for words in said for word in words] == [
            "register", "first", "register", "second",
        ]  # fmt: skip
        assert made == ["ws://localhost/x"] * 2


async def test_if_on_connect_fails_the_connection_is_replaced(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def register(connection: LinkConnection[Any]) -> None:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise ValueError("not yet")

    async with open_small(KINDS["json-rpc"], on_connect=register) as (server, link):
        assert await echo(link, server, "at last") == "at last"
    assert attempts == 3
    assert "on_connect failed" in caplog.text


@both
@pytest.mark.parametrize("how", ["instant", "slow", "failing"])
async def test_of_a_burst_every_message_reaches_the_handler_in_order(
    how: str, transport: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    count, got, most = 20_000, list[int](), 0

    async def slow(message: Any) -> None:
        got.append(message["n"])
        if message["n"] % 100 == 0:
            await trio.sleep(0.01)

    def failing(message: Any) -> None:
        got.append(message["n"])
        raise ValueError("boom")

    handler = {"slow": slow, "failing": failing, "instant": lambda m: got.append(m["n"])}[how]

    async def burst(message: Any, say: Any) -> None:
        for n in range(count):
            await say({"n": n})

    kind = KINDS["hub"]
    async with open_small(kind, handler=handler, transport=transport) as (server, link):
        server.kind = type(kind)(
            kind.dialect, burst, kind.echo, kind.result, None, None, kind.is_event
        )
        await link.send({"kind": "go"})
        while len(got) < count:
            await trio.sleep(1)
            most = max(most, len(link._supervisor._observer._queue))  # type: ignore[attr-defined]
    assert got == list(range(count))
    assert most < 4 * WAITING


@both
async def test_send_waits_behind_no_requests(transport: str, autojump_clock: object) -> None:
    async with open_small(KINDS["json-rpc"], transport=transport) as (server, link):
        await link.wait_connected()
        server.paused = True
        async with trio.open_nursery() as nursery:
            for n in range(1_000):
                nursery.start_soon(echo, link, server, n)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(1):
                await link.send({"method": "go"})
            await trio.testing.wait_all_tasks_blocked()
            assert server.received[-1]["method"] == "go"
            assert link.statistics().in_flight == 1_000
            nursery.cancel_scope.cancel()


@both
@pytest.mark.parametrize("undecodable", ["skip", "close"])
async def test_one_odd_message_is_skipped_or_ends_the_connection(
    undecodable: Any, transport: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def serve(message: Any, say: Any) -> None:
        for odd in ("not json", "[1]", '"x"', '{"id": {}, "result": 1}', '{"id": 99, "error": 1}'):
            await say(odd)
        await KINDS["json-rpc"].serve(message, say)

    options: dict[str, Any] = {"undecodable": undecodable, "transport": transport}
    async with open_small(KINDS["json-rpc"], **options) as (server, link):
        kind = server.kind
        server.kind = type(kind)(
            kind.dialect, serve, kind.echo, kind.result, None, None, kind.is_event
        )
        if undecodable == "skip":
            assert await echo(link, server, 1) == 1
            assert "it is skipped" in caplog.text
            assert link.statistics().connections == 1
        else:
            with pytest.raises(ConnectionLost, match="cannot be read"):
                await echo(link, server, 1)


@both
@pytest.mark.parametrize("how", ["WebSocketPing", "DialectPing", "idle_timeout"])
async def test_a_peer_that_is_gone_is_noticed(
    how: str, transport: str, autojump_clock: object
) -> None:
    options: dict[str, Any] = {"transport": transport}
    if how == "idle_timeout":
        options["idle_timeout"] = 20
    else:
        options["ping"] = WebSocketPing(10, 10) if how == "WebSocketPing" else DialectPing(10, 10)
    async with open_small(KINDS["phoenix"], **options) as (server, link), link.events() as events:
        while not (await events.receive()).connected:
            pass
        if how != "idle_timeout":
            await trio.sleep(300)  # answered pings keep it alive
            assert link.statistics().connections == 1
        before = trio.current_time()
        server.silence()
        assert not (await events.receive()).connected
        assert trio.current_time() - before <= 30


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ({"code": 404, "message": "no such job"}, "404 no such job"),
        ({"code": "not_found", "message": "no such job"}, "not_found: no such job"),
        ({"code": "gone"}, "gone"),
        ("no such job", "no such job"),
        (None, "answered with an error"),
    ],
)
def test_what_a_server_says_of_an_error_is_in_the_text(told: object, shown: str) -> None:
    error = Fields().error_of({"type": "error", "error": told})
    assert isinstance(error, RequestError)
    assert shown in str(error)


def test_ids_of_both_kinds_are_told_apart() -> None:
    rpc = JsonRpc()
    assert rpc.with_id({"method": "x"}, 7) == {"id": 7, "method": "x"}
    assert rpc.answers({"id": 0, "result": None}) == 0
    assert rpc.answers({"id": 0, "method": "x"}) is None
    assert rpc.encode({"id": 1, "method": "x"}) == '{"jsonrpc":"2.0","id":1,"method":"x"}'
    assert JsonRpc(None).encode({"method": "x"}) == '{"method":"x"}'
    assert HomeAssistant().with_id({"type": "x"}, 7) == {"id": 7, "type": "x"}


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"auth": "basic"}, "auth is"),
        ({"late": "never"}, "late is"),
        ({"undecodable": "x"}, "undecodable is"),
        ({"on_full": "x"}, "on_full is"),
        ({"ping": DialectPing()}, "no ping of its own"),
        ({"idle_timeout": 0}, "idle_timeout"),
    ],
)
async def test_options_that_cannot_work_are_refused(options: dict[str, Any], match: str) -> None:
    with pytest.raises((TypeError, ValueError), match=match):
        async with open_link("ws://localhost/", **options):
            pytest.fail("entered")


DISPATCH_NAMES = re.compile(
    "Frame(Type|Session)?|Method|WireFrame|DispatchSession|JSON|MSGPACK|SAFE_METHODS|ErrorBody|"
    "credits?|correl_id|(enqueue|job|workflow|run|subscri|grant)_.*|subscribe|read_.*answer"
)


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Every name in a module's code; its docstrings and comments may explain what they like."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.alias, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.arg):
            yield node.arg


def test_the_layer_knows_no_name_of_the_dispatch_protocol() -> None:
    folder = Path(__file__).parents[2] / "trio_dispatch" / "_link"
    found = {
        f"{path.name}: {name}"
        for path in folder.glob("*.py")  # what is in `http` belongs to the client
        for name in identifiers(ast.parse(path.read_text()))
        if DISPATCH_NAMES.fullmatch(name)
    }
    assert found == {"opening.py: run_link"}
