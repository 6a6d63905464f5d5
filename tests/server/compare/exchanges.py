"""Single messages and what comes back for each, on any server.

Every message on a WebSocket is followed by a ping of ours: what comes before its pong is the
message's answer, so that nothing has to be waited for in vain.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import attrs
import msgspec
import trio

from tests.server.compare.normal import Normalizer, decode
from tests.server.compare.play import Connect
from tests.server.compare.raw import Socket, WebSocket, masked, read_responses

_TIMEOUT: Final = 5.0
_NO_MORE: Final = 0.3
_HIDDEN_HEADERS: Final = frozenset({"date"})
_COUNTS: Final = frozenset(
    {"topic_count", "subscriber_count", "total_published", "total_dropped", "connections"}
)


@attrs.frozen
class Message:
    """Something to send.

    ``text`` and ``binary`` are messages of a JSON session, ``pack`` of a msgpack session, ``auth``
    the first message of a new one, ``raw`` bytes on a session of their own, ``rpc`` the body of an
    RPC, ``http`` a whole request. ``$job`` and ``$run`` stand for ids that the server has given.
    """

    kind: str
    sent: bytes
    token: str = "demo-token"

    def encode(self) -> dict[str, str]:
        """As JSON has it."""
        return {"kind": self.kind, "sent": self.sent.decode("latin-1"), "token": self.token}

    @classmethod
    def decode(cls, data: dict[str, str]) -> Message:
        """What `encode` has made."""
        return cls(data["kind"], data["sent"].encode("latin-1"), data["token"])


class Runner:
    """Sends messages to one server, one after the other."""

    def __init__(self, connect: Connect, path: str, nursery: trio.Nursery) -> None:
        self._connect = connect
        self._path = path
        self._nursery = nursery
        self._sessions: dict[tuple[str, str], WebSocket] = {}
        self._normal = Normalizer()
        self._ids: dict[str, str] = {}
        self._fences = 0

    async def prepare(self) -> None:
        """Make the job and the run that messages name."""
        for name, method, data in (
            ("$job", "job.enqueue", {"name": "nobody", "queue": "zz", "payload": {"a": 1}}),
            ("$run", "workflow.start", {"name": "item", "input": {"ms": 1}}),
        ):
            frame = {"id": "p", "token": "demo-token", "method": method, "data": data}
            (answer,) = await self.run(Message("rpc", json.dumps(frame).encode()), shown=False)
            found = answer["body"]["data"]
            self._ids[name] = found.get("job_id") or found.get("run_id")
            self._normal.text(self._ids[name])

    async def run(self, message: Message, *, shown: bool = True) -> list[Any]:
        """Send *message*; returns what came back, normalised if it is to be *shown*."""
        sent = message.sent
        for name, id in self._ids.items():
            sent = sent.replace(name.encode(), id.encode())
        if message.kind in {"rpc", "http"}:
            answers = await self._request(message.kind, sent)
        elif message.kind in {"auth", "raw"}:
            answers = await self._alone(message, sent)
        else:
            answers = await self._in_session(message, sent)
        return [self._shown(answer) for answer in answers] if shown else answers

    def _shown(self, answer: Any) -> Any:
        if "body" in answer:
            body = answer["body"]
            text = isinstance(body, str)
            shown = self._normal.text(body) if text else self._normal.frame(body)
            return _without_counts({**answer, "body": shown})
        return _without_counts(self._normal.frame(answer))

    # WebSocket

    async def _open(self) -> WebSocket:
        socket = Socket(await self._connect())
        self._nursery.start_soon(socket.read)
        websocket = WebSocket(socket)
        await websocket.upgrade(self._path, timeout=_TIMEOUT)
        return websocket

    async def _session(self, token: str, format: str) -> WebSocket:
        websocket = self._sessions.get((token, format))
        if websocket is None:
            websocket = self._sessions[token, format] = await self._open()
            data = {"token": token, "format": format}
            frame = {"id": "auth", "method": "auth", "data": data}
            await websocket.socket.send(masked(json.dumps(frame).encode()))
            await self._collect(websocket, "auth")
        return websocket

    async def _in_session(self, message: Message, sent: bytes) -> list[Any]:
        format = "msgpack" if message.kind == "pack" else "json"
        websocket = await self._session(message.token, format)
        self._fences += 1
        fence = f"fence-{self._fences}"
        ping = {"id": fence, "type": "ping"}
        first = 0x81 if message.kind == "text" else 0x82
        data = masked(sent, first)
        if format == "msgpack":
            data += masked(msgspec.msgpack.encode(ping), 0x82)
        else:
            data += masked(json.dumps(ping).encode())
        await websocket.socket.send(data)
        answers = await self._collect(websocket, fence)
        if websocket.socket.end != "open":
            del self._sessions[message.token, format]
            answers.append({"end": "dropped"})
        return answers

    async def _collect(self, websocket: WebSocket, until: str) -> list[Any]:
        """The answers before the one to *until*, or to the end of the connection."""
        answers: list[Any] = []
        taken = len(websocket.frames)
        found = False

        def done() -> bool:
            nonlocal taken, found
            frames = websocket.collect()
            for frame in frames[taken:]:
                taken += 1
                if frame.opcode >= 8:
                    answers.append({"control": frame.first, "payload": frame.payload.hex()})
                    continue
                content, types = decode(frame.payload)
                if content.get("correl_id") == until:
                    found = True
                elif content.get("type") != "event":
                    answers.append({**content, **({"__msgpack__": types} if types else {})})
            return found

        if not await websocket.socket.wait_until(done, _TIMEOUT):
            if websocket.socket.end == "open":
                answers.append({"end": "no answer"})
        return answers

    async def _alone(self, message: Message, sent: bytes) -> list[Any]:
        """On a connection of its own: what came back, and whether it is open still."""
        websocket = await self._open()
        if message.kind == "auth":
            await websocket.socket.send(masked(sent))
        else:
            data = {"token": message.token}
            frame = {"id": "auth", "method": "auth", "data": data}
            await websocket.socket.send(masked(json.dumps(frame).encode()))
            await self._collect(websocket, "auth")
            await websocket.socket.send(sent)
        answers = await self._collect_while_any(websocket)
        answers.append({"end": "open" if websocket.socket.end == "open" else "dropped"})
        await trio.aclose_forcefully(websocket.socket.stream)
        return answers

    async def _collect_while_any(self, websocket: WebSocket) -> list[Any]:
        await websocket.socket.wait_until(lambda: False, _NO_MORE)
        answers: list[Any] = []
        for frame in websocket.collect():
            if frame.opcode >= 8:
                answers.append({"control": frame.first, "payload": frame.payload.hex()})
            else:
                content, types = decode(frame.payload)
                if content.get("correl_id") != "auth" or types is None:
                    answers.append({**content, **({"__msgpack__": types} if types else {})})
        return answers

    # HTTP

    async def _request(self, kind: str, sent: bytes) -> list[Any]:
        method = "POST"
        if kind == "rpc":
            head = f"POST {self._path}/rpc HTTP/1.1\r\nHost: x\r\nContent-Length: {len(sent)}\r\n"
            sent = head.encode() + b"\r\n" + sent
        else:
            sent = sent.replace(b"{P}", self._path.encode())
            method = sent.partition(b" ")[0].decode("latin-1")
            method = method if re.fullmatch("[A-Za-z]+", method) else "GET"
        socket = Socket(await self._connect())
        self._nursery.start_soon(socket.read)
        await socket.send(sent)

        def responses() -> list[Any]:
            ended = socket.end != "open"
            return read_responses(bytes(socket.data), [method], ended=ended)

        def done() -> bool:
            return any(one.complete and one.status != 100 for one in responses())

        await socket.wait_until(done, _TIMEOUT if kind == "rpc" else _NO_MORE * 3)
        await socket.wait_until(lambda: False, 0.01)
        shown: list[Any] = []
        for one in responses():
            headers = {n: v for n, v in one.headers if n not in _HIDDEN_HEADERS}
            body: Any = one.body.decode("utf-8", "replace")
            if headers.get("content-type") == "application/json":
                headers.pop("content-length", None)
                body = json.loads(body)
            elif headers.get("connection") == "close" and one.status >= 400:
                body = ""  # what is wrong with HTTP, in words of its own
            shown.append(
                {"status": one.status, "reason": one.reason.partition(":")[0], "headers": headers}
                | {"body": body, "end": one.complete}
            )
        if kind == "http":
            shown.append({"end": "open" if socket.end == "open" else "dropped"})
        await trio.aclose_forcefully(socket.stream)
        return shown


def _without_counts(value: Any) -> Any:
    if isinstance(value, dict):
        return {n: "<n>" if n in _COUNTS else _without_counts(v) for n, v in value.items()}
    if isinstance(value, list):
        return [_without_counts(item) for item in value]
    return value
