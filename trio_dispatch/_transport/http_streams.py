"""httpx over any trio stream: for servers in memory, and for those behind a SOCKS proxy."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager

import httpcore
import httpx
import trio

from trio_dispatch._transport.closing import close_now
from trio_dispatch._wire.url import Address


class _NetworkStream(httpcore.AsyncNetworkStream):
    """A stream for httpcore. Timeouts are left to the caller's cancel scopes."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.ReadError(str(exc)) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002
        try:
            await self._stream.send_all(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.WriteError(str(exc)) from exc

    async def aclose(self) -> None:
        await close_now(self._stream)


class _Backend(httpcore.AsyncNetworkBackend):
    def __init__(self, connect: Callable[[], Awaitable[trio.abc.Stream]]) -> None:
        self._connect = connect

    async def connect_tcp(
        self,
        host: str,  # noqa: ARG002
        port: int,  # noqa: ARG002
        timeout: float | None = None,
        local_address: str | None = None,  # noqa: ARG002
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,  # noqa: ARG002
    ) -> httpcore.AsyncNetworkStream:
        try:
            with trio.fail_after(float("inf") if timeout is None else timeout):
                return _NetworkStream(await self._connect())
        except trio.TooSlowError as exc:
            raise httpcore.ConnectTimeout(str(exc)) from exc
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise httpcore.ConnectError(str(exc)) from exc


class StreamTransport(httpx.AsyncBaseTransport):
    """A transport that connects to *address* with *connector*, which also does the TLS."""

    def __init__(
        self, address: Address, connector: Callable[[Address], Awaitable[trio.abc.Stream]]
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=None,
            # The pool cannot see when an idle stream has ended, and a new one costs nothing.
            max_keepalive_connections=0,
            network_backend=_Backend(lambda: connector(address)),
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*."""
        url = request.url
        with _errors():
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(
                        scheme=b"http", host=url.raw_host, port=url.port, target=url.raw_path
                    ),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=_Body(response),
            extensions=response.extensions,  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncGenerator[bytes, None]:
        with _errors():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        await self._response.aclose()


@contextmanager
def _errors() -> Generator[None, None, None]:
    """Convert httpcore's errors into httpx's, which have the same names."""
    try:
        yield
    except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as exc:
        kind: type[httpx.HTTPError] = getattr(httpx, type(exc).__name__)
        raise kind(str(exc)) from exc
