"""The byte stream under a WebSocket library."""

from __future__ import annotations

import contextlib
import socket
import ssl
from typing import Final, cast

import trio

from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.proxies import connect
from trio_dispatch._transport.tls import default_context
from trio_dispatch._wire.proxies import Proxy
from trio_dispatch._wire.url import Address

KEEP_ALIVE: Final = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), seconds)
        for name, seconds in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)  # not every system has them
    ),
)
"""Socket options with which the kernel detects a lost peer within a minute."""

PIECE: Final = 64 * 1024
"""The most bytes written at once; a write that progresses in pieces is slow, not stuck."""


async def dial(
    address: Address, ssl_context: ssl.SSLContext | None, proxy: Proxy | None = None
) -> trio.abc.Stream:
    """Open a TCP connection with keepalive to *address*, with TLS if its scheme asks for it.

    Args:
        address: the address to connect to.
        ssl_context: for TLS.
        proxy: the proxy to use, if any.

    Raises:
        OSError: no connection could be made.
        trio.BrokenResourceError: the TLS handshake failed.
    """
    if proxy is None:
        socket_stream = await trio.open_tcp_stream(address.host, address.port)
    else:
        socket_stream = await connect(proxy, address.host, address.port)
    _keep_alive(socket_stream)
    stream = EagerStream(socket_stream)
    if not address.secure:
        return stream
    secured = trio.SSLStream(
        stream,
        ssl_context or default_context(),
        server_hostname=address.host,
        https_compatible=True,
    )
    try:
        await secured.do_handshake()
    except BaseException:
        await close_now(secured)
        raise
    return secured


def _keep_alive(stream: trio.SocketStream) -> None:
    """Let the kernel detect a lost peer, even while nothing is sent."""
    for level, option, value in KEEP_ALIVE:
        with contextlib.suppress(OSError):
            stream.setsockopt(level, option, value)


class EagerStream(trio.abc.Stream):
    """A TCP connection that writes at once if it can, and waits before it reads.

    trio's own stream lets other tasks run at each write, and tries to read before it waits. For a
    request that is alone on its connection, both cost as much as decoding its answer (measured:
    92 µs of CPU for a round trip, 62 with this class). It is for one task that writes and one task
    that reads, and both must let other tasks run by themselves.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        # The same socket, without trio's checkpoints. Only its owner, the stream, closes it.
        self._socket = socket.socket(fileno=stream.socket.fileno())
        self._socket.setblocking(False)
        self._closed = False

    def send_nowait(self, data: bytes | memoryview) -> int:
        """Write as much as possible without waiting. Returns the number of bytes.

        Raises:
            trio.BrokenResourceError, trio.ClosedResourceError: the same as `send_all`.
        """
        self._check_open()
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as exc:
            raise trio.BrokenResourceError(f"the connection broke: {exc}") from exc

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write *data*. It can be cancelled before it begins, and whenever it has to wait."""
        await trio.lowlevel.checkpoint_if_cancelled()
        view = memoryview(data)
        while view:
            view = view[self.send_nowait(view) :]
            if len(view):
                await trio.lowlevel.wait_writable(self._socket)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the socket is writable."""
        self._check_open()
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data and return it; empty bytes at the end. This is a checkpoint."""
        while True:
            self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes or PIECE)
            except BlockingIOError:
                continue
            except OSError as exc:
                raise trio.BrokenResourceError(f"the connection broke: {exc}") from exc

    async def aclose(self) -> None:
        """Close the socket; waiting tasks get `trio.ClosedResourceError`."""
        if not self._closed:
            self._closed = True
            self._socket.detach()
        await self._stream.aclose()

    def _check_open(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this connection was closed")


class WireStream(trio.abc.Stream):
    """A stream that writes in pieces, can hold writes back, and detects a stuck write.

    It does three things that the WebSocket library does not do:

    - *Cork*: it holds writes back until `uncork`, and the next write includes all of them, so that
      many messages need one system call (measured: 10,100 requests/s compared with 7,200).
    - *Pieces*: it can distinguish a large write that progresses from one that is stuck.
    - *The end during the handshake*: an EOF raises, and any failure sets `broken`, because
      trio-websocket would otherwise wait forever.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._held: bytearray | None = None
        self._writing_since: float | None = None
        self.upgraded = False
        """Set when the handshake is over."""
        self.broken = trio.Event()
        """Set when the connection fails during the handshake."""

    @property
    def stuck_since(self) -> float | None:
        """Since when the present write makes no progress; None if nothing is being written."""
        return self._writing_since

    def cork(self) -> None:
        """Hold back all writes from now on."""
        self._held = bytearray()

    def uncork(self) -> None:
        """Let the next write go, after everything that was held back."""
        held, self._held = self._held, None
        self._behind = bytes(held or b"")

    _behind: bytes = b""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Write *data* in pieces, or hold it back while corked."""
        if self._held is not None:
            self._held += data
            return
        if self._behind:
            data = self._behind + bytes(data)
            self._behind = b""
        self._writing_since = trio.current_time()
        try:
            view = memoryview(data)
            for start in range(0, len(view), PIECE):
                await self._stream.send_all(view[start : start + PIECE])
                self._writing_since = trio.current_time()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken.set()
            raise
        finally:
            self._writing_since = None

    def send_nowait(self, data: bytes) -> int:
        """Write as much of *data* as possible without waiting; nothing if that is not supported.

        Returns:
            How many bytes were written. If there was an error, the next write raises it.
        """
        send = getattr(self._stream, "send_nowait", None)
        if send is None or self._held is not None or self._behind:
            return 0
        if self._writing_since is not None:
            return 0
        try:
            return cast("int", send(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return 0

    async def wait_send_all_might_not_block(self) -> None:
        """Do the same as the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read available bytes. An end during the handshake raises `trio.BrokenResourceError`."""
        try:
            data = await self._stream.receive_some(max_bytes)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.broken.set()
            raise
        if not data and not self.upgraded:
            self.broken.set()
            raise trio.BrokenResourceError("the connection ended during the handshake")
        return data

    async def aclose(self) -> None:
        """Close the stream below."""
        await self._stream.aclose()
