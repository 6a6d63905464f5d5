"""Serve HTTP/1.1 over any stream. All servers of the library use this h11 loop.

A handler gets each request as an `Exchange`. With it, the handler reads the body and sends a
response, whole or in pieces, or takes over the connection for another protocol.

Each connection is isolated: garbage, a reset, a request that never ends or an exception of the
handler ends only that connection, and `serve_connection` returns. It raises only cancellation and
interrupts, so no connection can end the nursery of the others.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from http import HTTPStatus
from typing import Final

import attrs
import h11
import trio

from trio_dispatch._transport.groups import leaves

READ_SIZE: Final = 64 * 1024
MAX_HEAD_SIZE: Final = 64 * 1024
"""The most bytes of a request's line and headers, if the server does not set another limit."""
MAX_DISCARDED: Final = 256 * 1024
"""The most bytes of an unread body that are read and dropped to keep the connection."""
LINGER_S: Final = 0.5
"""How long a client that is still sending may take to see the response before TCP is reset."""

Headers = Iterable[tuple[str, str]]
TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")
_CLOSE: Final = ("Connection", "close")
_PATH: Final = r"/(?:[^%?]|%[0-9A-Fa-f]{2})*"
_TARGET: Final = re.compile(
    rf"\*$|(?:{_PATH}|[A-Za-z][A-Za-z0-9+.-]*://[^/?]*(?:{_PATH})?)(?:\?|$)"
)
"""``*``, or a path with complete escapes, optionally after scheme and host."""
_HOST: Final = re.compile(r"[A-Za-z0-9!$%&'()*+,\-.:;=\[\]_~]*")


class ClientGone(Exception):
    """The client left during an exchange, or took too long."""


class BodyTooLarge(Exception):
    """The request's body is larger than the server reads."""


class BrokenRequest(Exception):
    """The client sent something that is not HTTP, or not HTTP that this server supports."""

    def __init__(self, status: int, detail: str = "") -> None:
        super().__init__(status, detail)
        self.status = status
        self.detail = detail


@attrs.frozen
class Request:
    """The head of a request. Header names are lower-case; repeated ones are joined by commas."""

    method: str
    target: str
    http_version: str
    headers: Mapping[str, str] = attrs.field(repr=False)
    fields: Sequence[tuple[str, str]] = attrs.field(repr=False)
    """The headers one by one, names in lower case, in their order."""

    def first(self, name: str, default: str = "") -> str:
        """Return the first header named *name*, for headers that may not be repeated."""
        return next((value for found, value in self.fields if found == name), default)


@attrs.frozen
class Response:
    """A whole response. ``Content-Length`` is added automatically."""

    status: int
    headers: Headers = ()
    body: bytes = b""


Handler = Callable[["Exchange"], Awaitable[None]]


def reason_of(status: int) -> str:
    """Return the reason phrase of *status*; empty if it has none."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return "Request Entity Too Large"  # newer Pythons use another phrase
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


class Exchange:
    """One request and its response. Only handlers use it, and only until they return.

    Every method may raise `ClientGone` or `BrokenRequest`. Do not catch them: the connection then
    ends, with an answer if one is possible.
    """

    def __init__(self, connection: _Connection, request: Request) -> None:
        self.request = request
        self._connection = connection

    async def read_body(self) -> bytes:
        """Read the whole body.

        Raises:
            BodyTooLarge: the body is larger than the server reads. The handler should respond; then
                the connection ends.
        """
        return await self._connection.read_body()

    async def respond(self, response: Response) -> None:
        """Send a whole response. An unread body is read and dropped first."""
        headers = [*response.headers, ("Content-Length", str(len(response.body)))]
        await self._connection.send_head(response.status, headers)
        if response.body and self.request.method != "HEAD":
            await self._connection.send(h11.Data(data=response.body))
        await self._connection.send(h11.EndOfMessage())

    async def begin_response(self, status: int, headers: Headers) -> None:
        """Begin a response of unknown length. It is sent in chunks."""
        await self._connection.send_head(status, list(headers))

    async def send(self, data: bytes) -> None:
        """Send a piece of the body."""
        if self.request.method != "HEAD":
            await self._connection.send(h11.Data(data=data))

    async def end_response(self) -> None:
        """End a response that `begin_response` began."""
        await self._connection.send(h11.EndOfMessage())

    async def wait_left(self) -> None:
        """Wait until the client closes its sending side, or resets the connection.

        Use this while a response takes long. If more bytes arrive, they wait for the next exchange,
        and it is no longer possible to see whether the client is there: then this never returns.
        """
        await self._connection.wait_left()

    async def upgrade(self, headers: Headers) -> trio.abc.Stream:
        """Accept the other protocol that the client asked for; return the connection's stream.

        The connection is closed when the handler returns. Bytes that the client sent directly after
        its request are lost. This does not wait for a body that the client has announced.
        """
        return await self._connection.upgrade(list(headers))

    async def take_over(self, head_and_body: bytes = b"") -> trio.abc.Stream:
        """Send bytes unchanged and leave HTTP: the same as `upgrade`, with the caller's answer."""
        return await self._connection.take_over(head_and_body)


class _Connection:
    """The h11 state of one connection, and its stream."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        *,
        max_head_size: int,
        max_body_size: int,
        read_timeout: float | None,
        explains: bool,
    ) -> None:
        self._explains = explains
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_size)
        self._max_body_size = max_body_size
        self._read_timeout = math.inf if read_timeout is None else read_timeout
        self._deadline = math.inf
        self._version = "1.1"
        self._lingers = False
        self.taken_over = False

    # Reading

    async def next_request(self) -> Request | None:
        """Wait for a request. Returns None when the client sends no more."""
        self._deadline = trio.current_time() + self._read_timeout
        event = await self._next_event()
        if not isinstance(event, h11.Request):
            return None
        fields = [(n.decode("latin-1"), v.decode("latin-1")) for n, v in event.headers]
        headers: dict[str, str] = {}
        for name, value in fields:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
        version = event.http_version.decode("ascii")
        if not version.startswith("1."):
            raise BrokenRequest(505, "unsupported protocol version")
        method, target = event.method.decode("ascii"), event.target.decode("latin-1")
        if method != "CONNECT" and not _TARGET.match(target):
            raise BrokenRequest(400, "malformed request target")
        if not _HOST.fullmatch(headers.get("host", "")):
            raise BrokenRequest(400, "malformed Host header")
        if headers.get("expect", "100-continue").lower() != "100-continue":
            raise BrokenRequest(417)
        self._version = version
        return Request(method, target, version, headers, fields)

    async def read_body(self) -> bytes:
        body = bytearray()
        if self._http.they_are_waiting_for_100_continue:
            go_on = h11.InformationalResponse(status_code=100, headers=[], reason="Continue")
            await self.send(go_on)
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data):
                raise ClientGone
            body += event.data
            if len(body) > self._max_body_size:
                raise BodyTooLarge

    async def _discard_body(self) -> bool:
        """Read the rest of the body. Returns False if that is too much, or impossible."""
        discarded = 0
        while self._http.their_state is h11.SEND_BODY:
            if self._http.they_are_waiting_for_100_continue or discarded > MAX_DISCARDED:
                return False
            event = await self._next_event()
            discarded += len(event.data) if isinstance(event, h11.Data) else 0
        return True

    async def _next_event(self) -> object:
        while (event := self._parse()) is h11.NEED_DATA:
            with trio.move_on_at(self._deadline) as scope:
                await self._receive()
            if scope.cancelled_caught:
                raise ClientGone
        return event

    def _parse(self) -> object:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as exc:
            raise BrokenRequest(exc.error_status_hint, str(exc)) from exc

    async def _receive(self) -> bool:
        """Pass received bytes to h11. Returns False when the client sends no more."""
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc
        self._http.receive_data(bytes(data))
        return bool(data)

    async def wait_left(self) -> None:
        try:
            if await self._receive():
                await trio.sleep_forever()
        except ClientGone:
            pass

    # Writing

    async def send_head(self, status: int, headers: list[tuple[str, str]]) -> None:
        if not await self._discard_body() or self._http.their_state is h11.ERROR:
            self._lingers = True
            headers = [*headers, _CLOSE]
        reason = reason_of(status)
        await self.send(h11.Response(status_code=status, headers=headers, reason=reason))

    async def send(self, event: h11.Event) -> None:
        data = self._http.send(event) or b""
        if self._version == "1.0" and data.startswith(b"HTTP/1.1 "):
            data = b"HTTP/1.0 " + data[9:]
        await self.send_bytes(data)

    async def send_bytes(self, data: bytes) -> None:
        if not data:
            return
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise ClientGone from exc

    async def upgrade(self, headers: list[tuple[str, str]]) -> trio.abc.Stream:
        lines = [
            "HTTP/1.1 101 Switching Protocols",
            *(f"{name}: {value}" for name, value in headers),
        ]
        return await self.take_over("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def take_over(self, data: bytes) -> trio.abc.Stream:
        self.taken_over = True
        await self.send_bytes(data)
        return self._stream

    # Between and after exchanges

    def begin_next(self) -> bool:
        """Return whether another request may follow, and get ready for it."""
        if self.taken_over or self._http.our_state is not h11.DONE:
            return False
        if self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    @property
    def awaits_response(self) -> bool:
        """Return whether no part of a response has been sent yet."""
        return not self.taken_over and self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}

    async def refuse(self, status: int, detail: str = "") -> None:
        """Answer a broken or impossible request, and then read no more."""
        if not self.awaits_response:
            return
        # Without h11: after a broken request it is in a state in which it sends nothing.
        self._lingers = True
        shown = f"{status} {reason_of(status)}"
        if status == HTTPStatus.EXPECTATION_FAILED:
            headers, text = [("Content-Length", "0"), _CLOSE], ""
        else:
            headers = [TEXT, _CLOSE]
            text = f"{shown}: {detail}" if detail and self._explains else shown
        head = [f"HTTP/1.1 {shown}", *(f"{name}: {value}" for name, value in headers), "", ""]
        await self.send_bytes("\r\n".join(head).encode("ascii") + text.encode("utf-8", "replace"))

    async def linger(self) -> None:
        """Let a client that is still sending see the response before the connection is closed.

        Closing with unread bytes resets the connection, and the response might be lost.
        """
        if not self._lingers or not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return
        with trio.move_on_after(LINGER_S):
            try:
                await self._stream.send_eof()
                while await self._stream.receive_some(READ_SIZE):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass


async def serve_connection(
    stream: trio.abc.Stream,
    handle: Handler,
    *,
    logger: logging.Logger,
    max_body_size: int,
    max_head_size: int = MAX_HEAD_SIZE,
    read_timeout: float | None = None,
    explains: bool = True,
) -> None:
    """Serve the requests that arrive on *stream* until either side ends it, then close it.

    Raises only cancellation and interrupts.

    Args:
        stream: a connection, from its first byte on.
        handle: called with each exchange; it sends the response before it returns. If it raises,
            the exception is logged, the client gets a 500 if nothing has been sent yet, and the
            connection ends.
        logger: logs exceptions of *handle*.
        max_body_size: the most bytes of a body that `Exchange.read_body` reads.
        max_head_size: the most bytes of a request's line and headers; larger ones get a 431.
        read_timeout: seconds for a whole request to arrive, counted from the end of the last one;
            None for no limit. After it, the connection ends.
        explains: whether the answer to a broken request includes what is wrong with it.
    """
    connection = _Connection(
        stream,
        max_head_size=max_head_size,
        max_body_size=max_body_size,
        read_timeout=read_timeout,
        explains=explains,
    )
    try:
        await _serve(connection, handle, logger)
        await connection.linger()
    except ClientGone:
        pass
    finally:
        # Shielded, but it ends at once: a cancellation here would replace a pending interrupt.
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _serve(connection: _Connection, handle: Handler, logger: logging.Logger) -> None:
    more = True
    while more:
        try:
            request = await connection.next_request()
            if request is None:
                return
            await handle(Exchange(connection, request))
        except BrokenRequest as exc:
            await connection.refuse(exc.status, exc.detail)
            return
        except Exception as exc:
            if all(isinstance(leaf, ClientGone) for leaf in leaves(exc)):
                raise ClientGone from exc
            logger.exception("an HTTP request failed; its connection ends")
            await connection.refuse(500)
            return
        if connection.awaits_response:
            logger.error("an HTTP request was not answered; its connection ends")
            return
        more = connection.begin_next()
