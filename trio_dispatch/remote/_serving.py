"""Requests of HTTP/1.1, one after another, over any stream: whole bodies in, whole bodies out."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import attrs
import trio

from trio_dispatch._transport.http_server import (
    BodyTooLarge,
    Exchange,
    Response,
    serve_connection,
)

READ_TIMEOUT: Final = 75
"""Seconds for a whole request to arrive, from the end of the last one: idle connections end."""

_log = logging.getLogger("trio_dispatch.remote")


@attrs.frozen
class HttpRequest:
    """A request with its body. Header names are lower-case; repeated ones are joined."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes


@attrs.frozen
class HttpResponse:
    """A response with its body."""

    status: int
    content_type: str
    body: bytes


async def serve_http(
    stream: trio.abc.Stream,
    answer: Callable[[HttpRequest], Awaitable[HttpResponse]],
    max_body_size: int,
) -> None:
    """Answer the requests that come over *stream*, until either side ends it. Closes it.

    Whatever comes over it, and whatever *answer* raises, ends this connection alone. Exceptions
    of *answer* are logged and answered by 500. Only cancellation and interrupts are raised.
    """

    async def handle(exchange: Exchange) -> None:
        try:
            body = await exchange.read_body()
        except BodyTooLarge:
            response = HttpResponse(413, "text/plain", b"the body is too large\n")
        else:
            head = exchange.request
            response = await answer(HttpRequest(head.method, head.target, head.headers, body))
        headers = [("Content-Type", response.content_type)]
        await exchange.respond(Response(response.status, headers, response.body))

    await serve_connection(
        stream, handle, logger=_log, max_body_size=max_body_size, read_timeout=READ_TIMEOUT
    )
