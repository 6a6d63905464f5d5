"""What a service is to an endpoint: it calls functions, and sees each answer as it is."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import attrs
import httpx
import trio

from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.pipe import pipe
from trio_dispatch._wire.url import parse_url
from trio_dispatch.remote import Endpoint, marshal
from trio_dispatch.remote._messages import RUN_PATH, RunRequest, RunResponse


def run_request(function: str, input: object = None) -> bytes:
    request = RunRequest(function=function, dispatch_id="id-1")
    packed = marshal(input)
    request.input.type_url, request.input.value = packed.type_url, packed.value
    data: bytes = request.SerializeToString()
    return data


@attrs.frozen
class Caller:
    """What a service is to an endpoint."""

    http: httpx.AsyncClient
    url: str

    async def post(self, body: bytes, path: str = RUN_PATH, **headers: str) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        named.setdefault("content-type", "application/proto")
        return await self.http.post(self.url + path, content=body, headers=named)

    async def run(self, function: str, input: object = None) -> Any:
        answer = await self.post(run_request(function, input))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/proto"
        return RunResponse.FromString(answer.content)


@asynccontextmanager
async def calling(endpoint: Endpoint) -> AsyncGenerator[Caller, None]:
    async with (
        endpoint.serve() as url,
        httpx.AsyncClient(timeout=20, trust_env=False) as http,
    ):
        yield Caller(http, url)


@asynccontextmanager
async def calling_in_memory(endpoint: Endpoint) -> AsyncGenerator[Caller, None]:
    """The same without a socket, for any clock."""
    async with trio.open_nursery() as nursery:

        async def connect(address: object) -> trio.abc.Stream:
            ours, theirs = pipe()
            nursery.start_soon(partial(endpoint.handle, theirs, nursery=nursery))
            return ours

        transport = StreamTransport(parse_url(endpoint.url, "http"), connect)
        async with httpx.AsyncClient(transport=transport, timeout=None) as http:
            yield Caller(http, "http://a.example")
        nursery.cancel_scope.cancel()


def make(**options: Any) -> Endpoint:
    endpoint = Endpoint("http://a.example/base/", **options)

    @endpoint.function()
    async def double(value: Any) -> object:
        return value * 2

    return endpoint
