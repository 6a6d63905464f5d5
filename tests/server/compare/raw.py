"""WebSocket and HTTP, byte by byte: what a server sends is shown as it is."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any, Final

import attrs
import h11
import trio

READ_SIZE: Final = 65536
KEY: Final = "dGhlIHNhbXBsZSBub25jZQ=="


@attrs.frozen
class WebSocketFrame:
    """One frame of the server."""

    first: int
    payload: bytes

    @property
    def opcode(self) -> int:
        return self.first & 0x0F


def masked(payload: bytes, first: int = 0x81) -> bytes:
    """One frame of a client."""
    length = len(payload)
    if length < 126:
        head = bytes((first, 0x80 | length))
    elif length < 65536:
        head = bytes((first, 0x80 | 126)) + length.to_bytes(2, "big")
    else:
        head = bytes((first, 0x80 | 127)) + length.to_bytes(8, "big")
    mask = b"\x01\x02\x03\x04"
    repeated = int.from_bytes((mask * (length // 4 + 1))[:length], "big")
    body = int.from_bytes(payload, "big") ^ repeated
    return head + mask + body.to_bytes(length, "big")


class Socket:
    """One connection, read by a task of its own, so that its end is seen at once."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream
        self.data = bytearray()
        self.end = "open"
        """``FIN`` or ``RST`` when the server has ended it."""
        self._changed = trio.Event()

    async def read(self) -> None:
        """Read for ever."""
        try:
            while chunk := await self.stream.receive_some(READ_SIZE):
                self.data += chunk
                self._notify()
            self.end = "FIN"
        except trio.BrokenResourceError:
            self.end = "RST"
        except trio.ClosedResourceError:
            pass
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def send(self, data: bytes) -> None:
        """Send; a server that has gone is no error."""
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self.stream.send_all(data)

    async def wait_until(self, done: Callable[[], bool], timeout: float) -> bool:
        """Wait until *done*, or the server's end; returns whether it is."""
        with trio.move_on_after(timeout):
            while not done() and self.end == "open":
                await self._changed.wait()
        return done()


class WebSocket:
    """The frames of one upgraded connection."""

    def __init__(self, socket: Socket) -> None:
        self.socket = socket
        self.frames: list[WebSocketFrame] = []
        self.head = b""

    async def upgrade(self, path: str, request: str | None = None, timeout: float = 2) -> None:
        """Send the handshake, or *request*, and read the head of the answer."""
        usual = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        await self.socket.send((request or usual).encode("latin-1"))
        await self.socket.wait_until(lambda: b"\r\n\r\n" in self.socket.data, timeout)
        head, _, rest = bytes(self.socket.data).partition(b"\r\n\r\n")
        self.head = head
        self.socket.data[:] = rest

    def collect(self) -> list[WebSocketFrame]:
        """Take the frames that are whole by now; returns all there are."""
        data = self.socket.data
        while len(data) >= 2:
            size, at = data[1] & 0x7F, 2
            if size >= 126:
                at += 2 if size == 126 else 8
                size = int.from_bytes(data[2:at], "big")
            if len(data) < at + size:
                break
            self.frames.append(WebSocketFrame(data[0], bytes(data[at : at + size])))
            del data[: at + size]
        return self.frames


@attrs.define
class Response:
    """One HTTP response, and whether it came whole."""

    status: int = 0
    reason: str = ""
    version: str = ""
    headers: list[tuple[str, str]] = attrs.field(factory=list)
    body: bytes = b""
    complete: bool = False


def read_responses(data: bytes, methods: list[str], *, ended: bool) -> list[Response]:
    """The responses in *data*, to requests of *methods*."""
    responses: list[Response] = []
    rest = data
    for method in methods:
        if not rest:
            break
        http = h11.Connection(h11.CLIENT, max_incomplete_event_size=2**22)
        http.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        http.send(h11.EndOfMessage())
        http.receive_data(rest)
        if ended:
            http.receive_data(b"")
        response = Response()
        try:
            while True:
                event: Any = http.next_event()
                if isinstance(event, (h11.Response, h11.InformationalResponse)):
                    if isinstance(event, h11.InformationalResponse) and event.status_code == 100:
                        responses.append(Response(100, event.reason.decode(), complete=True))
                        continue
                    response.status = event.status_code
                    response.reason = event.reason.decode("latin-1")
                    response.version = event.http_version.decode()
                    response.headers = [(n.decode(), v.decode("latin-1")) for n, v in event.headers]
                    if event.status_code == 101:
                        break
                elif isinstance(event, h11.Data):
                    response.body += event.data
                else:
                    response.complete = isinstance(event, h11.EndOfMessage)
                    break
        except h11.RemoteProtocolError:
            pass
        responses.append(response)
        rest = http.trailing_data[0] if response.complete else b""
    return responses


def unique() -> str:
    """A text that no other scenario uses."""
    return os.urandom(6).hex()
