"""Requests of HTTP/1.1, one after another, over any stream: whole bodies in, whole bodies out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import attrs
import h11
import trio

READ_SIZE: Final = 64 * 1024
READ_TIMEOUT: Final = 75
"""Seconds for a whole request to arrive, from the end of the last one: idle connections end."""


@attrs.frozen
class HttpRequest:
    """A request with its body. Header names are lower-case; repeated ones are joined."""

    method: str
    target: str
    headers: dict[str, str]
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
    """Answer the requests that come over *stream*, until either side ends it. Closes it."""
    http = h11.Connection(h11.SERVER)
    try:
        while True:
            request = None
            with trio.move_on_after(READ_TIMEOUT):
                request = await _read(stream, http, max_body_size)
            if request is None:
                return
            if len(request.body) > max_body_size:
                response = HttpResponse(413, "text/plain", b"the body is too large\n")
            else:
                response = await answer(request)
            await _write(stream, http, response, request.method)
            if http.our_state is not h11.DONE or http.their_state is not h11.DONE:
                return
            http.start_next_cycle()
    except h11.RemoteProtocolError as exc:
        if http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            text = f"{exc}\n".encode()
            await _write(stream, http, HttpResponse(exc.error_status_hint, "text/plain", text))
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


async def _read(
    stream: trio.abc.Stream, http: h11.Connection, max_body_size: int
) -> HttpRequest | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = http.next_event()
        if event is h11.NEED_DATA:
            if http.they_are_waiting_for_100_continue:
                go_on = http.send(h11.InformationalResponse(status_code=100, headers=[]))
                await stream.send_all(go_on or b"")
            http.receive_data(bytes(await stream.receive_some(READ_SIZE)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            break
        else:
            return None
        if len(body) > max_body_size:
            break  # no more of it is read; the response closes the connection
    assert head is not None
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return HttpRequest(
        head.method.decode("ascii"), head.target.decode("latin-1"), headers, bytes(body)
    )


async def _write(
    stream: trio.abc.Stream, http: h11.Connection, response: HttpResponse, method: str = ""
) -> None:
    headers = [
        ("Content-Type", response.content_type),
        ("Content-Length", str(len(response.body))),
    ]
    if http.their_state is not h11.DONE:
        headers.append(("Connection", "close"))
    data = http.send(h11.Response(status_code=response.status, headers=headers)) or b""
    if method != "HEAD":
        data += http.send(h11.Data(data=response.body)) or b""
    data += http.send(h11.EndOfMessage()) or b""
    await stream.send_all(data)
