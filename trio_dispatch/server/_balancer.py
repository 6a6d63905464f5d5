"""A load balancer in front of a cluster, as haproxy or nginx is.

It passes bytes on, and knows of HTTP only what it needs to refuse a request.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Final, final

import trio

from trio_dispatch._transport.block import open_background
from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.listening import serve_listeners
from trio_dispatch._transport.pipe import pipe
from trio_dispatch.server._node import open_port, url_host

_ROOM: Final = 64 * 1024
_CHUNK: Final = 64 * 1024
_MAX_HEAD: Final = 64 * 1024
_REASONS: Final = {
    502: ("Bad Gateway", "The server returned an invalid or incomplete response."),
    503: ("Service Unavailable", "No server is available to handle this request."),
    504: ("Gateway Time-out", "The server didn't respond in time."),
}

Reach = Callable[[], Awaitable[trio.abc.HalfCloseableStream]]


@final
class Refusal:
    """What a balancer answers instead of passing a connection on; ends with its block."""

    def __init__(
        self, refusals: list[Refusal], status: int, times: int | None, retry_after: float | None
    ) -> None:
        self._refusals = refusals
        self.status = status
        self.remaining = times
        """How many connections it is still for; None for every one."""
        self.retry_after = retry_after
        self.applied = 0
        """How many connections it has met."""
        refusals.append(self)

    def end(self) -> None:
        """Let it happen no more. Idempotent."""
        if self in self._refusals:
            self._refusals.remove(self)

    def use(self) -> None:
        """Count one connection."""
        self.applied += 1
        if self.remaining is not None:
            self.remaining -= 1
            if not self.remaining:
                self.end()

    def __enter__(self) -> Refusal:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end()


class _Connection:
    """One connection through the balancer."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.active_at = trio.current_time()


@final
class Balancer:
    """Stands in front of the servers of a `Cluster`, round robin. Clusters make these.

    Each connection goes to the next server that is running. A server that is frozen still gets
    connections, as its operating system accepts them.

    Attributes:
        idle_timeout: seconds after which a connection that carries nothing in either direction is
            cut; None for never. Counts for connections that are made from then on. Stock haproxy
            has 50, nginx 60.
    """

    def __init__(
        self, choose: Callable[[], Reach | None], nursery: Callable[[], trio.Nursery], path: str
    ) -> None:
        self.idle_timeout: float | None = None
        self._choose = choose
        self._nursery = nursery
        self._path = path
        self._connections: dict[_Connection, None] = {}
        self._refusals: list[Refusal] = []

    def __repr__(self) -> str:
        return f"<Balancer: {len(self._connections)} connections>"

    @property
    def connections(self) -> int:
        """How many connections go through it."""
        return len(self._connections)

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory. The cluster must be running.

        Raises:
            RuntimeError: the cluster is not running.
        """
        nursery = self._nursery()
        await trio.lowlevel.checkpoint()
        ours, theirs = pipe(_ROOM)
        nursery.start_soon(self._serve, ours)
        return theirs

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Listen on a TCP port for the length of the block; gives the WebSocket's URL.

        The cluster must be running. What the block raises comes out unchanged.
        """
        listeners, bound = await open_port(host, port)
        async with open_background() as nursery:
            await nursery.start(serve_listeners, self._serve, listeners)
            yield f"ws://{url_host(host)}:{bound}{self._path}"

    def refuse(
        self,
        status: int = 503,
        *,
        times: int | None = None,
        retry_after: float | None = None,
    ) -> Refusal:
        """Answer further connections with an HTTP error and a page of HTML, as balancers do.

        Args:
            status: 502, 503 or 504.
            times: for so many connections; None for all, until the `Refusal` ends, which is a
                context manager.
            retry_after: seconds for a ``Retry-After`` header.

        Raises:
            ValueError: there is no such status, or *times* is less than 1.
        """
        if status not in _REASONS:
            raise ValueError("status must be 502, 503 or 504")
        if times is not None and times < 1:
            raise ValueError("times must be at least 1; None for every connection")
        return Refusal(self._refusals, status, times, retry_after)

    def reload(self) -> int:
        """Cut all connections, as a reload of its configuration does; returns how many."""
        count = len(self._connections)
        for connection in list(self._connections):
            connection.scope.cancel()
        return count

    async def _serve(self, client: trio.abc.HalfCloseableStream) -> None:
        connection = _Connection()
        self._connections[connection] = None
        try:
            with connection.scope:
                await self._pass_on(client, connection)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            del self._connections[connection]
            await close_now(client)

    async def _pass_on(self, client: trio.abc.HalfCloseableStream, connection: _Connection) -> None:
        refusal = self._refusals[0] if self._refusals else None
        if refusal is not None:
            refusal.use()
            await _refuse(client, refusal.status, refusal.retry_after)
            return
        reach = self._choose()
        try:
            server = None if reach is None else await reach()
        except OSError:  # it was stopped in this moment
            server = None
        if server is None:
            await _refuse(client, 503, None)
            return
        try:
            async with trio.open_nursery() as nursery:
                if self.idle_timeout is not None:
                    nursery.start_soon(self._watch, connection, self.idle_timeout)
                nursery.start_soon(_pump, client, server, connection)
                await _pump(server, client, connection)
                # The server has ended the connection; what it said has been passed on.
                nursery.cancel_scope.cancel()
        finally:
            await close_now(server)

    async def _watch(self, connection: _Connection, timeout: float) -> None:
        while True:
            deadline = connection.active_at + timeout
            if trio.current_time() >= deadline:
                connection.scope.cancel()
            await trio.sleep_until(deadline)


async def _pump(
    source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream, connection: _Connection
) -> None:
    """Pass on what comes from *source*, its end included; a broken stream ends the connection."""
    try:
        while data := await source.receive_some(_CHUNK):
            await target.send_all(data)
            connection.active_at = trio.current_time()
        await target.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        connection.scope.cancel()


async def _refuse(
    client: trio.abc.HalfCloseableStream, status: int, retry_after: float | None
) -> None:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MAX_HEAD:
        data = await client.receive_some(_CHUNK)
        if not data:
            return
        head += data
    reason, text = _REASONS[status]
    retry = "" if retry_after is None else f"Retry-After: {retry_after:g}\r\n"
    page = f"<html><body><h1>{status} {reason}</h1>\n{text}\n</body></html>\n"
    answer = (
        f"HTTP/1.1 {status} {reason}\r\nContent-Length: {len(page)}\r\n"
        f"Cache-Control: no-cache\r\nConnection: close\r\n{retry}Content-Type: text/html\r\n\r\n"
    )
    await client.send_all((answer + page).encode())
    await client.send_eof()
