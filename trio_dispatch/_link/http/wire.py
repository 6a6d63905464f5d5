"""One frame in and one frame out by ``POST``; one channel of events by ``GET``. On httpx.

The token stands in the frame for a request (protocol, "HTTP RPC"), and in the query for a stream,
as the server reads it nowhere else there. httpx logs every URL, so what is sent is kept apart from
the URL that it knows (`HidingTransport`).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from types import TracebackType
from typing import Final
from urllib.parse import quote

import httpx
import httpx_sse
import msgspec
import trio

from trio_dispatch._link.settings import DialSettings
from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.httpx_tools import (
    HIDDEN_TARGET,
    HidingTransport,
    Once,
    make_transport,
)
from trio_dispatch._transport.reasons import why
from trio_dispatch._transport.tls import context_for
from trio_dispatch._wire.answers import describe_answer, retry_after
from trio_dispatch._wire.codecs import JSON, UndecodableFrame
from trio_dispatch._wire.errors import DispatchError, ProtocolError, request_error
from trio_dispatch._wire.frames import ErrorBody, ErrorCode, Frame, WireFrame
from trio_dispatch._wire.headers import complete_headers
from trio_dispatch._wire.proxies import Proxy
from trio_dispatch._wire.url import Address

CLOSING_TIME: Final = 0.5
"""Seconds for closing the connections."""

_JSON_TYPE: Final = "application/json"
_STREAM_TYPE: Final = "text/event-stream"

TOO_MANY_REQUESTS: Final = 429

SHOWN_BODY: Final = 2_000
"""Bytes of an answer that are looked at when it is no frame."""


class NotDelivered(Exception):
    """There was no connection, so nothing was sent."""


class Interrupted(Exception):
    """It was sent, and what became of it is not known.

    Attributes:
        orderly: whether the other side ended the connection in an orderly way, so was alive.
    """

    def __init__(self, how: str, *, orderly: bool = False) -> None:
        super().__init__(how)
        self.orderly = orderly


class NotAFrame(Exception):
    """The answer came from something that is no Dispatch server, or from one that is broken.

    Attributes:
        status: its HTTP status.
        line: the answer in one line.
        retry_after: seconds after which it asked to be tried again.
    """

    def __init__(self, status: int, line: str, retry_after: float | None = None) -> None:
        super().__init__(status, line, retry_after)
        self.status = status
        self.line = line
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"the server answered {self.line}"

    @property
    def for_now(self) -> bool:
        """Whether it is a proxy's word for a server that is away, or too busy."""
        return self.status >= ErrorCode.INTERNAL or self.status == TOO_MANY_REQUESTS


def error_of(answer: NotAFrame, method: str, *, safe: bool) -> DispatchError:
    """Make the error for a request that got *answer*.

    Args:
        answer: what came instead of a frame.
        method: what was requested.
        safe: whether the request only reads.
    """
    error: DispatchError
    if answer.for_now:
        text = answer.line.removeprefix(f"HTTP {answer.status} ")
        fate = "" if safe else "; the request was sent, and may have been carried out"
        error = request_error(ErrorBody(answer.status, text + fate), method)
    else:
        error = ProtocolError(f"{method}: {answer}")
    error.__cause__ = answer
    return error


@contextmanager
def _telling_what_was_lost(host: str, proxy: Proxy | None) -> Generator[None, None, None]:
    """Make httpx's errors those of this module."""
    way = "" if proxy is None or proxy.is_socks else f" (through {proxy.shown})"
    try:
        yield
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as exc:
        raise NotDelivered(why(exc, host if proxy is None else proxy.host) + way) from exc
    except httpx.HTTPError as exc:
        orderly = isinstance(exc, httpx.RemoteProtocolError)
        raise Interrupted(why(exc, host) + way, orderly=orderly) from exc


class HttpWire:
    """Talks HTTP to one address, for the length of a block.

    Reading is only ever given up by cancelling it: httpx reads by generators in generators, and the
    inner ones of a loop that is left in any other way are never closed.
    """

    def __init__(self, address: Address, dial: DialSettings, token: str | None) -> None:
        scheme = "https" if address.secure else "http"
        path, _, query = address.resource.partition("?")
        self._path = path.rstrip("/")
        self._base = f"{scheme}://{address.host_header}{self._path}"
        self._query = f"{query}&" if query else ""
        self._token = token
        self._max_message_size = dial.max_message_size
        proxy = dial.proxies.get(address)
        self._host = address.host
        self._secrets = address.secrets
        self._proxy = proxy
        self._http = httpx.AsyncClient(
            headers=list(complete_headers(address, None, dial.headers, dial.user_agent)),
            # All waiting is the caller's, who has a scope for it; but a pool does not say when it
            # connects.
            timeout=httpx.Timeout(None, connect=dial.connect_timeout),
            trust_env=False,
            transport=HidingTransport(
                StreamTransport(address, dial.connector)
                if dial.connector
                else make_transport(
                    address,
                    context_for(address, dial.ssl_context),
                    proxy,
                    max_keepalive_connections=20,
                )
            ),
        )

    async def __aenter__(self) -> HttpWire:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Cancelled, it must not replace what is raised; nothing that it waits for takes long.
        with trio.move_on_after(CLOSING_TIME, shield=True):
            await self._http.aclose()

    async def post(self, frame: Frame) -> WireFrame:
        """Send *frame* and return the one that answers it, an error frame perhaps.

        Cancelled, it closes the connection, by which the server may notice.

        Raises:
            NotDelivered: there was no connection.
            Interrupted: the connection was lost before the answer.
            NotAFrame: the answer is none.
        """
        frame = msgspec.structs.replace(frame, token=self._token or "")
        with _telling_what_was_lost(self._host, self._proxy):
            request = self._request("POST", "/rpc", self._query.removesuffix("&"))
            text = JSON.encode(frame)
            request.headers["Content-Type"] = _JSON_TYPE
            request.headers["Content-Length"] = str(len(text))
            request.stream = Once(text)
            async with aclosing(await self._http.send(request, stream=True)) as response:
                body = bytearray()
                with trio.CancelScope() as enough:
                    async for chunk in response.aiter_bytes():
                        body += chunk
                        if len(body) > self._max_message_size:
                            enough.cancel()
        if len(body) > self._max_message_size:
            too_much = f"more than max_message_size ({self._max_message_size:,} bytes)"
            raise self._not_a_frame(response, too_much.encode())
        try:
            return JSON.decode(bytes(body))
        except UndecodableFrame:
            raise self._not_a_frame(response, bytes(body[:SHOWN_BODY])) from None

    @asynccontextmanager
    async def events(self, channel: str) -> AsyncGenerator[AsyncIterator[str], None]:
        """Open a stream of *channel*: the ``data`` of each event, until the server ends it.

        The block begins when the server has accepted the request, which says nothing about token,
        scope and channel.

        Raises:
            NotDelivered: there was no connection.
            Interrupted: the connection was lost.
            NotAFrame: the answer is no event stream.
        """
        query = f"{self._query}token={quote(self._token or '', '')}&channel={quote(channel, '')}"
        with _telling_what_was_lost(self._host, self._proxy):
            request = self._request("GET", "/sse", query)
            request.headers["Accept"] = _STREAM_TYPE
            request.headers["Cache-Control"] = "no-store"
            async with aclosing(await self._http.send(request, stream=True)) as response:
                kind = response.headers.get("content-type", "").partition(";")[0].strip()
                if response.status_code != 200 or kind != _STREAM_TYPE:
                    raise self._not_a_frame(
                        response, f"{kind or 'nothing'}, no event stream".encode()
                    )
                with trio.CancelScope() as enough:
                    bounded = _Bounded(response, self._max_message_size, enough)
                    source = httpx_sse.EventSource(bounded)  # type: ignore[arg-type]  # all it uses
                    async with aclosing(source.aiter_sse()) as events:
                        yield (event.data async for event in events if event.data)
                if enough.cancelled_caught:
                    raise Interrupted(f"an event of more than {self._max_message_size:,} bytes")

    def _not_a_frame(self, response: httpx.Response, body: bytes) -> NotAFrame:
        headers = tuple(response.headers.multi_items())
        line = describe_answer(
            response.status_code,
            response.reason_phrase,
            headers,
            body,
            secrets=(self._token or "", *self._secrets),
        )
        return NotAFrame(response.status_code, line, retry_after(headers))

    def _request(self, method: str, suffix: str, query: str) -> httpx.Request:
        target = f"{self._path}{suffix}{'?' if query else ''}{query}"
        request = self._http.build_request(
            method, self._base + suffix, extensions={HIDDEN_TARGET: target.encode()}
        )
        request.stream = Once(b"")
        return request


class _Bounded:
    """What `httpx_sse.EventSource` needs of a response, with a limit to what one event may hold."""

    def __init__(self, response: httpx.Response, limit: int, enough: trio.CancelScope) -> None:
        self.headers = response.headers
        self._response = response
        self._limit = limit
        self._enough = enough

    async def aiter_text(self) -> AsyncGenerator[str, None]:
        size, before = 0, ""
        async for text in self._response.aiter_text():
            # An event ends with an empty line, and lines end in three ways.
            whole = before + text
            before = whole[-1:] if whole.endswith(("\r", "\n")) else ""
            lines = whole.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
            end = lines.rfind("\n\n")
            size = len(lines) - end - 2 if end >= 0 else size + len(text)
            if size > self._limit:
                self._enough.cancel()
            else:
                yield text
