"""The HTTP side of a server: upgrades, RPC and event streams (protocol, "Endpoints").

An upgrade begins a `WebSocketSession`, ``POST <path>/rpc`` is one frame in and one frame out, and
``GET <path>/sse`` is one channel as an event stream. Everything else is refused as a Dispatch
server refuses it.
"""

from __future__ import annotations

from contextlib import suppress
from email.utils import formatdate
from html import escape
from typing import Final

import trio

from trio_dispatch._transport.http_server import (
    TEXT,
    BodyTooLarge,
    BrokenRequest,
    ClientGone,
    Exchange,
    Headers,
    Response,
    serve_connection,
)
from trio_dispatch._wire.codecs import UndecodableFrame
from trio_dispatch._wire.frames import ErrorCode
from trio_dispatch.server import _wire
from trio_dispatch.server._clock import NS_PER_SECOND
from trio_dispatch.server._handshake import acceptance, find_refusal
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._identity import SUBSCRIBE_SCOPE
from trio_dispatch.server._methods import Caller
from trio_dispatch.server._routes import EVENTS, RPC, Redirect, Routes, Target, read_target
from trio_dispatch.server._sse import EventStream
from trio_dispatch.server._websocket import WebSocketSession

_MAX_HEAD_SIZE: Final = 1024 * 1024
_READ_SIZE: Final = 64 * 1024
_CHUNKED: Final = ("Transfer-Encoding", "chunked")
_BUFFERED: Final = 2048
"""The bytes of a body from which on Go sends it in chunks, without a length."""
_JSON: Final = ("Content-Type", "application/json")
_FORM_TYPE: Final = "application/x-www-form-urlencoded"
_RETRY_MS: Final = 3000


class ServerConnection:
    """One connection, from its first byte. `run` is its life."""

    def __init__(self, hub: Hub, stream: trio.abc.Stream) -> None:
        self._hub = hub
        self._stream = stream
        self._routes = Routes(hub.path.rstrip("/"))

    async def run(self) -> None:
        """Serve requests until either side ends the connection, which is closed in the end."""
        await serve_connection(
            self._stream,
            self._take,
            logger=self._hub.logger,
            max_body_size=self._hub.max_message_size,
            max_head_size=_MAX_HEAD_SIZE,
            explains=False,
        )

    async def _take(self, exchange: Exchange) -> None:
        method = exchange.request.method
        target = read_target(exchange.request.target)
        if (method, target.path) == ("OPTIONS", "*"):
            await self._respond(exchange, 200)
            return
        try:
            route = self._routes.find(method, target.path)
        except LookupError:
            headers = (TEXT, ("X-Content-Type-Options", "nosniff"))
            await self._respond(exchange, 404, headers, b"404 page not found\n")
            return
        if route is None:
            await self._respond(exchange, 405)
        elif isinstance(route, Redirect):
            await self._redirect(exchange, route.path, target.query)
        elif route == RPC:
            await self._rpc(exchange)
        elif route == EVENTS:
            await self._sse(exchange, target)
        else:
            await self._upgrade(exchange)

    def _dated(self, headers: Headers) -> list[tuple[str, str]]:
        now = self._hub.clock.now() // NS_PER_SECOND
        return [*headers, ("Date", formatdate(now, usegmt=True))]

    async def _respond(
        self, exchange: Exchange, status: int, headers: Headers = (), body: bytes = b""
    ) -> None:
        headers = self._dated(headers)
        if len(body) <= _BUFFERED or exchange.request.http_version == "1.0":
            await exchange.respond(Response(status, headers, body))
            return
        await exchange.begin_response(status, [*headers, _CHUNKED])
        await exchange.send(body)
        await exchange.end_response()

    async def _redirect(self, exchange: Exchange, path: str, query: str) -> None:
        place = f"{path}?{query}" if query else path
        if exchange.request.method != "GET":
            await self._respond(exchange, 301, [("Location", place)])
            return
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Location", place)]
        body = f'<a href="{escape(place)}">Moved Permanently</a>.\n\n'
        await self._respond(exchange, 301, headers, body.encode("latin-1"))

    # WebSocket

    async def _upgrade(self, exchange: Exchange) -> None:
        refusal = find_refusal(exchange.request)
        if refusal is None:
            # What came with the request is lost (protocol, "WebSocket").
            stream = await exchange.upgrade(acceptance(exchange.request))
            await WebSocketSession(self._hub, stream).run()
            return
        stream = await exchange.take_over(refusal.encode())
        with suppress(trio.BrokenResourceError):
            while await stream.receive_some(_READ_SIZE):
                pass

    # RPC

    async def _rpc(self, exchange: Exchange) -> None:
        try:
            body: bytes | None = await exchange.read_body()
        except BodyTooLarge:
            await self._respond(exchange, 413, [TEXT], b"request body too large\n")
            return
        except BrokenRequest:
            body = None
        answer = await self._answer(exchange, body)
        status = answer.error.code if answer.error is not None else 200
        content = _wire.encode(answer, _wire.JSON_FORMAT) + b"\n"
        await self._respond(exchange, status, [_JSON], content)

    async def _answer(self, exchange: Exchange, body: bytes | None) -> _wire.Outgoing:
        clock, methods = self._hub.clock, self._hub.methods
        try:
            frame = _read_frame(exchange.request.first("content-type"), body)
        except UndecodableFrame:
            methods.frames += 1
            return _wire.error(clock, None, ErrorCode.BAD_REQUEST, "invalid request body")
        # The header holds the bare token; with `Bearer ` before it it is another, unknown one.
        token = frame.token or exchange.request.first("authorization")
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

    async def _sse(self, exchange: Exchange, target: Target) -> None:
        channel = target.field("channel")
        identity = await self._hub.authenticate(target.field("token"))
        headers = [
            ("Cache-Control", "no-cache"),
            ("Connection", "keep-alive"),
            ("Content-Type", "text/event-stream"),
            ("X-Accel-Buffering", "no"),
            _CHUNKED,
        ]
        await exchange.begin_response(200, self._dated(headers))
        await exchange.send(f"retry: {_RETRY_MS}\n\n".encode())
        # Refused or not, the answer is 200: refused streams end at once (recording `sse`).
        if identity is not None and identity.allows(SUBSCRIBE_SCOPE) and channel:
            await _stream_events(exchange, EventStream(self._hub, identity, channel))
        await exchange.end_response()


def _read_frame(content_type: str, body: bytes | None) -> _wire.Incoming:
    if content_type.startswith(_FORM_TYPE):
        # A form's fields are read into a place of their own, and the frame stays empty.
        return _wire.Incoming()
    if body is None or content_type not in {"", "application/json"}:
        raise UndecodableFrame("not JSON")
    return _wire.decode_body(body)


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
