"""An endpoint: async functions that the service calls."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from inspect import iscoroutinefunction
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import trio

from trio_dispatch._transport.block import in_background
from trio_dispatch._transport.groups import leaves
from trio_dispatch._transport.listening import serve_listeners
from trio_dispatch._wire.arguments import check_count
from trio_dispatch.remote._call import Call, check_endpoint, check_function
from trio_dispatch.remote._client import PROTO_TYPE, Client, find_key, find_url, open_client
from trio_dispatch.remote._messages import RunRequest, RunResponse, Status
from trio_dispatch.remote._serving import HttpRequest, HttpResponse, serve_http
from trio_dispatch.remote._statuses import failure_of
from trio_dispatch.remote._values import marshal, unmarshal

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup

Function = Callable[[Any], Awaitable[object]]
F = TypeVar("F", bound=Function)

RUN_PATH: Final = "/dispatch.sdk.v1.FunctionService/Run"

_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, trio.Cancelled)

_log = logging.getLogger("trio_dispatch.remote")

_CODES: Final = {
    400: "invalid_argument",
    401: "unauthenticated",
    403: "permission_denied",
    404: "not_found",
    415: "invalid_argument",
}


class Endpoint:
    """Functions that the service calls over HTTP.

    Args:
        url: where the service reaches it; what `call` puts into calls, and what signatures cover.
        api_key, api_url: for `client`; as for `open_client`.
        verification_key: of the service, PEM or the base64 of its 32 bytes; that of
            ``DISPATCH_VERIFICATION_KEY`` without. Where there is one, requests must be signed.
        max_concurrency: functions that run at once; further calls are told to come again
            (``THROTTLED``).
        max_body_size: bytes of a request's body.

    Raises:
        ValueError: an argument cannot work.
    """

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        api_url: str | None = None,
        verification_key: str | None = None,
        max_concurrency: int = 100,
        max_body_size: int = 16 * 1024 * 1024,
    ) -> None:
        self.url = check_endpoint(url)
        self._api_key = api_key
        self._api_url = api_url
        key = verification_key or os.environ.get("DISPATCH_VERIFICATION_KEY")
        self._verifier = None
        if key:
            # Only who checks signatures needs what checks them.
            from trio_dispatch.remote._signatures import Verifier, read_key

            self._verifier = Verifier(read_key(key))
        self._functions: dict[str, Function] = {}
        self._places = check_count(max_concurrency, "max_concurrency")
        self._running = 0
        self._max_body_size = check_count(max_body_size, "max_body_size")

    def __repr__(self) -> str:
        return f"<Endpoint {self.url} with {len(self._functions)} functions>"

    def function(self, name: str | None = None) -> Callable[[F], F]:
        """Register an async function, by its own name or by *name*.

        It is called with the decoded input, and what it returns is the call's result.
        `FunctionError` ends the call with a status; all else that it raises is a permanent error.

        Raises:
            TypeError: it is not an async function.
            ValueError: the name is taken.
        """

        def register(function: F) -> F:
            if not _is_async(function):
                raise TypeError(f"an endpoint's function is an async function, not {function!r}")
            key = check_function(name or function.__name__)
            if key in self._functions:
                raise ValueError(f"there is a function called {key!r} already")
            self._functions[key] = function
            return function

        return register

    def call(
        self,
        function: str,
        input: object = None,
        *,
        expiration: timedelta | None = None,
        version: str = "",
        correlation_id: int = 0,
    ) -> Call:
        """Build a call of one of its own functions; the rest is as for `Call`.

        Raises:
            LookupError: it has no such function.
        """
        if function not in self._functions:
            raise LookupError(f"this endpoint has no function {function!r}")
        return Call(
            self.url,
            function,
            input,
            expiration=expiration,
            version=version,
            correlation_id=correlation_id,
        )

    def client(self, *, timeout: float = 30) -> AbstractAsyncContextManager[Client]:
        """Open a client of the Dispatch API with this endpoint's key, for the length of a block.

        Raises:
            ValueError: there is no key; at once, and not when the block is entered.
        """
        find_key(self._api_key)
        find_url(self._api_url)
        return open_client(self._api_key, self._api_url, timeout=timeout)

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Serve the functions for the length of the block; gives the address as a URL.

        Leaving the block cancels what is running. What the body raises comes out unchanged.
        """
        listeners = await trio.open_tcp_listeners(port, host=host)
        address = listeners[0].socket.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        async with in_background(partial(self._serve, listeners), nullcontext()):
            yield f"http://{shown}:{address[1]}"

    async def _serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        await serve_listeners(self.handle, listeners, task_status=task_status)

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection, over any stream, until it ends."""
        await serve_http(stream, self._answer, self._max_body_size)

    async def _answer(self, request: HttpRequest) -> HttpResponse:
        base = urlsplit(self.url).path
        if request.target.partition("?")[0] not in {RUN_PATH, base + RUN_PATH}:
            return _refusal(404, f"there is nothing at {request.target}")
        if request.method != "POST":
            return _refusal(404, f"{request.method} is not a method of this service")
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in {PROTO_TYPE, "application/octet-stream", ""}:
            return _refusal(415, f"this service speaks {PROTO_TYPE}, not {kind}")
        if self._verifier is not None:
            from trio_dispatch.remote._signatures import BadSignature

            try:
                # Whatever the Host header says: it must have been signed for this endpoint.
                self._verifier.verify(self.url + RUN_PATH, request.headers, request.body)
            except BadSignature as exc:
                return _refusal(401 if exc.missing else 403, str(exc))
        try:
            run = RunRequest.FromString(request.body)
        except Exception as exc:  # noqa: BLE001 - protobuf raises its own, which has no public home
            return _refusal(400, f"the body is no RunRequest: {exc}")
        response = await self._run(run)
        return HttpResponse(200, PROTO_TYPE, response.SerializeToString())

    async def _run(self, run: Any) -> Any:
        function = self._functions.get(run.function)
        if function is None:
            return _failure(Status.NOT_FOUND, "LookupError", f"no function {run.function!r}")
        if run.WhichOneof("directive") != "input":
            return _failure(Status.INVALID_ARGUMENT, "ValueError", "a call without an input")
        if self._running >= self._places:
            return _failure(Status.THROTTLED, "Throttled", f"{self._places} calls are running")
        self._running += 1
        try:
            try:
                argument = unmarshal(run.input)
            except ValueError as exc:
                return _failure(Status.INVALID_ARGUMENT, "ValueError", str(exc))
            output = await function(argument)
        except Exception as exc:  # noqa: BLE001 - users' code
            return self._failed(run.function, exc)
        except BaseExceptionGroup as group:
            if any(isinstance(leaf, _INTERRUPTS) for leaf in leaves(group)):
                raise
            return self._failed(run.function, group)
        except GeneratorExit as exc:
            return self._failed(run.function, exc)
        finally:
            self._running -= 1
        try:
            packed = marshal(output)
        except (TypeError, ValueError) as exc:
            text = f"a result that cannot be sent: {exc}"
            return _failure(Status.INVALID_RESPONSE, type(exc).__name__, text)
        response = RunResponse(status=Status.OK)
        response.exit.result.output.type_url = packed.type_url
        response.exit.result.output.value = packed.value
        return response

    def _failed(self, function: str, exc: BaseException) -> Any:
        failure = failure_of(exc)
        if failure.traceback:
            _log.warning("function %s failed: %s", function, failure.traceback.decode())
        return _failure(failure.status, failure.type, failure.message, failure.traceback)


def _is_async(function: object) -> bool:
    return iscoroutinefunction(function)


def _failure(status: Status, type: str, message: str, trace: bytes = b"") -> Any:
    response = RunResponse(status=status)
    error = response.exit.result.error
    error.type, error.message, error.traceback = type, message, trace
    return response


def _refusal(status: int, message: str) -> HttpResponse:
    body = json.dumps({"code": _CODES[status], "message": message}).encode()
    return HttpResponse(status, "application/json", body)
