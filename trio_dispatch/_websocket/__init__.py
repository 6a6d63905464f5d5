"""WebSockets: "write these payloads, give me the next ones", over any trio Stream.

`open_transport` dials and upgrades; what it returns knows nothing of frames. The libraries behind
it never send WebSocket pings (protocol, "WebSocket": a server's pong can corrupt its stream).
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence

import trio

from trio_dispatch._url import Address
from trio_dispatch._websocket._base import Transport, TransportClosed, UpgradeRefused
from trio_dispatch._websocket._stream import WireStream, dial
from trio_dispatch._websocket._trio_websocket import upgrade

__all__ = ["Connector", "Transport", "TransportClosed", "UpgradeRefused", "open_transport"]

Connector = Callable[[Address], Awaitable[trio.abc.Stream]]
"""How to get a byte stream to an address; dialling TCP is one way."""


async def open_transport(
    nursery: trio.Nursery,
    address: Address,
    *,
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    ssl_context: ssl.SSLContext | None = None,
    connector: Connector | None = None,
) -> Transport:
    """Connect to *address* and upgrade to a WebSocket.

    Its background task, if it needs one, lives in *nursery* until the nursery is cancelled, and
    never raises there. Cancelled, it leaves no socket behind.

    Raises:
        OSError: no connection, or TLS failed.
        UpgradeRefused: the server answered something else than 101.
        TransportClosed: the connection ended, or broke the protocol, during the upgrade.
    """
    stream = await (connector(address) if connector else dial(address, ssl_context))
    wire = WireStream(stream)
    try:
        return await upgrade(nursery, wire, address, headers, max_message_size)
    except BaseException:
        await trio.aclose_forcefully(wire)
        raise
