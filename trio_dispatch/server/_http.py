"""The front door: reads HTTP requests, and leads each to where it belongs.

WebSocket upgrades go to a `WebSocketSession`, ``POST <path>/rpc`` is one frame in and one frame
out, ``GET <path>/sse`` is one channel as an event stream (protocol, "Endpoints").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Final
from urllib.parse import parse_qs, urlsplit

import trio

from trio_dispatch._transport.http_server import (
    TEXT,
    BodyTooLarge,
    ClientGone,
    Exchange,
    Response,
    serve_connection,
)
from trio_dispatch._wire.codecs import UndecodableFrame
from trio_dispatch._wire.frames import ErrorCode
from trio_dispatch.server import _wire
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._identity import SUBSCRIBE_SCOPE
from trio_dispatch.server._methods import Caller
from trio_dispatch.server._sse import EventStream
from trio_dispatch.server._websocket import WebSocketSession

_MAX_HEAD_SIZE: Final = 1024 * 1024
_WEBSOCKET_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_JSON_TYPE: Final = "application/json"
_RETRY_MS: Final = 3000


class HttpConnection:
    """One connection, from its first byte. `run` is its life."""

    def __init__(self, hub: Hub, stream: trio.abc.Stream) -> None:
        self._hub = hub
        self._stream = stream
        base = hub.path.rstrip("/")
        self._websocket_path = base
        self._rpc_path = f"{base}/rpc"
        self._sse_path = f"{base}/sse"

    async def run(self) -> None:
        """Serve requests until either side ends the connection, which is closed in the end."""
        await serve_connection(
            self._stream,
            self._take,
            logger=self._hub.logger,
            max_body_size=self._hub.max_message_size,
            max_head_size=_MAX_HEAD_SIZE,
        )

    async def _take(self, exchange: Exchange) -> None:
        method = exchange.request.method
        target = urlsplit(exchange.request.target)
        path = target.path.rstrip("/")
        if path == self._rpc_path:
            if method == "POST":
                await self._rpc(exchange)
            else:
                await _refuse(exchange, 405, "method not allowed", ("Allow", "POST"))
        elif path == self._sse_path:
            if method == "GET":
                await self._sse(exchange, target.query)
            else:
                await _refuse(exchange, 405, "method not allowed", ("Allow", "GET"))
        elif path == self._websocket_path:
            if method == "GET":
                await self._upgrade(exchange)
            else:
                await _refuse(exchange, 405, "method not allowed", ("Allow", "GET"))
        else:
            await _refuse(exchange, 404, "not found")

    # WebSocket

    async def _upgrade(self, exchange: Exchange) -> None:
        headers = exchange.request.headers
        key = headers.get("sec-websocket-key", "")
        if headers.get("upgrade", "").lower() != "websocket":
            await _refuse(exchange, 400, "the Upgrade header is not websocket")
        elif "upgrade" not in _tokens(headers.get("connection", "")):
            await _refuse(exchange, 400, "the Connection header has no upgrade")
        elif not _is_websocket_key(key):
            await _refuse(exchange, 400, "the Sec-WebSocket-Key header is missing or wrong")
        elif headers.get("sec-websocket-version") != "13":
            version = ("Sec-WebSocket-Version", "13")
            await _refuse(exchange, 426, "the WebSocket version must be 13", version)
        else:
            # No extension and no subprotocol is ever agreed, Origin is ignored, and what came with
            # the request is lost (protocol, "WebSocket").
            digest = hashlib.sha1(key.encode() + _WEBSOCKET_GUID, usedforsecurity=False).digest()
            answer = [
                ("Upgrade", "websocket"),
                ("Connection", "Upgrade"),
                ("Sec-WebSocket-Accept", base64.b64encode(digest).decode("ascii")),
            ]
            await WebSocketSession(self._hub, await exchange.upgrade(answer)).run()

    # RPC

    async def _rpc(self, exchange: Exchange) -> None:
        try:
            body = await exchange.read_body()
        except BodyTooLarge:
            await _refuse(exchange, 413, "request body too large")
            return
        answer = await self._answer(exchange, body)
        status = answer.error.code if answer.error is not None else 200
        content = _wire.encode(answer, _wire.JSON_FORMAT) + b"\n"
        await exchange.respond(Response(status, [("Content-Type", _JSON_TYPE)], content))

    async def _answer(self, exchange: Exchange, body: bytes) -> _wire.Outgoing:
        clock, methods = self._hub.clock, self._hub.methods
        headers: Mapping[str, str] = exchange.request.headers
        try:
            if headers.get("content-type", _JSON_TYPE) != _JSON_TYPE:
                raise UndecodableFrame("not JSON")
            frame = _wire.decode_body(body)
        except UndecodableFrame:
            methods.frames += 1
            return _wire.error(clock, None, ErrorCode.BAD_REQUEST, "invalid request body")
        # The header holds the bare token; with `Bearer ` before it it is another, unknown one.
        token = frame.token or headers.get("authorization", "")
        identity = await self._hub.authenticate(token)
        if identity is None:
            methods.frames += 1
            return _wire.error(clock, frame, ErrorCode.UNAUTHORIZED, "unauthorized")
        request = trio.CancelScope()
        caller = Caller(identity=identity, forbidden="forbidden", request=request)
        answer: _wire.Outgoing | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, exchange, request)
            answer = await methods.answer(caller, frame)
            nursery.cancel_scope.cancel()
        if answer is None:
            raise ClientGone
        return answer

    # Server-sent events

    async def _sse(self, exchange: Exchange, query: str) -> None:
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
        await exchange.begin_response(200, headers)
        await exchange.send(f"retry: {_RETRY_MS}\n\n".encode())
        # Refused or not, the answer is 200: refused streams end at once (recording `sse`).
        if identity is not None and identity.allows(SUBSCRIBE_SCOPE) and channel:
            await _stream_events(exchange, EventStream(self._hub, identity, channel))
        await exchange.end_response()


async def _refuse(exchange: Exchange, status: int, text: str, *headers: tuple[str, str]) -> None:
    await exchange.respond(Response(status, [TEXT, *headers], f"{text}\n".encode()))


async def _watch(exchange: Exchange, scope: trio.CancelScope) -> None:
    """Cancel *scope* when the client leaves, or closes its sending side.

    A ``workflow.start`` ends with its request (recording ``http_rpc_disconnect``).
    """
    await exchange.wait_left()
    scope.cancel()


async def _stream_events(exchange: Exchange, events: EventStream) -> None:
    """Send *events* until the client leaves."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, exchange, nursery.cancel_scope)
        with events:
            while True:
                await exchange.send(await events.next_chunk())
                events.sent()


def _tokens(header: str) -> set[str]:
    return {token.strip().lower() for token in header.split(",")}


def _is_websocket_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except (binascii.Error, ValueError):
        return False
