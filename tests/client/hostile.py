"""A way to a server that puts any value into any field of what the server sends, at any moment.

What the embedded server answers is taken apart and changed on its way: values are replaced, left
out and added anywhere in it, frames are repeated, held back and made up. So every conversation
begins as a real one, and may go wrong at each of its frames.
"""

from __future__ import annotations

import copy
from random import Random
from typing import Any, Final, cast

import h11
import msgpack
import msgspec
import trio
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from tests.client.support import make_server
from trio_dispatch.server import Server

TEXTS: Final = (
    "", "x", "jobs", "firehose", "job:", "workflow:x", "completed", "failed", "running", "error",
    "response", "event", "ping", "pong", "request", "auth", "t1", "t2", "t3", "t9", "stream.gap",
    "job.completed", "workflow.started", "workflow.completed", "job_" + "0" * 26,
    "wfrun_" + "0" * 26, "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z",
    "2026-01-01T00:00:00", "2026-11-21T00:00:47.111Z", "\x00", "é\u2028", "x" * 3_000, "{", "null",
    "json", "msgpack", "cbor", "{}", "@@deep@@", "@@huge@@", "@@nan@@", "@@lone@@", "@@byte@@",
)  # fmt: skip
NUMBERS: Final = (0, 1, -1, 255, 404, 500, 2**31, 2**53, 2**63 - 1, 2**64 - 1, -(2**63), 0.5, 1e308)

RAW: Final = {
    b'"@@deep@@"': b"[" * 2_000 + b"]" * 2_000,
    b'"@@huge@@"': b"1" * 400,
    b'"@@nan@@"': b"NaN",
    b'"@@lone@@"': b'"\\ud800"',
    b'"@@byte@@"': b'"\xff"',
}
"""What JSON may hold, or may not, that Python's values cannot."""


def value(rng: Random, depth: int = 0) -> Any:
    """Any value."""
    kind = rng.randrange(8 if depth < 3 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind == 1:
        return rng.choice(NUMBERS)
    if kind < 5:
        return rng.choice(TEXTS)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(3))]
    names = ("run_id", "job_id", "name", "type", "topic", "data", "ts", "code", "message", "x")
    return {rng.choice(names): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def change(thing: Any, rng: Random) -> Any:
    """*thing* with one value somewhere in it replaced, left out, or added."""
    if isinstance(thing, dict) and thing and rng.random() < 0.9:
        name = rng.choice([*thing, "extra"] if rng.random() < 0.9 else [rng.choice(TEXTS)])
        if rng.random() < 0.15:
            thing.pop(name, None)
        else:
            thing[name] = change(thing.get(name), rng)
        return thing
    if isinstance(thing, list) and thing and rng.random() < 0.7:
        at = rng.randrange(len(thing))
        thing[at] = change(thing[at], rng)
        return thing
    return value(rng)


def made_up(rng: Random, like: dict[str, Any]) -> dict[str, Any]:
    """A frame of the peer's own."""
    kind = rng.choice(["event", "ping", "pong", "error", "response", "request", "", "x"])
    frame: dict[str, Any] = {"id": f"s{rng.randrange(10)}", "type": kind}
    if rng.random() < 0.7:
        frame["correl_id"] = rng.choice([f"t{rng.randrange(30)}", like.get("correl_id"), ""])
    if rng.random() < 0.5:
        frame["error"] = {"code": rng.choice(NUMBERS), "message": "x"}
    if rng.random() < 0.7:
        frame["data"] = {
            "type": rng.choice(TEXTS), "topic": rng.choice(TEXTS), "ts": rng.choice(TEXTS),
            "data": value(rng),
        }  # fmt: skip
    return change(frame, rng) if rng.random() < 0.5 else frame


class Malice:
    """Decides what becomes of each message.

    Args:
        rng: by which it decides.
        rate: how likely a message is changed.
    """

    def __init__(self, rng: Random, rate: float) -> None:
        self.rng = rng
        self.rate = rate
        self._held: bytes | None = None

    def messages(self, message: bytes) -> list[bytes]:
        """What is sent instead of *message*."""
        rng = self.rng
        if rng.random() >= self.rate:
            return [message]
        is_json = message[:1] in b"{["
        try:
            frame = msgspec.json.decode(message) if is_json else unpack(message)
        except (ValueError, msgspec.DecodeError):
            return [message]
        kind = rng.randrange(10)
        if kind < 5:
            return [encode(change(copy.deepcopy(frame), rng), is_json)]
        if kind == 5:
            return [message, message]
        if kind == 6:
            return []
        if kind == 7 and isinstance(frame, dict):
            return [encode(made_up(rng, frame), is_json), message]
        if kind == 8:
            return [encode(value(rng), is_json), message]
        held, self._held = self._held, message
        return [held] if held is not None else []


def unpack(message: bytes) -> Any:
    frame = msgpack.unpackb(message, strict_map_key=False)
    if isinstance(frame, dict) and isinstance(frame.get("data"), (bytes, str)):
        frame["data"] = msgspec.json.decode(frame["data"])
    return frame


def encode(thing: Any, is_json: bool) -> bytes:
    if is_json:
        return raw_json(thing)
    if isinstance(thing, dict) and isinstance(thing.get("data"), (dict, list)):
        thing["data"] = raw_json(thing["data"])
    try:
        return cast("bytes", msgpack.packb(thing, default=str, datetime=True))
    except (ValueError, OverflowError, TypeError):
        return b"\xc1"


def raw_json(thing: Any) -> bytes:
    text = msgspec.json.encode(thing, enc_hook=str)
    for placeholder, raw in RAW.items():
        text = text.replace(placeholder, raw)
    return text


class HostileWebSocket(trio.abc.Stream):
    """A client's end of a WebSocket connection whose server's messages are changed."""

    def __init__(self, stream: trio.abc.Stream, malice: Malice) -> None:
        self._stream = stream
        self._malice = malice
        self._unsplit = b""
        self._upgraded = False
        self._ready = bytearray()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while not self._ready:
            data = await self._stream.receive_some()
            if not data:
                return b""
            self._take(bytes(data))
        data, self._ready = bytes(self._ready), bytearray()
        return data

    def _take(self, data: bytes) -> None:
        self._unsplit += data
        if not self._upgraded:
            head, end, rest = self._unsplit.partition(b"\r\n\r\n")
            if not end:
                return
            self._ready += head + end
            self._unsplit, self._upgraded = rest, True
        while len(self._unsplit) >= 2:
            size, at = self._unsplit[1], 2
            if size >= 126:
                at = 4 if size == 126 else 10
                size = int.from_bytes(self._unsplit[2:at], "big")
            if len(self._unsplit) < at + size:
                return
            first, body = self._unsplit[0], self._unsplit[at : at + size]
            self._unsplit = self._unsplit[at + size :]
            for message in self._malice.messages(body) if first & 0xF < 8 else [body]:
                self._ready += (
                    bytes([first, 127]) + len(message).to_bytes(8, "big") + message
                    if (len(message) > 125)
                    else bytes([first, len(message)]) + message
                )

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class HostileHttp(trio.abc.Stream):
    """A client's end of an HTTP connection whose server's answers are changed."""

    def __init__(self, stream: trio.abc.Stream, malice: Malice) -> None:
        self._stream = stream
        self._malice = malice
        self._front = h11.Connection(h11.SERVER)
        self._back = h11.Connection(h11.CLIENT)
        self._is_stream = False
        self._body = b""
        self._ready = bytearray()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._front.receive_data(bytes(data))
        while True:
            event = self._front.next_event()
            if isinstance(event, (type, h11.ConnectionClosed)):
                return  # there is no more
            await self._stream.send_all(self._back.send(event) or b"")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return await self._receive()
        except h11.LocalProtocolError as exc:  # a changed status has no body
            raise trio.BrokenResourceError from exc

    async def _receive(self) -> bytes:
        while not self._ready:
            event = self._back.next_event()
            if event is h11.NEED_DATA:
                data = bytes(await self._stream.receive_some())
                self._back.receive_data(data)
                if not data and self._back.their_state is not h11.SEND_BODY:
                    return b""
            elif isinstance(event, h11.Response):
                self._begin(event)
            elif isinstance(event, h11.Data):
                self._body += bytes(event.data)
                if self._is_stream:
                    *texts, self._body = self._body.split(b"\n\n")
                    for text in texts:
                        self._pass_on(self._changed_event(text))
            elif isinstance(event, h11.EndOfMessage):
                if not self._is_stream:
                    self._pass_on(b"".join(self._malice.messages(self._body)[:1]))
                self._ready += self._front.send(h11.EndOfMessage()) or b""
                if self._back.our_state is h11.DONE and self._back.their_state is h11.DONE:
                    self._back.start_next_cycle()
                    self._front.start_next_cycle()
            else:
                return b""
        data, self._ready = bytes(self._ready), bytearray()
        return data

    def _begin(self, response: h11.Response) -> None:
        self._body = b""
        headers = [(n, v) for n, v in response.headers if n.lower() != b"content-length"]
        self._is_stream = any(b"event-stream" in v for _, v in headers)
        status = response.status_code
        if self._malice.rng.random() < self._malice.rate / 10:
            status = self._malice.rng.choice((200, 204, 302, 400, 401, 404, 429, 500, 502, 503))
        self._ready += self._front.send(h11.Response(status_code=status, headers=headers)) or b""

    def _changed_event(self, text: bytes) -> bytes:
        lines = []
        for line in text.split(b"\n"):
            if line.startswith(b"data: "):
                lines += [
                    b"data: " + m.replace(b"\n", b"") for m in self._malice.messages(line[6:])
                ]
            else:
                lines.append(line)
        return b"\n".join(lines) + b"\n\n"

    def _pass_on(self, data: bytes) -> None:
        if data:
            self._ready += self._front.send(h11.Data(data=data)) or b""

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


class HostileWay:
    """Leads to a server of its own."""

    def __init__(self, rng: Random, rate: float, *, http: bool) -> None:
        self.server: Server = make_server()
        self._malice = Malice(rng, rate)
        self._http = http

    async def connect(self, address: object) -> trio.abc.Stream:
        stream = await self.server.open_stream()
        if self._http:
            return HostileHttp(stream, self._malice)
        return HostileWebSocket(stream, self._malice)


def framed(message: bytes) -> bytes:
    """*message* as a WebSocket server sends it: as text, whatever it is."""
    return Frame(Opcode.TEXT, message).serialize(mask=False)


class DeafStream(trio.abc.Stream):
    """A server that takes the first two writes, says *welcome*, and then *flood* many times.

    Args:
        welcome: what it says when it has read ``auth``.
        flood: what it says after that.
        times: how often.
    """

    def __init__(self, welcome: bytes, flood: bytes, times: int) -> None:
        self._peer = ServerProtocol(max_size=None)
        self._welcome = welcome
        self._flood = flood
        self._left = times
        self._writes = 0
        self._unread = b""
        self._at = 0
        self._spoke = trio.Event()

    @property
    def all_read(self) -> bool:
        """Whether the client has read everything."""
        return not self._left and not self._unread

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        self._writes += 1
        if self._writes > 2:
            await trio.sleep_forever()
        if self._writes == 1:
            self._peer.receive_data(bytes(data))
            (request,) = self._peer.events_received()
            assert isinstance(request, Request)
            self._peer.send_response(self._peer.accept(request))
            self._unread += b"".join(self._peer.data_to_send())
        else:
            self._unread += self._welcome
        self._spoke.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._unread:
            if self._writes >= 2 and self._left:
                self._left -= 1
                self._unread = self._flood
            else:
                self._spoke = trio.Event()
                await self._spoke.wait()
        data = self._unread[self._at : self._at + (max_bytes or 65_536)]
        self._at += len(data)
        if self._at == len(self._unread):
            self._at, self._unread = 0, b""
        return data

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
