"""The WebSocket handshake, as a Dispatch server does it.

It is lenient where RFC 6455 is not: any 24 characters are a key. A refusal ends HTTP: the server
has taken the connection from its HTTP side by then, sends what is wrong, and never looks at it
again; it stays open until the client leaves.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import attrs

from trio_dispatch._transport.http_server import TEXT, Request, reason_of

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_KEY_LENGTH: Final = 24
_VERSION: Final = "13"


@attrs.frozen
class Refusal:
    """Why a handshake fails, and its answer."""

    status: int
    text: str
    headers: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """The whole response."""
        headers = (TEXT, ("Content-Length", str(len(self.text))), *self.headers)
        lines = [f"HTTP/1.1 {self.status} {reason_of(self.status)}"]
        lines += [f"{name}: {value}" for name, value in headers]
        return "\r\n".join([*lines, "", self.text]).encode("ascii")


def find_refusal(request: Request) -> Refusal | None:
    """Why *request* is no handshake; None when it is one."""
    version = request.first("sec-websocket-version")
    if request.http_version == "1.0":
        return Refusal(505, "handshake error: bad HTTP protocol version")
    if not request.first("host"):
        return _bad_header("Host")
    if request.first("upgrade").lower() != "websocket":
        return _bad_header("Upgrade")
    if "upgrade" not in _tokens(request.first("connection")):
        return _bad_header("Connection")
    if len(request.first("sec-websocket-key")) != _KEY_LENGTH:
        return _bad_header("Sec-WebSocket-Key")
    if not version:
        return _bad_header("Sec-WebSocket-Version")
    if version != _VERSION:
        text = 'handshake error: bad "Sec-WebSocket-Version" header'
        return Refusal(426, text, (("Sec-WebSocket-Version", _VERSION),))
    return None


def acceptance(request: Request) -> list[tuple[str, str]]:
    """The headers of the answer that accepts *request*.

    No extension and no subprotocol is ever agreed, and Origin is ignored (protocol, "WebSocket").
    """
    key = request.first("sec-websocket-key").encode("latin-1")
    digest = hashlib.sha1(key + _GUID, usedforsecurity=False).digest()
    return [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", base64.b64encode(digest).decode("ascii")),
    ]


def _bad_header(name: str) -> Refusal:
    return Refusal(400, f'handshake error: bad "{name}" header')


def _tokens(header: str) -> set[str]:
    return {token.strip().lower() for token in header.split(",")}
