"""Plays a scenario on a server, by whatever stream leads there, and notes what comes back.

A scenario is a list of steps, as JSON has them:

- ``["open", NAME]``, with the text of a request to send in place of the usual one if need be;
- ``["auth", NAME, TOKEN]``, with the format if it is not JSON;
- ``["send", NAME, FRAMES]`` (text messages), ``["bin", NAME, HEX]``, ``["pack", NAME, OBJECTS]``
  (msgpack), ``["raw", NAME, HEX]`` (bytes as they are);
- ``["wait", SECONDS]``; ``["rpc", TEXT]``; ``["http", TEXT]``; ``["shut", NAME]``: send no more;
- ``["stream", TEXT]``: an HTTP request whose response is read until the scenario ends.

The last item may be options: ``{"_": 1, "timeout": seconds, "n": answers, "shut": true}``.
``$job1``, ``$run1`` and ``$evt1`` stand for the ids that came up so far, ``{P}`` for the path.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec
import trio

from tests.server.compare.normal import Normalizer, decode
from tests.server.compare.raw import Response, Socket, WebSocket, masked, read_responses

Connect = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]
Transcript = dict[str, Any]

_TIMEOUT: Final = 1.0
_SETTLE: Final = 0.05
_BEGUN: Final = 0.1
"""Seconds in which a server has begun to carry out a request."""
_HIDDEN_HEADERS: Final = frozenset({"date"})


class _Session:
    """One WebSocket of a scenario."""

    def __init__(self, websocket: WebSocket) -> None:
        self.websocket = websocket
        self.answers: list[Any] = []
        self.events: list[dict[str, Any]] = []
        self.taken = 0


class Player:
    """One scenario on one server."""

    def __init__(self, connect: Connect, path: str = "/dwp") -> None:
        self._connect = connect
        self._path = path
        self._normal = Normalizer()
        self._sessions: dict[str, _Session] = {}
        self._steps: list[Any] = []
        self._streams: list[Socket] = []

    async def play(self, steps: list[list[Any]]) -> Transcript:
        """Play *steps*; returns what came back."""
        self._normal.published = await self._count_deliveries()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for step in steps:
                await self._step(step)
            with trio.move_on_after(_SETTLE):
                await trio.sleep_forever()
            for session in self._sessions.values():
                self._take(session)
            for socket in self._streams:
                (response,) = read_responses(bytes(socket.data), ["GET"], ended=False)
                self._steps.append(["stream", self._response(response), socket.end])
                await trio.aclose_forcefully(socket.stream)
            ends = {n: s.websocket.socket.end for n, s in self._sessions.items()}
            nursery.cancel_scope.cancel()
        for session in self._sessions.values():
            await trio.aclose_forcefully(session.websocket.socket.stream)
        return {
            "steps": self._steps,
            "answers": {name: session.answers for name, session in self._sessions.items()},
            "events": {name: self._events(session) for name, session in self._sessions.items()},
            "end": ends,
        }

    async def _count_deliveries(self) -> int:
        async with trio.open_nursery() as nursery:
            socket = await self._open(nursery)
            body = '{"id":"0","method":"stats","token":"demo-token"}'
            await socket.send(self._rpc(body))
            await socket.wait_until(lambda: b'"connections"' in socket.data, 5)
            found = json.loads(bytes(socket.data).partition(b"\r\n\r\n")[2])
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(socket.stream)
        count: int = found["data"]["broker"]["total_published"]
        return count

    async def _open(self, nursery: trio.Nursery) -> Socket:
        socket = Socket(await self._connect())
        nursery.start_soon(socket.read)
        return socket

    def _rpc(self, body: str) -> bytes:
        data = body.encode("utf-8", "surrogatepass")
        head = f"POST {self._path}/rpc HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    def _filled(self, text: str) -> str:
        """*text* with the ids that stand behind ``$job1`` and its like."""
        for id, name in self._normal.ids.items():
            text = text.replace(f"${name[1:-1].replace('wfrun', 'run')}", id)
        return text.replace("{P}", self._path)

    async def _step(self, step: list[Any]) -> None:
        options: dict[str, Any] = {}
        if isinstance(step[-1], dict) and "_" in step[-1]:
            options, step = step[-1], step[:-1]
        kind = step[0]
        timeout = float(options.get("timeout", _TIMEOUT))
        if kind == "wait":
            await trio.sleep(float(step[1]))
        elif kind == "open":
            await self._open_session(step[1], step[2] if len(step) > 2 else None)
        elif kind == "rpc":
            await self._http(self._rpc(self._filled(step[1])), ["POST"], options)
        elif kind == "stream":
            socket = await self._open(self._nursery)
            await socket.send(self._filled(step[1]).encode("latin-1"))
            await socket.wait_until(lambda: b"retry: " in socket.data, timeout)
            self._streams.append(socket)
        elif kind == "http":
            data = self._filled(step[1]).encode("latin-1")
            method = step[1].partition(" ")[0]
            await self._http(data, [method] * int(options.get("n", 1)), options)
        else:
            session = self._sessions[step[1]]
            if kind == "shut":
                await session.websocket.socket.stream.send_eof()
            else:
                data, count = self._data(step)
                await session.websocket.socket.send(data)
                await self._answers(session, int(options.get("n", count)), timeout)

    def _data(self, step: list[Any]) -> tuple[bytes, int]:
        """What a step sends, and how many answers it is worth."""
        kind = step[0]
        if kind == "auth":
            data = {"token": step[2], "format": step[3] if len(step) > 3 else "json"}
            frame = {"id": "auth", "type": "request", "method": "auth", "data": data}
            return masked(json.dumps(frame).encode()), 1
        if kind == "send":
            texts = [self._filled(text).encode("utf-8", "surrogatepass") for text in step[2]]
            return b"".join(map(masked, texts)), len(texts)
        if kind == "bin":
            return b"".join(masked(bytes.fromhex(text), 0x82) for text in step[2]), len(step[2])
        if kind == "pack":
            packed = [msgspec.msgpack.encode(_packable(item)) for item in step[2]]
            return b"".join(masked(item, 0x82) for item in packed), len(packed)
        if kind == "raw":
            return bytes.fromhex(step[2]), 1
        raise ValueError(f"no such step: {step}")

    # WebSocket

    async def _open_session(self, name: str, request: str | None) -> None:
        websocket = WebSocket(await self._open(self._nursery))
        await websocket.upgrade(self._path, request)
        lines = websocket.head.decode("latin-1").split("\r\n")
        headers = sorted(line.lower() for line in lines[1:] if not line.lower().startswith("date:"))
        self._steps.append(["open", name, lines[0], headers])
        self._sessions[name] = _Session(websocket)

    async def _answers(self, session: _Session, count: int, timeout: float) -> None:
        wanted = len(session.answers) + count

        def done() -> bool:
            self._take(session)
            return bool(count) and len(session.answers) >= wanted

        await session.websocket.socket.wait_until(done, timeout)

    def _take(self, session: _Session) -> None:
        frames = session.websocket.collect()
        for frame in frames[session.taken :]:
            if frame.opcode >= 8:
                session.answers.append({"__op": frame.first, "payload": frame.payload.hex()})
                continue
            content, types = decode(frame.payload)
            if content.get("type") == "event":
                session.events.append({**content, "__op": frame.opcode})
                continue
            shown = self._normal.frame(content)
            if types is not None:
                shown["__msgpack__"] = types
            session.answers.append({**shown, "__op": frame.opcode})
        session.taken = len(frames)

    def _events(self, session: _Session) -> list[str]:
        """The events of a session, but for those of jobs that are not the scenario's."""
        known = {f"job:{id}" for id in self._normal.ids}
        shown: list[str] = []
        for event in session.events:
            if event["channel"] in known or not event["channel"].startswith("job:"):
                shown.append(json.dumps(self._normal.frame(event), sort_keys=True))
        return sorted(shown)

    # HTTP

    async def _http(self, data: bytes, methods: list[str], options: dict[str, Any]) -> None:
        timeout = float(options.get("timeout", _TIMEOUT))
        async with trio.open_nursery() as nursery:
            socket = await self._open(nursery)
            await socket.send(data)
            if options.get("shut"):
                await trio.sleep(_BEGUN)
                await socket.stream.send_eof()

            def responses() -> list[Response]:
                ended = socket.end != "open"
                return read_responses(bytes(socket.data), methods, ended=ended)

            def done() -> bool:
                found = [response for response in responses() if response.status != 100]
                return len(found) == len(methods) and all(one.complete for one in found)

            if not options.get("shut"):
                await socket.wait_until(done, timeout)
            with trio.move_on_after(timeout if options.get("shut") else _SETTLE):
                await socket.wait_until(lambda: socket.end != "open", timeout)
            shown: list[Any] = [self._response(response) for response in responses()]
            shown.append({"connection": socket.end})
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(socket.stream)
        self._steps.append(["http", shown])

    def _event(self, text: str) -> str:
        """One event of a stream, normalised."""
        name, separator, data = text.partition("\ndata: ")
        if not separator:
            return text
        return f"{name}{separator}{json.dumps(self._normal.value(json.loads(data)))}"

    def _response(self, response: Response) -> dict[str, Any]:
        headers = {n: v for n, v in response.headers if n not in _HIDDEN_HEADERS}
        text = response.body.decode("utf-8", "replace")
        body: Any = text
        if headers.get("content-type") == "application/json":
            headers.pop("content-length", None)  # as long as its ids
            body = self._normal.frame(json.loads(text))
        elif headers.get("content-type") == "text/event-stream":
            first, *others = map(self._event, text.split("\n\n"))
            body = [first, *sorted(others[:-1]), *others[-1:]]
        shown: dict[str, Any] = {"status": response.status, "headers": headers, "body": body}
        shown["end"] = "complete" if response.complete else "incomplete"
        return shown


def _packable(item: Any) -> Any:
    """*item*, in which ``{"!bin": TEXT}`` stands for bytes."""
    if isinstance(item, dict):
        if "!bin" in item:
            return str(item["!bin"]).encode()
        return {name: _packable(value) for name, value in item.items()}
    return item
