"""Addresses: reading a URL, and showing it without its secrets."""

from __future__ import annotations

import re
from base64 import b64encode
from ipaddress import ip_address
from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

import attrs

_PORTS: Final = {"ws": 80, "wss": 443, "http": 80, "https": 443}


@attrs.frozen
class Address:
    """The address of a server.

    The repr and `shown` omit user info and query, because both may contain tokens.
    """

    scheme: str
    host: str
    port: int
    resource: str = attrs.field(repr=False)
    """Path and query, for the HTTP request line."""
    shown: str
    """The URL without secrets, for messages and logs."""
    user_info: str | None = attrs.field(default=None, repr=False)
    """The user and password of the URL as ``user:password``, decoded; None if it has none."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What an answer may repeat, and no message shows: the password, plain and encoded."""
        if self.user_info is None:
            return ()
        password = self.user_info.partition(":")[2]
        return (self.basic, *([password] if password else []))

    @property
    def basic(self) -> str:
        """User and password as ``Authorization: Basic`` has them."""
        return b64encode((self.user_info or "").encode()).decode()

    @property
    def secure(self) -> bool:
        """Whether the connection is encrypted."""
        return self.scheme in ("wss", "https")

    @property
    def is_http(self) -> bool:
        """Whether the server is used over plain HTTP, not over a WebSocket."""
        return self.scheme in ("http", "https")

    @property
    def shown_for_websocket(self) -> str:
        """The URL of the same server's WebSocket, without secrets."""
        return self.shown.replace("http", "ws", 1) if self.is_http else self.shown

    @property
    def loopback(self) -> bool:
        """Whether the host is this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def hint_for(self, status: int) -> str:
        """Return a hint to add to the message that this URL was answered with *status*."""
        if status in (404, 405) and self.resource.partition("?")[0] == "/":
            return f"; the URL has no path: did you mean {self.shown.rstrip('/')}/dwp?"
        return ""

    @property
    def host_header(self) -> str:
        """The value for the ``Host`` header, with the port unless it is the scheme's default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def parse_url(url: object, *schemes: str) -> Address:
    """Read *url*, which must have one of *schemes*.

    Raises:
        TypeError: it is not a string.
        ValueError: it is not such a URL. The message includes neither its user info nor its query,
            nor anything that may be one of them.
    """
    if not isinstance(url, str):
        raise TypeError(f"a URL is a string, not {type(url).__name__}")
    wanted = " or ".join(f"{scheme}://host[:port]/path" for scheme in schemes)
    try:
        parts = urlsplit(url)
        port = parts.port
        if "[" in parts.netloc:
            ip_address(parts.hostname or "")  # some Pythons accept anything in brackets
    except ValueError:
        # The reason would quote the text in place of host and port, which may be a secret.
        raise ValueError(f"not a URL like {wanted}: its host or port cannot be read") from None
    scheme = parts.scheme.lower()
    if scheme not in schemes or not parts.hostname:
        raise ValueError(f"not a URL like {wanted}: {without_secrets(url)!r}")
    if any(not "!" <= char <= "~" for char in url):
        raise ValueError(
            "a URL may contain only printable ASCII characters; percent-encode the others: "
            f"{without_secrets(url)!r}"
        )
    if "@" in parts.path + parts.query or parts.fragment:
        # If a secret is not encoded, its first /, ? or # ends it, and the part before would be
        # mistaken for host and port.
        raise ValueError(
            "a URL must have no '@' after its host and no fragment: in a secret and in a query, "
            "write / as %2F, ? as %3F, # as %23 and @ as %40"
        )
    resource = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Address(
        scheme,
        parts.hostname,
        _PORTS[scheme] if port is None else port,
        resource,
        _shown(parts),
        _user_info(parts),
    )


def _user_info(parts: SplitResult) -> str | None:
    info, at, _ = parts.netloc.rpartition("@")
    if not at:
        return None
    user, _, password = info.partition(":")
    decoded = f"{unquote(user)}:{unquote(password)}"
    if not decoded.isprintable() or ":" in unquote(user):
        raise ValueError("the user and password of a URL are printable, and the user has no ':'")
    return decoded


def _shown(parts: SplitResult) -> str:
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


def without_secrets(text: str) -> str:
    """Return a text without its secrets, even if it is not a URL."""
    shown, *hidden = re.split("[?#]", text, maxsplit=1)
    if any("@" in part for part in hidden):
        return "…"  # the ? or # may be part of a secret that begins before it
    scheme, separator, place = shown.partition("://")
    if not separator or not scheme.isalnum():
        scheme, separator, place = "", "", shown
    return scheme + separator + place.rpartition("@")[2]
