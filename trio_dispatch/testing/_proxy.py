"""A man in the middle, who does to a connection what networks do."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Final, Literal
from urllib.parse import urlsplit, urlunsplit

import attrs
import trio

from trio_dispatch._transport.block import open_background
from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.needs_trio import check_trio
from trio_dispatch._transport.pipe import PipeEnd, pipe

Direction = Literal["to_server", "to_client"]
Where = Literal["to_server", "to_client", "both"]
How = Literal["reset", "eof"]

DIRECTIONS: Final[tuple[Direction, ...]] = ("to_server", "to_client")
_CHUNK: Final = 16 * 1024


@attrs.frozen
class Fault:
    """Something that a proxy did.

    Attributes:
        at: when, by `trio.current_time`.
        kind: ``drop``, ``refuse``, ``stall``, ``resume``, ``slow``, ``cut``, ``corrupt``, ``heal``.
        detail: what exactly, in words.
    """

    at: float
    kind: str
    detail: str = ""


@attrs.frozen(kw_only=True)
class ProxyStatistics:
    """What has gone through a proxy, and what has not."""

    open: int
    """Connections that are open."""
    accepted: int
    refused: int
    dropped: int
    to_server: int
    """Bytes passed on to the server."""
    to_client: int
    """Bytes passed on to the client."""


class _Way:
    """How one direction of all connections is treated."""

    def __init__(self) -> None:
        self.stalled = False
        self.bytes_per_second: float | None = None
        self.corrupt = 0
        self.passed = 0
        self.changed = trio.Event()

    def change(self) -> None:
        self.changed.set()
        self.changed = trio.Event()


class _Connection:
    """One connection through the proxy."""

    def __init__(self, client: trio.abc.Stream, server: trio.abc.Stream) -> None:
        self.client = client
        self.server = server
        self.cut_after: dict[Direction, int] = {}
        self.scope = trio.CancelScope()
        self.how: How = "reset"


class FaultyProxy:
    """Stands between clients and a server, and does what networks do. See `listen`, `in_memory`.

    All faults are plain calls with effect at once, on every connection that is open, unless they
    say otherwise. Bytes keep their order, and none are lost but with their connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[trio.abc.Stream]], url: str) -> None:
        self._connect = connect
        self.url = url
        """What clients connect to."""
        self._nursery: trio.Nursery
        self._open: set[_Connection] = set()
        self._ways: dict[Direction, _Way] = {name: _Way() for name in DIRECTIONS}
        self._refusing: float = 0
        self._cuts: list[tuple[Direction, int, How]] = []
        self._accepted = self._refused = self._dropped = 0
        self._rng = random.Random(0)
        self._left = False
        self.log: list[Fault] = []
        """Everything that it did, in order."""

    # Making one.

    @classmethod
    @asynccontextmanager
    async def in_memory(
        cls, open_stream: Callable[[], Awaitable[trio.abc.Stream]]
    ) -> AsyncGenerator[FaultyProxy, None]:
        """Stand in front of a server in memory, for the length of the block.

        Args:
            open_stream: opens a stream to the server, as ``Server.open_stream`` of the embedded
                server does. Clients use the proxy's own `open_stream`.
        """
        proxy = cls(open_stream, "ws://localhost/dwp")
        async with proxy._running():
            yield proxy

    @classmethod
    @asynccontextmanager
    async def listen(
        cls, url: str, *, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncGenerator[FaultyProxy, None]:
        """Stand in front of the server at *url*, on a TCP port, for the length of the block.

        Only bytes are passed on, so TLS goes through, to a certificate of another name. A refused
        connection is accepted and reset at once.

        Args:
            url: the server's; `FaultyProxy.url` is the same with the proxy's host and port.
            host: where to listen.
            port: where to listen; 0 for a free one.
        """
        check_trio("FaultyProxy")
        parts = urlsplit(url)
        target = parts.hostname or "127.0.0.1"
        target_port = parts.port or (443 if parts.scheme in ("wss", "https") else 80)

        async def connect() -> trio.abc.Stream:
            return await trio.open_tcp_stream(target, target_port)

        listener, *others = await trio.open_tcp_listeners(port, host=host)
        for other in others:  # one URL, one address
            await other.aclose()
        bound = listener.socket.getsockname()[1]
        place = f"[{host}]:{bound}" if ":" in host else f"{host}:{bound}"
        proxy = cls(connect, urlunsplit(parts._replace(netloc=place)))
        async with proxy._running():
            await proxy._nursery.start(trio.serve_listeners, proxy._accept_tcp, [listener])
            yield proxy

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory.

        Raises:
            ConnectionRefusedError: the proxy refuses, or the server does.
        """
        await trio.lowlevel.checkpoint()
        if self._refuses() or self._left:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "the proxy refuses connections")
        ours, theirs = pipe()
        self._nursery.start_soon(self._serve, await self._begin(ours))
        return theirs

    # What it can do.

    def drop(self, how: How = "reset") -> int:
        """Cut every open connection, at once. Returns how many.

        Args:
            how: ``"reset"``: as if the peer had crashed; reading and writing fail, and what is on
                its way is lost. ``"eof"``: as if it had closed; what the proxy has passed on
                arrives first. Over TCP an end that has not read all becomes a reset.
        """
        _check(how, "how", ("reset", "eof"))
        connections = list(self._open)
        for connection in connections:
            self._end(connection, how)
        self._note("drop", f"{len(connections)} by {how}")
        return len(connections)

    def refuse(self, times: int | None = None) -> None:
        """Refuse the next *times* connections, or all until `accept`."""
        if times is not None and times < 0:
            raise ValueError(f"times is not negative: {times}")
        self._refusing = float("inf") if times is None else times
        self._note("refuse", "all" if times is None else f"the next {times}")

    def accept(self) -> None:
        """Refuse no more."""
        self._refusing = 0

    def stall(self, where: Where = "both") -> None:
        """Pass nothing on, and close nothing: half-open, as behind a dead router.

        Bytes wait until `resume`, and push back when 64 KiB or so are waiting; what the proxy is
        passing on already still goes. Connections that are made meanwhile stall too. A side that
        breaks its connection breaks the other one all the same.
        """
        for way in self._which(where):
            way.stalled = True
            way.change()
        self._note("stall", where)

    def resume(self, where: Where = "both") -> None:
        """Pass on again, what waits first."""
        for way in self._which(where):
            way.stalled = False
            way.change()
        self._note("resume", where)

    def slow(self, bytes_per_second: float | None, where: Where = "both") -> None:
        """Pass on no more than so many bytes in a second; None for no limit."""
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise ValueError("bytes_per_second is above zero; stall() passes nothing on")
        for way in self._which(where):
            way.bytes_per_second = bytes_per_second
            way.change()
        self._note("slow", f"{where}: {bytes_per_second}")

    def cut_after(self, count: int, direction: Direction, how: How = "eof") -> None:
        """Cut the next connection when *count* bytes have gone in *direction*.

        By ``"eof"`` exactly so many can be read, and nothing after them. By ``"reset"`` no more
        than so many; what is not yet read may be lost.
        """
        _check(direction, "direction", DIRECTIONS)
        _check(how, "how", ("reset", "eof"))
        if count < 0:
            raise ValueError("count is not negative")
        self._cuts.append((direction, count, how))

    def corrupt(self, direction: Direction, count: int = 1) -> None:
        """Flip a bit in each of the next *count* bytes that go in *direction*."""
        _check(direction, "direction", DIRECTIONS)
        self._ways[direction].corrupt += count
        self._note("corrupt", f"{direction}: {count}")

    def heal(self) -> None:
        """Take back every fault: accept, resume, and forget what was to come."""
        self._refusing = 0
        self._cuts.clear()
        for way in self._ways.values():
            way.stalled = False
            way.bytes_per_second = None
            way.corrupt = 0
            way.change()
        self._note("heal")

    def statistics(self) -> ProxyStatistics:
        """Count what has gone through."""
        return ProxyStatistics(
            open=len(self._open),
            accepted=self._accepted,
            refused=self._refused,
            dropped=self._dropped,
            to_server=self._ways["to_server"].passed,
            to_client=self._ways["to_client"].passed,
        )

    # Inside.

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[None, None]:
        async with open_background() as self._nursery:
            try:
                yield
            finally:
                self._left = True

    def _which(self, where: Where) -> Iterator[_Way]:
        _check(where, "where", (*DIRECTIONS, "both"))
        for name in DIRECTIONS:
            if where in (name, "both"):
                yield self._ways[name]

    def _note(self, kind: str, detail: str = "") -> None:
        self.log.append(Fault(trio.current_time(), kind, detail))

    def _refuses(self) -> bool:
        if self._refusing <= 0:
            return False
        self._refusing -= 1
        self._refused += 1
        return True

    async def _accept_tcp(self, client: trio.SocketStream) -> None:
        if self._refuses():
            _close_now(client, "reset")
            return
        try:
            connection = await self._begin(client)
        except OSError:  # the server is not there
            _close_now(client, "reset")
        else:
            await self._serve(connection)

    async def _begin(self, client: trio.abc.Stream) -> _Connection:
        connection = _Connection(client, await self._connect())
        if self._cuts:
            direction, count, connection.how = self._cuts.pop(0)
            connection.cut_after[direction] = count
        self._accepted += 1
        self._open.add(connection)
        return connection

    def _end(self, connection: _Connection, how: How) -> None:
        if connection in self._open:
            self._open.discard(connection)
            self._dropped += 1
            connection.how = how
            for stream in (connection.client, connection.server):
                _close_now(stream, how)
            connection.scope.cancel()

    async def _serve(self, connection: _Connection) -> None:
        try:
            with connection.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(
                        self._relay, connection, "to_server", connection.client, connection.server
                    )
                    nursery.start_soon(
                        self._relay, connection, "to_client", connection.server, connection.client
                    )
        finally:
            self._open.discard(connection)
            how = connection.how if connection.scope.cancel_called else "eof"
            for stream in (connection.client, connection.server):
                _close_now(stream, how)
            for stream in (connection.client, connection.server):
                await close_now(stream)

    async def _relay(
        self,
        connection: _Connection,
        direction: Direction,
        source: trio.abc.Stream,
        sink: trio.abc.Stream,
    ) -> None:
        way = self._ways[direction]
        try:
            if connection.cut_after.get(direction) == 0:
                self._cut(connection, direction)
            while data := bytes(await source.receive_some(_CHUNK)):
                while data:
                    piece, data = await self._next_piece(connection, direction, way, data)
                    await sink.send_all(piece)
                    way.passed += len(piece)
                    if (left := connection.cut_after.get(direction)) is not None:
                        connection.cut_after[direction] = left - len(piece)
                        if left == len(piece):
                            self._cut(connection, direction)
            await self._unstalled(way)
            if isinstance(sink, trio.abc.HalfCloseableStream):
                await sink.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            # One side has gone; so does the other, in the same manner.
            if not connection.scope.cancel_called:
                connection.how = "reset"
                connection.scope.cancel()

    async def _unstalled(self, way: _Way) -> None:
        while way.stalled:
            await way.changed.wait()

    async def _next_piece(
        self, connection: _Connection, direction: Direction, way: _Way, data: bytes
    ) -> tuple[bytes, bytes]:
        """Wait for the turn of the next bytes; returns them, and those behind them."""
        await self._unstalled(way)
        size = min(len(data), connection.cut_after.get(direction, len(data)))
        if way.bytes_per_second is not None:
            # A tenth of a second's worth at a time, so that a change takes effect soon.
            size = min(size, max(1, int(way.bytes_per_second / 10)))
            with trio.move_on_after(size / way.bytes_per_second) as waiting:
                await way.changed.wait()
            if not waiting.cancelled_caught:  # another speed, or a stall, from now on
                return await self._next_piece(connection, direction, way, data)
        piece, rest = data[:size], data[size:]
        if way.corrupt:
            count = min(way.corrupt, size)
            way.corrupt -= count
            flipped = bytes(byte ^ (1 << self._rng.randrange(8)) for byte in piece[:count])
            piece = flipped + piece[count:]
        return piece, rest

    def _cut(self, connection: _Connection, direction: Direction) -> None:
        self._note("cut", direction)
        self._end(connection, connection.how)


def _close_now(stream: trio.abc.Stream, how: How) -> None:
    """Close *stream* at once; by ``"reset"`` so that the other side sees it break."""
    if isinstance(stream, PipeEnd):
        if how == "reset":
            stream.reset()
        stream.close()
    elif isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
        if how == "reset":
            with contextlib.suppress(OSError):  # it may be dead already
                # With no time to linger, closing sends a reset.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


def _check(value: object, what: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}, not {value!r}")
