"""WebSockets over any trio Stream: send these messages, receive the next ones.

`open_transport` connects and upgrades. The transport that it returns knows nothing of Dispatch
frames. Two libraries implement it, trio-websocket and the sans-I/O core of websockets, with the
same behaviour. They never send WebSocket pings (protocol, "WebSocket": a server's pong can corrupt
its stream).
"""

from __future__ import annotations

import importlib.metadata
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Literal

import trio

from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.websocket.base import Transport, TransportClosed, UpgradeRefused
from trio_dispatch._transport.websocket.stream import WireStream, dial
from trio_dispatch._wire.proxies import Proxy
from trio_dispatch._wire.url import Address

__all__ = [
    "Connector",
    "Library",
    "Transport",
    "TransportClosed",
    "UpgradeRefused",
    "choose_library",
    "open_transport",
]

Connector = Callable[[Address], Awaitable[trio.abc.Stream]]
"""A function that opens a byte stream to an address, for example over TCP."""

Library = Literal["trio-websocket", "websockets"]

OLDEST_WEBSOCKETS: Final = 15
"""The first major version whose sans-I/O core is known to work."""


def choose_library(name: str) -> Library:
    """Return the library for ``transport=name``; ``"auto"`` means the fastest one installed.

    Raises:
        ModuleNotFoundError: *name* is not installed, or too old.
    """
    if name == "trio-websocket":
        return "trio-websocket"
    try:
        found = importlib.metadata.version("websockets")
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is not None and int(found.partition(".")[0]) >= OLDEST_WEBSOCKETS:
        return "websockets"
    if name == "auto":
        return "trio-websocket"
    state = "is not installed" if found is None else f"{found} is too old"
    raise ModuleNotFoundError(
        f"transport='websockets' needs websockets>={OLDEST_WEBSOCKETS}, which {state}: "
        "pip install 'trio-dispatch[fast]'"
    )


async def open_transport(
    nursery: trio.Nursery,
    address: Address,
    *,
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    library: Library = "trio-websocket",
    text_is_utf8: bool = True,
    subprotocols: Sequence[str] = (),
    ssl_context: ssl.SSLContext | None = None,
    connector: Connector | None = None,
    proxy: Proxy | None = None,
) -> Transport:
    """Connect to *address* and upgrade to a WebSocket.

    If it needs a background task, the task runs in *nursery* until the nursery is cancelled, and
    never raises there. If this call is cancelled, no socket remains open.

    Args:
        nursery: runs its tasks.
        address: the address to connect to.
        headers: extra headers for the upgrade.
        max_message_size: bytes; a larger message ends the connection.
        library: the library to use.
        text_is_utf8: if False, text messages may contain any bytes, and are returned as bytes.
        subprotocols: the subprotocols to offer, the preferred one first.
        ssl_context: for ``wss://``.
        connector: opens the stream instead of TCP.
        proxy: the proxy to *address*, if any.

    Raises:
        OSError: the connection or TLS failed.
        UpgradeRefused: the server did not answer with 101.
        TransportClosed: the connection ended, or broke the protocol, during the upgrade.
    """
    stream = await (connector(address) if connector else dial(address, ssl_context, proxy))
    wire = WireStream(stream)
    try:
        # Each library is imported only if it is used.
        if library == "websockets":
            from trio_dispatch._transport.websocket import websockets_transport

            return await websockets_transport.upgrade(
                wire,
                address,
                headers,
                max_message_size,
                subprotocols,
                text_is_utf8=text_is_utf8,
            )
        from trio_dispatch._transport.websocket import trio_websocket_transport

        return await trio_websocket_transport.upgrade(
            nursery,
            wire,
            address,
            headers,
            max_message_size,
            subprotocols,
            text_is_utf8=text_is_utf8,
        )
    except BaseException:
        await close_now(wire)
        raise
