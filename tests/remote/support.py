"""A stand-in for the Dispatch API: it accepts calls, or does what a script says. Runs nothing."""

from __future__ import annotations

import itertools
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from trio_dispatch._transport.http_server import (
    BodyTooLarge,
    ClientGone,
    Exchange,
    Response,
    serve_connection,
)
from trio_dispatch.remote._messages import DispatchRequest, DispatchResponse


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
        stream, handle, logger=logging.getLogger("tests.remote"), max_body_size=max_body_size
    )


Step = HttpResponse | Callable[[], None]
"""An answer; or what is called before the connection ends without one."""


def ids(*found: str) -> HttpResponse:
    """The answer that accepts calls."""
    message = DispatchResponse(dispatch_ids=found)
    return HttpResponse(200, "application/proto", message.SerializeToString())


@attrs.define
class ApiService:
    """Answers as *script* says; after that with ids, if it *accepts*, and else never."""

    script: list[Step] = attrs.field(factory=list)
    accepts: bool = False
    url: str = ""
    requests: list[HttpRequest] = attrs.field(factory=list)
    arrived: trio.Event = attrs.field(factory=trio.Event)
    _numbers: itertools.count[int] = attrs.field(factory=lambda: itertools.count(1))

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.requests.append(request)
        self.arrived.set()
        if not self.script and self.accepts:
            calls = DispatchRequest.FromString(request.body).calls
            return ids(*(f"call_{next(self._numbers):04}" for _ in calls))
        if not self.script:
            await trio.sleep_forever()
        step = self.script.pop(0)
        if isinstance(step, HttpResponse):
            return step
        step()
        raise ClientGone

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str, None]:
        """Serve on loopback; gives the URL."""
        handler = partial(serve_http, answer=self.answer, max_body_size=2**20)
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
            self.url = f"http://127.0.0.1:{listener.socket.getsockname()[1]}"
            yield self.url
            nursery.cancel_scope.cancel()
