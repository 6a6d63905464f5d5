"""The front door: reads HTTP requests, and leads each to where it belongs.

WebSocket upgrades go to a `WebSocketSession`, ``POST <path>/rpc`` is one frame in and one frame
out, ``GET <path>/sse`` is one channel as an event stream (protocol, "Endpoints").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final
from urllib.parse import parse_qs, urlsplit

import h11
import trio

from trio_dispatch._wire.codecs import UndecodableFrame
from trio_dispatch._wire.frames import ErrorCode
from trio_dispatch.server import _wire
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._identity import SUBSCRIBE_SCOPE
from trio_dispatch.server._methods import Caller
from trio_dispatch.server._sse import EventStream
from trio_dispatch.server._websocket import WebSocketSession

_READ_SIZE: Final = 64 * 1024
_MAX_WATCHED: Final = 64 * 1024
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_JSON_TYPE: Final = "application/json"
_RETRY_MS: Final = 3000

_Headers = list[tuple[str, str]]


class _Gone(Exception):
    """The client has left, or cannot be talked to."""


class HttpConnection:
    """One connection, from its first byte. `run` is its life."""

    def __init__(self, hub: Hub, stream: trio.abc.Stream) -> None:
        self._hub = hub
        self._stream = stream
        self._http = h11.Connection(h11.SERVER)
        base = hub.path.rstrip("/")
        self._websocket_path = base
        self._rpc_path = f"{base}/rpc"
        self._sse_path = f"{base}/sse"

    async def run(self) -> None:
        """Serve requests until either side ends the connection, which is closed in the end."""
        try:
            await self._serve()
        except (_Gone, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            # A bug of ours: it costs this connection, and not the server.
            self._hub.logger.exception("a connection failed")
        finally:
            await trio.aclose_forcefully(self._stream)

    async def _serve(self) -> None:
        while True:
            try:
                event = await self._next_event()
                if not isinstance(event, h11.Request):
                    return
                upgraded = await self._take(event)
            except h11.RemoteProtocolError as exc:
                if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
                    await self._refuse(exc.error_status_hint, str(exc))
                return
            if upgraded:
                await WebSocketSession(self._hub, self._stream).run()
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                # The one other sentinel is PAUSED.
                return event  # type: ignore[return-value]
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(bytes(await self._stream.receive_some(_READ_SIZE)))

    async def _send(self, event: h11.Event) -> None:
        data = self._http.send(event)
        if data:
            await self._stream.send_all(data)

    async def _respond(self, status: int, headers: _Headers, body: bytes) -> None:
        headers = [*headers, ("Content-Length", str(len(body)))]
        await self._send(h11.Response(status_code=status, headers=headers))
        if body:
            await self._send(h11.Data(data=body))
        await self._send(h11.EndOfMessage())

    async def _refuse(self, status: int, text: str, headers: _Headers | None = None) -> None:
        plain = [("Content-Type", "text/plain; charset=utf-8"), ("Connection", "close")]
        await self._respond(status, [*plain, *(headers or [])], f"{text}\n".encode())

    async def _take(self, request: h11.Request) -> bool:
        """Answer *request*; True when the connection is a WebSocket from here on."""
        method = request.method.decode("ascii")
        target = urlsplit(request.target.decode("ascii", "replace"))
        path = target.path.rstrip("/")
        if path == self._rpc_path:
            if method == "POST":
                await self._rpc(request)
            else:
                await self._refuse(405, "method not allowed", [("Allow", "POST")])
        elif path == self._sse_path:
            if method == "GET":
                await self._sse(target.query)
            else:
                await self._refuse(405, "method not allowed", [("Allow", "GET")])
        elif path == self._websocket_path:
            if method == "GET":
                return await self._upgrade(request)
            await self._refuse(405, "method not allowed", [("Allow", "GET")])
        else:
            await self._refuse(404, "not found")
        return False

    # WebSocket

    async def _upgrade(self, request: h11.Request) -> bool:
        headers = _headers(request)
        key = headers.get("sec-websocket-key", "")
        if headers.get("upgrade", "").lower() != "websocket":
            problem = "the Upgrade header is not websocket"
        elif "upgrade" not in _tokens(headers.get("connection", "")):
            problem = "the Connection header has no upgrade"
        elif not _is_websocket_key(key):
            problem = "the Sec-WebSocket-Key header is missing or wrong"
        elif headers.get("sec-websocket-version") != "13":
            version = [("Sec-WebSocket-Version", "13")]
            await self._refuse(426, "the WebSocket version must be 13", version)
            return False
        else:
            while not isinstance(await self._next_event(), h11.EndOfMessage):
                pass
            # No extension and no subprotocol is ever agreed, Origin is ignored, and what came with
            # the request is lost (protocol, "WebSocket"): h11 keeps it, and nobody asks for it.
            digest = hashlib.sha1(key.encode() + _WEBSOCKET_GUID, usedforsecurity=False).digest()
            answer: list[tuple[str, str]] = [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", base64.b64encode(digest).decode("ascii")),
            ]
            await self._send(h11.InformationalResponse(status_code=101, headers=answer))
            return True
        await self._refuse(400, problem)
        return False

    # RPC

    async def _rpc(self, request: h11.Request) -> None:
        headers = _headers(request)
        body = bytearray()
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                break
            if not isinstance(event, h11.Data):
                raise _Gone
            body += event.data
            if len(body) > self._hub.max_message_size:
                await self._refuse(413, "request body too large")
                return
        answer = await self._answer(headers, bytes(body))
        status = answer.error.code if answer.error is not None else 200
        content = _wire.encode(answer, _wire.JSON_FORMAT) + b"\n"
        await self._respond(status, [("Content-Type", _JSON_TYPE)], content)

    async def _answer(self, headers: dict[str, str], body: bytes) -> _wire.Outgoing:
        clock, methods = self._hub.clock, self._hub.methods
        try:
            if headers.get("content-type", _JSON_TYPE) != _JSON_TYPE:
                raise UndecodableFrame("not JSON")
            frame = _wire.decode_json(body)
        except UndecodableFrame:
            methods.frames += 1
            return _wire.error(clock, None, ErrorCode.BAD_REQUEST, "invalid request body")
        # The header holds the bare token; with `Bearer ` before it it is another, unknown one.
        token = frame.token or headers.get("authorization", "")
        identity = await self._hub.authenticate(token)
        if identity is None:
            methods.frames += 1
            return _wire.error(clock, frame, ErrorCode.UNAUTHORIZED, "unauthorized")
        caller = Caller(identity=identity, forbidden="forbidden", cancels_runs=True)
        answer: _wire.Outgoing | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            answer = await methods.answer(caller, frame)
            nursery.cancel_scope.cancel()
        if answer is None:
            raise _Gone
        return answer

    async def _watch(self, scope: trio.CancelScope) -> None:
        """Cancel *scope* when the client leaves, or closes its sending side.

        A ``workflow.start`` ends with its request (recording ``http_rpc_disconnect``).
        """
        watched = 0
        try:
            while watched < _MAX_WATCHED:
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    break
                self._http.receive_data(bytes(data))
                watched += len(data)
            else:
                # So much came behind the request that it cannot be told whether the client is
                # still there; it is served all the same.
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        scope.cancel()

    # Server-sent events

    async def _sse(self, query: str) -> None:
        while not isinstance(await self._next_event(), h11.EndOfMessage):
            pass
        fields = parse_qs(query)
        token = fields.get("token", [""])[0]
        channel = fields.get("channel", [""])[0]
        identity = await self._hub.authenticate(token)
        headers = [
            ("Cache-Control", "no-cache"),
            ("Connection", "keep-alive"),
            ("Content-Type", "text/event-stream"),
            ("X-Accel-Buffering", "no"),
            ("Transfer-Encoding", "chunked"),
        ]
        await self._send(h11.Response(status_code=200, headers=headers))
        await self._send(h11.Data(data=f"retry: {_RETRY_MS}\n\n".encode()))
        # Refused or not, the answer is 200: refused streams end at once (recording `sse`).
        if identity is not None and identity.allows(SUBSCRIBE_SCOPE) and channel:
            await self._stream_events(EventStream(self._hub, identity, channel))
            raise _Gone
        await self._send(h11.EndOfMessage())

    async def _stream_events(self, events: EventStream) -> None:
        """Send *events* until the client leaves."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, nursery.cancel_scope)
            try:
                with events:
                    while True:
                        await self._send(h11.Data(data=await events.next_chunk()))
                        events.sent()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                nursery.cancel_scope.cancel()


def _headers(request: h11.Request) -> dict[str, str]:
    """The headers by lower-case name; repeated ones are joined."""
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


def _tokens(header: str) -> set[str]:
    return {token.strip().lower() for token in header.split(",")}


def _is_websocket_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
