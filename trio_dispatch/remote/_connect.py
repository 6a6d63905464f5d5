"""The Connect protocol, unary and with protobuf, as a server speaks it over any stream.

One POST is one message in and one message out. What cannot be served is refused by a status of HTTP
and a JSON body that names one of Connect's codes.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Awaitable, Callable, Collection
from functools import partial
from typing import Final

import attrs
import trio

from trio_dispatch._transport.http_server import (
    BodyTooLarge,
    ClientGone,
    Exchange,
    Response,
    serve_connection,
)

PROTO_TYPE: Final = "application/proto"
JSON_TYPE: Final = "application/json"
READ_TIMEOUT: Final = 75
"""Seconds for a whole request to arrive, from the end of the last one: idle connections end."""
MIN_COMPRESSED: Final = 1024
"""Bytes from which on a response is compressed for those who can read it."""

STATUS_OF: Final = {
    "invalid_argument": 400,
    "unauthenticated": 401,
    "permission_denied": 403,
    "not_found": 404,
    "resource_exhausted": 429,
    "internal": 500,
    "unimplemented": 501,
    "unavailable": 503,
}

_log = logging.getLogger("trio_dispatch.remote")


class Refused(Exception):
    """A request is answered by an error of Connect.

    Args:
        code: Connect's word for it.
        message: for people.
        status: of HTTP (default: the one that belongs to *code*).
    """

    def __init__(self, code: str, message: str, status: int | None = None) -> None:
        super().__init__(code, message, status)
        self.code = code
        self.message = message
        self.status = STATUS_OF[code] if status is None else status


@attrs.frozen
class Call:
    """One request, as its method gets it. Header names are lower-case."""

    headers: dict[str, str]
    body: bytes
    """As it came: compressed, if it is."""
    message: bytes
    """The body, decompressed."""


Method = Callable[[Call], Awaitable[bytes]]
"""Answers a call. It may raise `Refused`, and is cancelled when the caller leaves."""


class Busy:
    """Counts the calls that are not answered yet."""

    def __init__(self) -> None:
        self._count = 0
        self._idle = trio.Event()
        self._idle.set()

    def __enter__(self) -> None:
        if self._count == 0:
            self._idle = trio.Event()
        self._count += 1

    def __exit__(self, *exc: object) -> None:
        self._count -= 1
        if self._count == 0:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until all calls are answered."""
        while self._count:
            await self._idle.wait()


async def serve_unary(
    stream: trio.abc.Stream,
    paths: Collection[str],
    method: Method,
    max_body_size: int,
    busy: Busy | None = None,
) -> None:
    """Serve *method* at *paths* until either side ends the connection, which is then closed.

    Whatever comes over it, and whatever *method* raises, ends this connection alone: only
    cancellation and interrupts come out.
    """
    await serve_connection(
        stream,
        partial(_handle, paths, method, max_body_size, busy or Busy()),
        logger=_log,
        max_body_size=max_body_size,
        read_timeout=READ_TIMEOUT,
    )


async def _handle(
    paths: Collection[str], method: Method, max_body_size: int, busy: Busy, exchange: Exchange
) -> None:
    with busy:
        await _answer(paths, method, max_body_size, exchange)


async def _answer(
    paths: Collection[str], method: Method, max_body_size: int, exchange: Exchange
) -> None:
    try:
        call = await _read(paths, max_body_size, exchange)
        message = await _while_there(exchange, partial(method, call))
    except Refused as exc:
        body = json.dumps({"code": exc.code, "message": exc.message}).encode()
        headers = [("Content-Type", JSON_TYPE)]
        if exc.status == 405:
            headers.append(("Allow", "POST"))
        if exc.status == 415:
            headers.append(("Accept-Post", PROTO_TYPE))
        await exchange.respond(Response(exc.status, headers, body))
        return
    headers = [("Content-Type", PROTO_TYPE), ("Accept-Encoding", "gzip")]
    if len(message) >= MIN_COMPRESSED and _takes_gzip(call.headers.get("accept-encoding", "")):
        message = gzip.compress(message, 1)
        headers.append(("Content-Encoding", "gzip"))
    await exchange.respond(Response(200, headers, message))


async def _read(paths: Collection[str], max_body_size: int, exchange: Exchange) -> Call:
    request = exchange.request
    if request.target.partition("?")[0] not in paths:
        raise Refused("not_found", f"there is nothing at {request.target}")
    if request.method != "POST":
        raise Refused("unimplemented", f"{request.method} is not a method of this service", 405)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        text = f"this service does not speak Connect's JSON codec; send {PROTO_TYPE}"
        raise Refused("invalid_argument", text, 415)
    if kind not in {PROTO_TYPE, "application/octet-stream", ""}:
        raise Refused("invalid_argument", f"this service speaks {PROTO_TYPE}, not {kind}", 415)
    try:
        body = await exchange.read_body()
    except BodyTooLarge:
        raise _too_large(max_body_size) from None
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip"}:
        text = f"this service reads the encodings gzip and identity, not {encoding}"
        raise Refused("unimplemented", text)
    message = body if encoding == "identity" else _gunzip(body, max_body_size)
    return Call(dict(request.headers), body, message)


def _gunzip(data: bytes, limit: int) -> bytes:
    reader = zlib.decompressobj(wbits=31)
    try:
        message = reader.decompress(data, limit + 1)
    except zlib.error as exc:
        raise Refused("invalid_argument", f"the body is no gzip: {exc}") from exc
    if len(message) > limit:
        raise _too_large(limit)
    if not reader.eof or reader.unused_data:
        raise Refused("invalid_argument", "the body is no gzip: it ends too early or too late")
    return message


def _too_large(limit: int) -> Refused:
    return Refused("resource_exhausted", f"the body is larger than {limit} bytes", 413)


def _takes_gzip(accepted: str) -> bool:
    return any(part.partition(";")[0].strip() == "gzip" for part in accepted.lower().split(","))


async def _while_there(exchange: Exchange, answer: Callable[[], Awaitable[bytes]]) -> bytes:
    """Run *answer* as long as the client is there. Raises `ClientGone` when it has left."""
    message: bytes | None = None
    refused: Refused | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            await exchange.wait_left()
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        try:
            message = await answer()
        except Refused as exc:
            refused = exc
        nursery.cancel_scope.cancel()
    if refused is not None:
        raise refused
    if message is None:
        raise ClientGone
    return message
