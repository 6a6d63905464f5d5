"""The proxy for a server, read from an option or from the usual environment variables.

``HTTPS_PROXY``, ``HTTP_PROXY`` and ``ALL_PROXY`` name a proxy, and ``NO_PROXY`` lists the hosts to
reach directly. Lower-case names win over upper-case ones. WebSockets prefer the proxy for HTTPS
(RFC 6455, 4.1), because that one certainly supports ``CONNECT``.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final
from urllib.parse import unquote, urlsplit

import attrs

from trio_dispatch._wire.url import Address

_PORTS: Final = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}

_VARIABLES: Final = {
    "ws": ("https_proxy", "http_proxy", "all_proxy"),
    "wss": ("https_proxy", "all_proxy"),
    "http": ("http_proxy", "all_proxy"),
    "https": ("https_proxy", "all_proxy"),
}
"""The variables to check for each scheme, in this order."""


@attrs.frozen(kw_only=True)
class Proxy:
    """A proxy. Neither its repr nor `shown` contains the password."""

    scheme: str
    """``http``, ``https`` or ``socks5``."""
    host: str
    port: int
    user: str | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    source: str
    """Where it was named: ``proxy=``, or a variable."""

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS5."""
        return self.scheme == "socks5"

    @property
    def url(self) -> str:
        """Its URL, without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def shown(self) -> str:
        """The description of the proxy in messages."""
        return f"the proxy {self.url} ({self.source})"


def read_proxy(text: str, source: str) -> Proxy:
    """Read a proxy's URL.

    Args:
        text: the URL. In a variable, a URL without a scheme means ``http://``, as usual.
        source: where it was found.

    Raises:
        ValueError: it is invalid. The message names *source* and shows only the scheme.
    """
    wanted = f"{source} must be a proxy like http://host:port or socks5://host:port"
    try:
        parts = urlsplit(text)
        port = parts.port
        if "[" in parts.netloc:
            ip_address(parts.hostname or "")
    except ValueError:
        raise ValueError(f"{wanted}: its host or port cannot be read") from None
    scheme = parts.scheme.lower()
    if scheme not in _PORTS:
        raise ValueError(f"{wanted}: {scheme + '://' if scheme else 'its beginning'} is neither")
    host = parts.hostname
    if not host or any(not "!" <= char <= "~" for char in text) or parts.path not in ("", "/"):
        raise ValueError(f"{wanted}: it needs a host, and ASCII characters only")
    if parts.query or parts.fragment:
        raise ValueError(f"{wanted}: in a password, write ? as %3F and # as %23")
    user = None if parts.username is None else unquote(parts.username)
    password = None if user is None else unquote(parts.password or "")
    if user is not None and (not f"{user}{password}".isprintable() or ":" in user or not user):
        raise ValueError(f"{wanted}: user and password are printable, and the user has no ':'")
    return Proxy(
        scheme="socks5" if scheme == "socks5h" else scheme,
        host=host,
        port=_PORTS[scheme] if port is None else port,
        user=user,
        password=password,
        source=source,
    )


def proxy_for(address: Address, choice: str | None, environment: Mapping[str, str]) -> Proxy | None:
    """Return the proxy for *address*; None if there is none.

    Args:
        address: where to connect.
        choice: ``"env"``, None, or a proxy's URL.
        environment: the variables.

    Raises:
        ValueError: the choice, or a variable that matters here, is invalid.
    """
    if choice is None:
        return None
    if choice != "env":
        return read_proxy(choice, "proxy=")
    for name in _VARIABLES[address.scheme]:
        source, text = _look_up(name, environment)
        if text:
            if _is_excluded(address, environment):
                return None
            return read_proxy(text if "://" in text else f"http://{text}", source)
    return None


def _look_up(name: str, environment: Mapping[str, str]) -> tuple[str, str]:
    upper = name.upper()
    if name in environment:
        return name, environment[name].strip()
    if upper == "HTTP_PROXY" and "REQUEST_METHOD" in environment:
        return upper, ""  # in a CGI program it may contain a client's header "Proxy"
    return upper, environment.get(upper, "").strip()


def _is_excluded(address: Address, environment: Mapping[str, str]) -> bool:
    source, text = _look_up("no_proxy", environment)
    return any(_matches(address, entry, source) for entry in text.replace(",", " ").split())


def _matches(address: Address, entry: str, source: str) -> bool:
    """Return whether an entry of ``NO_PROXY`` matches *address*."""
    if entry == "*":
        return True
    host = _as_ip(address.host)
    if "/" in entry:
        try:
            network = ip_network(entry.replace("[", "").replace("]", ""), strict=False)
        except ValueError:
            raise ValueError(f"{source} has an entry {entry!r}, which is not a network") from None
        return host is not None and host in network
    name, port = _split_port(entry, source)
    if port is not None and port != address.port:
        return False
    wanted = _as_ip(name)
    if wanted is not None:
        return host == wanted
    name = name.lower().removeprefix("*").strip(".")
    ours = address.host.lower().rstrip(".")
    return bool(name) and host is None and (ours == name or ours.endswith(f".{name}"))


def _split_port(entry: str, source: str) -> tuple[str, int | None]:
    if _as_ip(entry) is not None:
        return entry, None
    if entry.startswith("["):
        name, bracket, rest = entry[1:].partition("]")
        if not bracket or _as_ip(name) is None:
            raise ValueError(f"{source} has an entry {entry!r}, which is not an address")
    else:
        name, colon, rest = entry.partition(":")
        rest = colon + rest
    if rest and not (rest.startswith(":") and rest[1:].isascii() and rest[1:].isdigit()):
        raise ValueError(f"{source} has an entry {entry!r}, whose port cannot be read")
    return name, int(rest[1:]) if rest else None


def _as_ip(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
