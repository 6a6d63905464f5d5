"""Six small servers, one of each kind that a link should speak to, and their dialects."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Hashable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
import trio.testing
import trio_websocket

from trio_dispatch import AuthError, Dialect, Fields, JsonRpc, Link, RequestError
from trio_dispatch._link.dialects import Fielded
from trio_dispatch._link.opening import make_link
from trio_dispatch._transport.block import in_background, open_background

Say = Callable[[Any], Awaitable[None]]


class HomeAssistant(Fields):
    """Answers and events share the request's id."""

    def __init__(self) -> None:
        super().__init__(reply_to="id", new_id=int)

    def greet(self, token: str | None) -> Generator[Fielded | None, Fielded, None]:
        hello = yield None
        if hello["type"] == "auth_required":
            answer = yield {"type": "auth", "access_token": token}
            if answer["type"] != "auth_ok":
                raise AuthError(401, str(answer.get("message", "")))

    def error_of(self, message: Fielded) -> Exception | None:
        return super().error_of(message) if message.get("success") is False else None

    def is_last(self, message: Fielded) -> bool:
        return False  # events may follow any result

    def ping(self, number: int) -> Fielded:
        return {"id": number, "type": "ping"}

    def leave(self, request: Fielded) -> Fielded | None:
        return {"id": 0, "type": "unsubscribe_events", "subscription": request["id"]}


class GraphQL(Fields):
    """graphql-transport-ws."""

    def __init__(self) -> None:
        super().__init__(reply_to="id", subprotocols=("graphql-transport-ws",))

    def greet(self, token: str | None) -> Generator[Fielded | None, Fielded, None]:
        answer = yield {"type": "connection_init", "payload": {"token": token}}
        if answer["type"] != "connection_ack":
            raise AuthError(401, "no connection_ack")

    def error_of(self, message: Fielded) -> Exception | None:
        if message.get("type") != "error":
            return None
        return RequestError(0, "; ".join(error["message"] for error in message["payload"]))

    def is_last(self, message: Fielded) -> bool:
        return message.get("type") == "complete"

    def reply(self, message: Fielded) -> Fielded | None:
        return {"type": "pong"} if message.get("type") == "ping" else None

    def leave(self, request: Fielded) -> Fielded | None:
        return {"id": request["id"], "type": "complete"}


class Phoenix(Dialect[list[Any]]):
    """Arrays: join reference, reference, topic, event, payload."""

    def encode(self, message: list[Any]) -> str:
        return json.dumps(message)

    def decode(self, payload: bytes) -> list[Any]:
        message = json.loads(payload)
        if not isinstance(message, list) or len(message) != 5:
            raise ValueError("not an array of five")
        return message

    def id_of(self, message: list[Any]) -> Hashable | None:
        return message[1]  # type: ignore[no-any-return]

    def with_id(self, message: list[Any], number: int) -> list[Any]:
        return [message[0], str(number), *message[2:]]

    def answers(self, message: list[Any]) -> Hashable | None:
        return message[1] if message[3] == "phx_reply" else None

    def error_of(self, message: list[Any]) -> Exception | None:
        payload = message[4]
        if payload.get("status") != "error":
            return None
        return RequestError(0, payload["response"]["reason"])

    def ping(self, number: int) -> list[Any]:
        return [None, f"heartbeat-{number}", "phoenix", "heartbeat", {}]


@attrs.define(eq=False)
class Kind:
    """A kind of server: its dialect, and what to say to it."""

    dialect: Dialect[Any]
    serve: Callable[[Any, Say], Awaitable[None]]
    """Acts on one message."""
    echo: Callable[[object], Any]
    """A request that is answered with its argument."""
    result: Callable[[Any], object]
    """What that answer holds."""
    failing: Any
    """A request that fails with a text that has "no such" in it."""
    event: Any
    """A message that gets one event and no answer."""
    is_event: Callable[[Any], bool]
    many: Callable[[int], Any] | None = None
    """A request with so many answers, 0 to n-1."""
    numbers: Callable[[Sequence[Any]], list[object]] = attrs.field(default=list)
    """What they hold."""
    hello: Callable[[Say], Awaitable[None]] | None = None


async def serve_hub(message: Any, say: Say) -> None:
    kind, id = message["kind"], message.get("id")
    if kind == "echo":
        await say({"kind": "echo.ack", "id": f"s{id}", "in_reply_to": id, **message["payload"]})
    elif kind == "bad":
        await say({"kind": "chat.error", "in_reply_to": id, "error": "no such room"})
    elif kind == "go":
        await say({"kind": "note", "id": "n1", "payload": {"x": 1}})


async def serve_rpc(message: Any, say: Say) -> None:
    version = {"jsonrpc": "2.0"} if "jsonrpc" in message else {}
    if message["method"] == "echo":
        await say(version | {"id": message["id"], "result": message["params"]})
    elif message["method"] == "bad":
        error = {"code": -32601, "message": "no such method", "data": [1]}
        await say(version | {"id": message["id"], "error": error})
    elif message["method"] == "go":
        await say(version | {"method": "note", "params": {}})


async def greet_ha(say: Say) -> None:
    await say({"type": "auth_required"})


async def serve_ha(message: Any, say: Say) -> None:
    id = message.get("id")
    if message["type"] == "auth":
        good = message["access_token"] == "good"
        await say({"type": "auth_ok" if good else "auth_invalid", "message": "bad token"})
    elif message["type"] == "echo":
        await say({"id": id, "type": "result", "success": True, "result": message["what"]})
    elif message["type"] == "bad":
        error = {"code": "not_found", "message": "no such thing"}
        await say({"id": id, "type": "result", "success": False, "error": error})
    elif message["type"] == "go":
        await say({"id": 999_999, "type": "event", "event": {}})
    elif message["type"] == "count":
        for n in range(message["to"]):
            await say({"id": id, "type": "event", "event": n})
    elif message["type"] == "ping":
        await say({"id": id, "type": "pong"})


async def serve_graphql(message: Any, say: Say) -> None:
    id = message.get("id")
    if message["type"] == "connection_init":
        await say({"type": "connection_ack"})
        await say({"type": "ping"})
    elif message["type"] == "go":
        await say({"type": "note"})
    elif message["type"] == "subscribe":
        wanted = message["payload"]
        if "bad" in wanted:
            await say({"id": id, "type": "error", "payload": [{"message": "no such field"}]})
        elif "echo" in wanted:
            await say({"id": id, "type": "next", "payload": wanted["echo"]})
        else:
            for n in range(wanted["to"]):
                await say({"id": id, "type": "next", "payload": n})
            await say({"id": id, "type": "complete"})


async def serve_phoenix(message: Any, say: Say) -> None:
    join, ref, topic, event, payload = message
    reply = [join, ref, topic, "phx_reply"]
    if event == "bad":
        await say([*reply, {"status": "error", "response": {"reason": "no such event"}}])
    elif event == "go":
        await say([None, None, topic, "note", {}])
    else:
        await say([*reply, {"status": "ok", "response": payload}])


def rpc(version: str | None) -> Kind:
    """JSON-RPC, or DevTools without a version."""
    return Kind(
        JsonRpc(version),
        serve_rpc,
        lambda what: {"method": "echo", "params": what},
        lambda answer: answer["result"],
        {"method": "bad"},
        {"method": "go"},
        lambda message: message.get("method") == "note",
    )


KINDS: dict[str, Kind] = {
    "hub": Kind(
        Fields(reply_to="in_reply_to", type="kind"),
        serve_hub,
        lambda what: {"kind": "echo", "payload": {"what": what}},
        lambda answer: answer["what"],
        {"kind": "bad"},
        {"kind": "go"},
        lambda message: message["kind"] == "note",
    ),
    "json-rpc": rpc("2.0"),
    "devtools": rpc(None),
    "home-assistant": Kind(
        HomeAssistant(),
        serve_ha,
        lambda what: {"type": "echo", "what": what},
        lambda answer: answer["result"],
        {"type": "bad"},
        {"type": "go"},
        lambda message: message["type"] == "event",
        lambda n: {"type": "count", "to": n},
        lambda answers: [answer["event"] for answer in answers],
        greet_ha,
    ),
    "graphql": Kind(
        GraphQL(),
        serve_graphql,
        lambda what: {"type": "subscribe", "payload": {"echo": what}},
        lambda answer: answer["payload"],
        {"type": "subscribe", "payload": {"bad": 1}},
        {"type": "go"},
        lambda message: message["type"] == "note",
        lambda n: {"type": "subscribe", "payload": {"to": n}},
        lambda answers: [a["payload"] for a in answers if a["type"] == "next"],
    ),
    "phoenix": Kind(
        Phoenix(),
        serve_phoenix,
        lambda what: ["1", None, "room", "echo", {"what": what}],
        lambda answer: answer[4]["response"]["what"],
        ["1", None, "room", "bad", {}],
        ["1", None, "room", "go", {}],
        lambda message: message[3] == "note",
    ),
}


class SmallServer:
    """Serves one kind over any number of connections in memory."""

    def __init__(self, kind: Kind, nursery: trio.Nursery) -> None:
        self.kind = kind
        self._nursery = nursery
        self.received: list[Any] = []
        """All messages, of all connections."""
        self.connections: list[trio.abc.Stream] = []
        self.requests: list[trio_websocket.WebSocketRequest] = []
        self.paused = False
        """Whether messages are read and not acted on."""
        self.held: list[tuple[Any, Say]] = []

    async def connect(self, address: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        self.connections.append(far)
        self._nursery.start_soon(self._serve, far)
        return near

    async def _serve(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            self.requests.append(request)
            offered = request.proposed_subprotocols
            ws = await request.accept(subprotocol=offered[0] if offered else None)

            async def say(message: Any) -> None:
                await ws.send_message(message if isinstance(message, str) else json.dumps(message))

            try:
                if self.kind.hello is not None:
                    await self.kind.hello(say)
                while True:
                    message = json.loads(await ws.get_message())
                    self.received.append(message)
                    if self.paused:
                        self.held.append((message, say))
                    else:
                        await self.kind.serve(message, say)
            except trio_websocket.ConnectionClosed:
                pass

    async def drop(self) -> None:
        """Drop all connections."""
        dropped, self.connections = self.connections, []
        for stream in dropped:
            await trio.aclose_forcefully(stream)

    def silence(self) -> None:
        """From now on nothing that the server sends arrives."""

        async def send_all(data: object) -> None:
            await trio.sleep_forever()

        for stream in self.connections:
            stream.send_stream.send_all = send_all  # type: ignore[attr-defined]

    async def resume(self) -> None:
        """Act on what was held."""
        self.paused = False
        held, self.held = self.held, []
        for message, say in held:
            await self.kind.serve(message, say)


@asynccontextmanager
async def open_small(
    kind: Kind, **options: Any
) -> AsyncGenerator[tuple[SmallServer, Link[Any]], None]:
    """A small server, and a link to it."""
    async with open_background() as nursery:
        server = SmallServer(kind, nursery)
        every: dict[str, Any] = {"auth_token": "good", "dialect": kind.dialect} | options
        supervisor, link = make_link("ws://localhost/x?a=b", server.connect, **every)
        async with in_background(supervisor.run, link):
            yield server, link
