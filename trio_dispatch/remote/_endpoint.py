"""An endpoint: functions that the service calls."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit

import trio

from trio_dispatch._transport.block import in_background
from trio_dispatch._wire.arguments import check_count, check_seconds
from trio_dispatch.remote import _connect as connect
from trio_dispatch.remote._call import Call, check_endpoint, signed_url
from trio_dispatch.remote._client import Client, find_key, find_url, open_client
from trio_dispatch.remote._functions import Registered, register
from trio_dispatch.remote._messages import RUN_PATH, RunRequest, Status
from trio_dispatch.remote._runs import Runs, failed
from trio_dispatch.remote._statuses import Failure

F = TypeVar("F", bound=Callable[..., object])

_log = logging.getLogger("trio_dispatch.remote")


class Endpoint:
    """Functions that the service calls over HTTP.

    Args:
        url: where the service reaches it; what `call` puts into calls, and what signatures must
            have been made for (default: ``DISPATCH_ENDPOINT_URL``; if that is not set either, the
            address of `serve`).
        api_key, api_url: for `client`; as for `open_client`.
        verification_key: of the service, PEM or the base64 of its 32 bytes (default:
            ``DISPATCH_VERIFICATION_KEY``). If there is one, requests must be signed.
        max_concurrency: functions that run at once; further calls are told to come again
            (``THROTTLED``). A function that waits for calls of its own does not count.
        max_body_size: bytes of a request's body.

    Raises:
        ValueError: an argument cannot work.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        api_key: str | None = None,
        api_url: str | None = None,
        verification_key: str | None = None,
        max_concurrency: int = 100,
        max_body_size: int = 16 * 1024 * 1024,
    ) -> None:
        found = url or os.environ.get("DISPATCH_ENDPOINT_URL")
        self._url = check_endpoint(found) if found else None
        self._api_key = api_key
        self._api_url = api_url
        key = verification_key or os.environ.get("DISPATCH_VERIFICATION_KEY")
        self._verifier = None
        if key:
            # Only who checks signatures needs what checks them.
            from trio_dispatch.remote._signatures import Verifier, read_key

            self._verifier = Verifier(read_key(key))
        self._functions: dict[str, Registered] = {}
        self._places = check_count(max_concurrency, "max_concurrency")
        self._threads = trio.CapacityLimiter(max_concurrency)
        self._running = 0
        self._max_body_size = check_count(max_body_size, "max_body_size")
        self._runs = Runs()
        self._busy = connect.Busy()

    def __repr__(self) -> str:
        return f"<Endpoint {self._url or 'without a URL'} with {len(self._functions)} functions>"

    @property
    def url(self) -> str:
        """Where the service reaches it.

        Raises:
            ValueError: nobody has said so yet.
        """
        if self._url is None:
            raise ValueError(
                "the endpoint has no URL: pass url, set the environment variable "
                "DISPATCH_ENDPOINT_URL, or serve it first"
            )
        return self._url

    @overload
    def function(self, name: F, /) -> F: ...

    @overload
    def function(self, name: str | None = None) -> Callable[[F], F]: ...

    def function(self, name: F | str | None = None) -> F | Callable[[F], F]:
        """Register a function, by its own name or by *name*: a decorator, with or without ``()``.

        It is called with the decoded input, or without any if it takes none, and what it returns
        is the call's result; if that is a `Call`, the call goes on as that one (a tail call).
        An async function is cancelled when its call expires and when the caller leaves. Any other
        runs in a thread, which learns of that from `trio.from_thread.check_cancelled`.
        `FunctionError` ends the run with a status, and other exceptions with that of the table of
        `register_status`.

        Raises:
            TypeError: it takes more than one argument, or is a generator.
            ValueError: the name is taken, or no function can have it.
        """
        if name is not None and not isinstance(name, str):
            return self._register(None, name)
        return partial(self._register, name)

    def _register(self, name: str | None, function: F) -> F:
        registered = register(function, name, self._threads)
        if registered.name in self._functions:
            raise ValueError(f"there is a function called {registered.name!r} already")
        self._functions[registered.name] = registered
        return function

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
            ValueError: it has no URL.
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
    async def serve(
        self, host: str | None = None, port: int | None = None, *, grace: float = 0
    ) -> AsyncGenerator[str, None]:
        """Serve the functions for the length of the block; gives the address as a URL.

        Leaving the block cancels what is running, after *grace*. What the body raises comes out
        unchanged.

        Args:
            host: the address to listen on (default: that of ``DISPATCH_ENDPOINT_ADDR``, such as
                ``127.0.0.1:8000``, or else ``127.0.0.1``).
            port: the port (default: that of ``DISPATCH_ENDPOINT_ADDR``, or else 0, a free one).
            grace: seconds that functions have to end, and the service to get their results, when
                the body has come to its end without an error. Those that are suspended are not
                waited for.

        Raises:
            OSError: it cannot listen there.
            ValueError: ``DISPATCH_ENDPOINT_ADDR`` is no address, or *grace* is no time.
        """
        check_seconds(grace, "grace", zero=True)
        default_host, default_port = _find_address()
        listeners = await trio.open_tcp_listeners(
            default_port if port is None else port, host=default_host if host is None else host
        )
        address = listeners[0].socket.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        url = f"http://{shown}:{address[1]}"
        self._url = self._url or url
        async with in_background(partial(self._serve, listeners), nullcontext()):
            yield url
            if grace:
                with trio.move_on_after(grace):
                    await self._busy.wait_idle()

    async def _serve(
        self,
        listeners: list[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        async with trio.open_nursery() as nursery:
            handle = partial(self.handle, nursery=nursery)
            await trio.serve_listeners(handle, listeners, task_status=task_status)

    async def handle(self, stream: trio.abc.Stream, *, nursery: trio.Nursery | None = None) -> None:
        """Serve one connection, over any stream, until it ends.

        Args:
            stream: the connection, from its first byte on.
            nursery: where functions run. One that is suspended, as it waits for calls of its own,
                stays there when the connection ends. By default functions end with the connection,
                and start again when the service comes back for them.
        """
        if nursery is None:
            async with trio.open_nursery() as own:
                await self.handle(stream, nursery=own)
                own.cancel_scope.cancel()
            return
        base = urlsplit(self._url or "").path
        await connect.serve_unary(
            stream,
            {RUN_PATH, base + RUN_PATH},
            partial(self._answer, nursery),
            self._max_body_size,
            self._busy,
        )

    async def _answer(self, nursery: trio.Nursery, call: connect.Call) -> bytes:
        if self._verifier is not None:
            from trio_dispatch.remote._signatures import BadSignature

            try:
                # Whatever the Host header says: it must have been signed for this endpoint.
                self._verifier.verify(signed_url(self.url, RUN_PATH), call.headers, call.body)
            except BadSignature as exc:
                code = "unauthenticated" if exc.missing else "permission_denied"
                raise connect.Refused(code, str(exc)) from exc
        try:
            request: Any = RunRequest.FromString(call.message)
        except Exception as exc:  # protobuf raises its own, which has no public home
            text = f"the body is no RunRequest: {exc}"
            raise connect.Refused("invalid_argument", text) from exc
        response = await self._run(nursery, request)
        data: bytes = response.SerializeToString()
        return data

    async def _run(self, nursery: trio.Nursery, request: Any) -> Any:
        function = self._functions.get(request.function)
        if function is None:
            text = f"no function {request.function!r}"
            return failed(Failure(Status.NOT_FOUND, "LookupError", text))
        if request.WhichOneof("directive") is None:
            text = "a call without an input"
            return failed(Failure(Status.INVALID_ARGUMENT, "ValueError", text))
        if self._running >= self._places:
            text = f"{self._places} calls are running"
            return failed(Failure(Status.THROTTLED, "Throttled", text))
        self._running += 1
        try:
            return await self._runs.run(request, function, nursery)
        finally:
            self._running -= 1


def _find_address() -> tuple[str, int]:
    """Host and port of the environment, or the defaults."""
    found = os.environ.get("DISPATCH_ENDPOINT_ADDR")
    if not found:
        return "127.0.0.1", 0
    host, colon, port = found.rpartition(":")
    if not colon or not port.isdecimal() or int(port) > 65535:
        raise ValueError(f"DISPATCH_ENDPOINT_ADDR is no address like 127.0.0.1:8000: {found!r}")
    return host.removeprefix("[").removesuffix("]") or "127.0.0.1", int(port)
