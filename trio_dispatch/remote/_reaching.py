"""How a service reaches endpoints: over HTTP, or in memory; and what each way to fail means."""

from __future__ import annotations

import math
import socket
import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import httpx
import trio

from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.httpx_tools import Once
from trio_dispatch._transport.pipe import pipe
from trio_dispatch._transport.reasons import why
from trio_dispatch._transport.tls import default_context
from trio_dispatch._wire.url import Address, parse_url
from trio_dispatch.remote._call import host_of, signed_url
from trio_dispatch.remote._client import connect_error
from trio_dispatch.remote._connect import PROTO_TYPE
from trio_dispatch.remote._endpoint import Endpoint
from trio_dispatch.remote._messages import RUN_PATH, RunResponse, Status
from trio_dispatch.remote._signatures import Signer

CLOSING_TIME: Final = 0.5
"""Seconds for closing a response."""

MEMORY: Final = parse_url("http://endpoint.memory", "http")

_OF_CODE: Final = {
    "aborted": Status.TEMPORARY_ERROR,
    "canceled": Status.TIMEOUT,
    "deadline_exceeded": Status.TIMEOUT,
    "internal": Status.TEMPORARY_ERROR,
    "invalid_argument": Status.INVALID_ARGUMENT,
    "not_found": Status.NOT_FOUND,
    "out_of_range": Status.INVALID_ARGUMENT,
    "permission_denied": Status.PERMISSION_DENIED,
    "resource_exhausted": Status.THROTTLED,
    "unauthenticated": Status.UNAUTHENTICATED,
    "unavailable": Status.TEMPORARY_ERROR,
    "unimplemented": Status.NOT_FOUND,
    "unknown": Status.TEMPORARY_ERROR,
}
"""What Connect's codes mean; the others are permanent errors."""

_OF_HTTP: Final = {
    400: Status.INVALID_ARGUMENT,
    401: Status.UNAUTHENTICATED,
    403: Status.PERMISSION_DENIED,
    404: Status.NOT_FOUND,
    408: Status.TIMEOUT,
    413: Status.INVALID_ARGUMENT,
    415: Status.INVALID_ARGUMENT,
    429: Status.THROTTLED,
    504: Status.TIMEOUT,
}
"""What answers without Connect's body mean; the others are errors of HTTP."""


class AttemptFailed(Exception):
    """An endpoint was not reached, or has not answered as an endpoint does."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message.encode("utf-8", "backslashreplace").decode()


class Reach:
    """Runs functions at their endpoints.

    Args:
        nursery: for endpoints in memory.
        signer: signs all requests.
        routes: URLs of endpoints, and where they really are.
        max_answer_size: bytes of an endpoint's answer.
    """

    def __init__(
        self,
        nursery: trio.Nursery,
        signer: Signer,
        routes: dict[str, str],
        max_answer_size: int,
    ) -> None:
        self._nursery = nursery
        self._signer = signer
        self._routes = routes
        self._max_answer_size = max_answer_size
        self._ssl = default_context()
        self._idle: list[httpx.AsyncBaseTransport] = []
        """One for each request at a time: what a pool does for each request grows with its
        connections."""
        self._memory: dict[str, httpx.AsyncBaseTransport] = {}

    def add(self, endpoint: Endpoint) -> None:
        """Reach *endpoint* in memory from now on."""
        self._memory[endpoint.url] = StreamTransport(MEMORY, partial(self._connect, endpoint))

    async def aclose(self) -> None:
        """Close all connections."""
        for transport in (*self._idle, *self._memory.values()):
            await transport.aclose()

    async def _connect(self, endpoint: Endpoint, address: Address) -> trio.abc.Stream:  # noqa: ARG002
        ours, theirs = pipe()
        self._nursery.start_soon(partial(endpoint.handle, theirs, nursery=self._nursery))
        return ours

    def problem(self, endpoint: str) -> str | None:
        """Why nothing can be at *endpoint*; None if it can."""
        if endpoint in self._memory or endpoint in self._routes or endpoint.startswith("http"):
            return None
        kind = "there is no tunnel" if endpoint.startswith("bridge") else "there is no Lambda"
        return f"{kind} {endpoint} here; name it in routes, or host the endpoint in memory"

    async def run(self, endpoint: str, body: bytes, seconds: float) -> Any:
        """Send a RunRequest, and return the RunResponse.

        Raises:
            AttemptFailed: there is none.
        """
        headers = {
            "host": host_of(endpoint),
            "content-type": PROTO_TYPE,
            "content-length": str(len(body)),
            "accept-encoding": "gzip",
            "connect-protocol-version": "1",
        }
        if seconds < math.inf:
            headers["connect-timeout-ms"] = str(max(int(seconds * 1000), 1))
        headers |= self._signer.sign(signed_url(endpoint, RUN_PATH), PROTO_TYPE, body)
        request = httpx.Request("POST", self._base(endpoint) + RUN_PATH, headers=headers)
        request.stream = Once(body)
        try:
            async with self._sent(endpoint, request) as response:
                answer = await self._read(response)
        except httpx.ConnectError as exc:
            text = f"cannot connect to {endpoint}: {why(exc)}"
            raise AttemptFailed(_of_connecting(exc), text) from exc
        except httpx.NetworkError as exc:
            text = f"lost the connection to {endpoint}: {why(exc)}"
            raise AttemptFailed(Status.TCP_ERROR, text) from exc
        except httpx.HTTPError as exc:
            text = f"{endpoint} does not speak HTTP as it should: {why(exc)}"
            raise AttemptFailed(Status.HTTP_ERROR, text) from exc
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if response.status_code != 200:
            raise _refused(endpoint, response.status_code, kind, answer)
        if kind != PROTO_TYPE:
            text = f"{endpoint} has answered with {kind or 'no type'}, not {PROTO_TYPE}"
            raise AttemptFailed(Status.HTTP_ERROR, text)
        try:
            return RunResponse.FromString(answer)
        except Exception as exc:  # protobuf raises its own, which has no public home
            text = f"{endpoint} has answered with what is no RunResponse: {exc}"
            raise AttemptFailed(Status.INVALID_RESPONSE, text) from exc

    def _base(self, endpoint: str) -> str:
        """Where requests to *endpoint* really go."""
        if endpoint not in self._memory:
            return self._routes.get(endpoint, endpoint)
        path = httpx.URL(endpoint).path.rstrip("/") if endpoint.startswith("http") else ""
        return f"http://{MEMORY.host}{path}"

    @asynccontextmanager
    async def _sent(
        self, endpoint: str, request: httpx.Request
    ) -> AsyncGenerator[httpx.Response, None]:
        if endpoint in self._memory:
            async with _sent(self._memory[endpoint], request) as response:
                yield response
            return
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=1)
        transport = (
            self._idle.pop()
            if self._idle
            else httpx.AsyncHTTPTransport(verify=self._ssl, limits=limits)
        )
        try:
            async with _sent(transport, request) as response:
                yield response
        finally:
            self._idle.append(transport)

    async def _read(self, response: httpx.Response) -> bytes:
        answer = bytearray()
        with trio.CancelScope() as scope:
            async for part in response.aiter_bytes():
                answer += part
                if len(answer) > self._max_answer_size:
                    scope.cancel()  # leaves no generator half-way, as breaking off would
        if len(answer) > self._max_answer_size:
            text = f"the answer is larger than {self._max_answer_size} bytes"
            raise AttemptFailed(Status.INVALID_RESPONSE, text)
        return bytes(answer)


@asynccontextmanager
async def _sent(
    transport: httpx.AsyncBaseTransport, request: httpx.Request
) -> AsyncGenerator[httpx.Response, None]:
    response = await transport.handle_async_request(request)
    try:
        yield response
    finally:
        # Cancelled, it must not replace what is raised; nothing that it waits for takes long.
        with trio.move_on_after(CLOSING_TIME, shield=True):
            await response.aclose()


def _of_connecting(exc: BaseException) -> Status:
    cause: BaseException | None = exc
    while cause is not None:
        if isinstance(cause, socket.gaierror):
            return Status.DNS_ERROR
        if isinstance(cause, ssl.SSLError):
            return Status.TLS_ERROR
        cause = cause.__cause__ or cause.__context__
    return Status.TCP_ERROR


def _refused(endpoint: str, status: int, kind: str, answer: bytes) -> AttemptFailed:
    code, message = connect_error(kind, answer)
    if code:
        found = _OF_CODE.get(code, Status.PERMANENT_ERROR)
        return AttemptFailed(found, f"{endpoint} has answered {code}: {message}")
    found = _OF_HTTP.get(status, Status.HTTP_ERROR)
    return AttemptFailed(found, f"{endpoint} has answered {status}: {message}")
