"""A raw client: WebSocket and HTTP over any stream, with no opinion about what is sent.

Built from sans-I/O parts that share nothing with the server's code, so that a test sees what is
really on the wire.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import msgspec
import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from trio_dispatch.server import Identity, Server

TOKENS = {
    "demo-token": Identity(subject="demo", app_id="app1", org_id="org1", scopes={"*"}),
    "ro": Identity(
        subject="ro",
        app_id="app1",
        org_id="org1",
        scopes={"job:read", "workflow:read", "subscribe"},
    ),
    "wo": Identity(subject="wo", app_id="app1", org_id="org1", scopes={"job:write"}),
    "nosub": Identity(
        subject="nosub", app_id="app1", org_id="org1", scopes={"job:read", "job:write"}
    ),
}


@attrs.frozen
class Message:
    """One message of the server."""

    opcode: Opcode
    payload: bytes

    @property
    def json(self) -> Any:
        """The message, where it is JSON."""
        return json.loads(self.payload)


class Dropped(Exception):
    """The server ended the connection; `code` is None where it sent no close frame."""

    def __init__(self, code: int | None) -> None:
        super().__init__(code)
        self.code = code


class Peer:
    """One WebSocket connection."""

    def __init__(self, stream: trio.abc.Stream, path: str = "/dwp") -> None:
        self.stream = stream
        self.protocol = ClientProtocol(parse_uri(f"ws://test{path}"), max_size=None)
        self.events: list[Any] = []
        """Event frames that came while answers were waited for."""
        self.session_id = ""
        self._ids = 0
        self._inbox: list[Message] = []
        self._fragments: list[bytes] = []

    async def upgrade(self, headers: Mapping[str, str] | None = None) -> None:
        """Do the handshake."""
        request = self.protocol.connect()
        for name, value in (headers or {}).items():
            request.headers[name] = value
        self.protocol.send_request(request)
        await self.flush()
        while self.protocol.state is State.CONNECTING:
            data = await self.stream.receive_some(65536)
            if not data:
                raise Dropped(None)
            self.protocol.receive_data(data)
            self._collect()

    async def flush(self) -> None:
        data = b"".join(self.protocol.data_to_send())
        if data:
            await self.stream.send_all(data)

    async def send_bytes(self, data: bytes) -> None:
        """Send *data* as it is, below WebSocket."""
        await self.stream.send_all(data)

    async def send_text(self, text: str | bytes) -> None:
        self.protocol.send_text(text.encode() if isinstance(text, str) else text)
        await self.flush()

    async def send_binary(self, data: bytes) -> None:
        self.protocol.send_binary(data)
        await self.flush()

    async def send(self, **frame: Any) -> None:
        """Send a frame as JSON text."""
        await self.send_text(json.dumps(frame))

    def _collect(self) -> None:
        for event in self.protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode in {Opcode.TEXT, Opcode.BINARY, Opcode.PONG}:
                assert event.fin
                self._inbox.append(Message(event.opcode, bytes(event.data)))

    async def receive(self) -> Message:
        """Give the next message, events and WebSocket pongs included.

        Raises:
            Dropped: the server has ended the connection.
        """
        while not self._inbox:
            try:
                data = await self.stream.receive_some(65536)
            except trio.BrokenResourceError:
                data = b""
            if not data:
                close = self.protocol.close_rcvd
                raise Dropped(None if close is None else close.code)
            self.protocol.receive_data(data)
            self._collect()
        return self._inbox.pop(0)

    async def answer(self) -> Any:
        """Give the next frame that is no event."""
        while True:
            frame = (await self.receive()).json
            if frame["type"] != "event":
                return frame
            self.events.append(frame)

    async def event(self) -> Any:
        """Give the next event's ``data``; an answer on the way is an error."""
        if self.events:
            return self.events.pop(0)["data"]
        frame = (await self.receive()).json
        assert frame["type"] == "event", frame
        return frame["data"]

    async def request(self, method: str, data: Any = None, **fields: Any) -> Any:
        """Send a request and give its answer, a frame."""
        self._ids += 1
        frame: dict[str, Any] = {"id": f"r{self._ids}", "type": "request", "method": method}
        if data is not None:
            frame["data"] = data
        await self.send(**{**frame, **fields})
        return await self.answer()

    async def call(self, method: str, data: Any = None) -> Any:
        """Send a request and give the ``data`` of its answer, which must be no error."""
        answer = await self.request(method, data)
        assert answer["type"] == "response", answer
        return answer["data"]

    async def authenticate(self, token: str = "demo-token", format: str = "json") -> None:
        data = await self.call("auth", {"token": token, "format": format})
        self.session_id = data["session_id"]

    async def settle(self) -> None:
        """Let the server do all that it can do at this moment, and take the events that came."""
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def stop() -> None:
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()

                nursery.start_soon(stop)
                while True:
                    frame = (await self.receive()).json
                    assert frame["type"] == "event", frame
                    self.events.append(frame)

    async def close(self, code: int = 1000) -> int | None:
        """Do the closing handshake; give the code that came back."""
        if self.protocol.state is State.OPEN:
            self.protocol.send_close(code)
            await self.flush()
        received: int | None = None
        try:
            while True:
                await self.receive()
        except Dropped as exc:
            received = exc.code
        await self.stream.aclose()
        return received

    async def vanish(self) -> None:
        """Drop the connection without a word."""
        await trio.aclose_forcefully(self.stream)


async def connect(server: Server, token: str | None = "demo-token", **kwargs: Any) -> Peer:
    """Connect in memory, and authenticate unless *token* is None."""
    peer = Peer(await server.open_stream())
    await peer.upgrade()
    if token is not None:
        await peer.authenticate(token, **kwargs)
    return peer


async def dropped(peer: Peer) -> int | None:
    """Wait for the end of the connection; give its close code, None for none."""
    try:
        while True:
            await peer.receive()
    except Dropped as exc:
        return exc.code


@attrs.frozen
class Response:
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes
    ended: bool
    """Whether the server ended the response."""

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)


class HttpPeer:
    """One HTTP connection."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.http = h11.Connection(h11.CLIENT)

    async def send(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        fields = {"Host": "test", "Content-Length": str(len(body)), **(headers or {})}
        request = h11.Request(method=method, target=target, headers=list(fields.items()))
        data = self.http.send(request) or b""
        if body:
            data += self.http.send(h11.Data(data=body)) or b""
        data += self.http.send(h11.EndOfMessage()) or b""
        await self.stream.send_all(data)

    async def receive(self, seconds: float = 60) -> Response:
        """Read the response, for at most *seconds*."""
        status = 0
        headers: dict[str, str] = {}
        body = b""
        ended = False
        with trio.move_on_after(seconds):
            while True:
                event = self.http.next_event()
                if event is h11.NEED_DATA:
                    self.http.receive_data(bytes(await self.stream.receive_some(65536)))
                elif isinstance(event, h11.InformationalResponse):
                    pass
                elif isinstance(event, h11.Response):
                    status = event.status_code
                    headers = {name.decode(): value.decode() for name, value in event.headers}
                elif isinstance(event, h11.Data):
                    body += event.data
                else:
                    ended = isinstance(event, h11.EndOfMessage)
                    break
        if ended and self.http.our_state is h11.DONE and self.http.their_state is h11.DONE:
            self.http.start_next_cycle()
        return Response(status, headers, body, ended)

    async def rpc(self, method: str, data: Any = None, token: str = "demo-token") -> Any:
        """Make an RPC and give the frame that answers it."""
        frame = {"id": "rpc-1", "type": "request", "method": method, "token": token}
        if data is not None:
            frame["data"] = data
        body = json.dumps(frame).encode()
        await self.send("POST", "/dwp/rpc", {"Content-Type": "application/json"}, body)
        return (await self.receive()).json


async def connect_http(server: Server) -> HttpPeer:
    """Connect in memory."""
    return HttpPeer(await server.open_stream())


@asynccontextmanager
async def running(server: Server, *, peers: int = 1) -> AsyncGenerator[Any, None]:
    """Run *server*, and give one peer (or a list of several), authenticated."""
    async with server.run():
        connected = [await connect(server) for _ in range(peers)]
        yield connected[0] if peers == 1 else connected
