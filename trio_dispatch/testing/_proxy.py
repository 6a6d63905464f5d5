"""A proxy between client and server that imitates a bad network."""

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
    """A fault that a proxy caused.

    Attributes:
        at: the time, by `trio.current_time`.
        kind: ``drop``, ``refuse``, ``stall``, ``resume``, ``slow``, ``cut``, ``corrupt``, ``heal``.
        detail: a description.
    """

    at: float
    kind: str
    detail: str = ""


@attrs.frozen(kw_only=True)
class ProxyStatistics:
    """Counts of the connections and bytes of a proxy."""

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
    """The faults of one direction of all connections."""

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
    """Runs between clients and a server, and imitates a bad network. See `listen`, `in_memory`.

    All faults are plain calls that take effect at once, on every open connection unless their
    description differs. Bytes keep their order, and are lost only with their connection.
    """

    def __init__(self, connect: Callable[[], Awaitable[trio.abc.Stream]], url: str) -> None:
        self._connect = connect
        self.url = url
        """The URL that clients connect to."""
        self._nursery: trio.Nursery
        self._open: set[_Connection] = set()
        self._ways: dict[Direction, _Way] = {name: _Way() for name in DIRECTIONS}
        self._refusing: float = 0
        self._cuts: list[tuple[Direction, int, How]] = []
        self._accepted = self._refused = self._dropped = 0
        self._rng = random.Random(0)
        self._left = False
        self.log: list[Fault] = []
        """All faults that it caused, in order."""

    # Making one.

    @classmethod
    @asynccontextmanager
    async def in_memory(
        cls, open_stream: Callable[[], Awaitable[trio.abc.Stream]]
    ) -> AsyncGenerator[FaultyProxy, None]:
        """Run in front of a server in memory, for the length of the block.

        Args:
            open_stream: opens a stream to the server, such as ``Server.open_stream`` of the
                embedded server. Clients use the proxy's own `open_stream`.
        """
        proxy = cls(open_stream, "ws://localhost/dwp")
        async with proxy._running():
            yield proxy

    @classmethod
    @asynccontextmanager
    async def listen(
        cls, url: str, *, host: str = "127.0.0.1", port: int = 0
    ) -> AsyncGenerator[FaultyProxy, None]:
        """Run in front of the server at *url*, on a TCP port, for the length of the block.

        The proxy passes on bytes only, so TLS works, but the certificate has another name. To
        refuse a connection, the proxy accepts it and resets it at once.

        Args:
            url: the server's URL; `FaultyProxy.url` is the same with the proxy's host and port.
            host: the host to listen on.
            port: the port to listen on; 0 for a free one.
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
            how: ``"reset"``: as if the peer had crashed; reading and writing fail, and bytes on
                their way are lost. ``"eof"``: as if the peer had closed; bytes that the proxy has
                passed on arrive first. Over TCP, an end with unread bytes becomes a reset.
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
        """Stop refusing connections."""
        self._refusing = 0

    def stall(self, where: Where = "both") -> None:
        """Stop passing on data without closing connections: half-open, as behind a dead router.

        Bytes wait until `resume`, with backpressure after about 64 KiB; bytes that the proxy is
        already passing on are still sent. New connections stall, too. If one side breaks its
        connection, the other side's still breaks as well.
        """
        for way in self._which(where):
            way.stalled = True
            way.change()
        self._note("stall", where)

    def resume(self, where: Where = "both") -> None:
        """Pass on data again, beginning with the waiting bytes."""
        for way in self._which(where):
            way.stalled = False
            way.change()
        self._note("resume", where)

    def slow(self, bytes_per_second: float | None, where: Where = "both") -> None:
        """Pass on at most this many bytes in a second; None for no limit."""
        if bytes_per_second is not None and bytes_per_second <= 0:
            raise ValueError("bytes_per_second is above zero; stall() passes nothing on")
        for way in self._which(where):
            way.bytes_per_second = bytes_per_second
            way.change()
        self._note("slow", f"{where}: {bytes_per_second}")

    def cut_after(self, count: int, direction: Direction, how: How = "eof") -> None:
        """Cut the next connection when *count* bytes have passed in *direction*.

        With ``"eof"`` exactly that many bytes can be read. With ``"reset"`` at most that many can
        be read; bytes that are not yet read may be lost.
        """
        _check(direction, "direction", DIRECTIONS)
        _check(how, "how", ("reset", "eof"))
        if count < 0:
            raise ValueError("count is not negative")
        self._cuts.append((direction, count, how))

    def corrupt(self, direction: Direction, count: int = 1) -> None:
        """Flip a bit in each of the next *count* bytes in *direction*."""
        _check(direction, "direction", DIRECTIONS)
        self._ways[direction].corrupt += count
        self._note("corrupt", f"{direction}: {count}")

    def heal(self) -> None:
        """End every fault: accept, resume, and drop all faults that are still to come."""
        self._refusing = 0
        self._cuts.clear()
        for way in self._ways.values():
            way.stalled = False
            way.bytes_per_second = None
            way.corrupt = 0
            way.change()
        self._note("heal")

    def statistics(self) -> ProxyStatistics:
        """Return counts of connections and bytes."""
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
        except OSError:  # the server cannot be reached
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
            # One side has ended, so end the other side in the same way.
            if not connection.scope.cancel_called:
                connection.how = "reset"
                connection.scope.cancel()

    async def _unstalled(self, way: _Way) -> None:
        while way.stalled:
            await way.changed.wait()

    async def _next_piece(
        self, connection: _Connection, direction: Direction, way: _Way, data: bytes
    ) -> tuple[bytes, bytes]:
        """Wait until the next bytes may pass. Returns them, and the bytes after them."""
        await self._unstalled(way)
        size = min(len(data), connection.cut_after.get(direction, len(data)))
        if way.bytes_per_second is not None:
            # The bytes of a tenth of a second at a time, so that a change takes effect soon.
            size = min(size, max(1, int(way.bytes_per_second / 10)))
            with trio.move_on_after(size / way.bytes_per_second) as waiting:
                await way.changed.wait()
            if not waiting.cancelled_caught:  # the speed has changed, or a stall has begun
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
    """Close *stream* at once; with ``"reset"``, the other side sees it break."""
    if isinstance(stream, PipeEnd):
        if how == "reset":
            stream.reset()
        stream.close()
    elif isinstance(stream, trio.SocketStream) and stream.socket.fileno() >= 0:
        if how == "reset":
            with contextlib.suppress(OSError):  # it may already be dead
                # With a linger time of zero, closing sends a reset.
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        stream.socket.close()


def _check(value: object, what: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}, not {value!r}")
