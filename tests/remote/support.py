"""A stand-in for the Dispatch API: it accepts calls, or does what a script says. Runs nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from trio_dispatch._transport.http_server import ClientGone
from trio_dispatch.remote._messages import DispatchRequest, DispatchResponse
from trio_dispatch.remote._serving import HttpRequest, HttpResponse, serve_http

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
