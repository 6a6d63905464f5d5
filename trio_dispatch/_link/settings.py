"""The settings of a link, and checks of the options that users pass."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from trio_dispatch._link.auth import Auth
from trio_dispatch._link.instruments import Instruments
from trio_dispatch._link.interfaces import AnyConnection, Owner, Room, Session
from trio_dispatch._link.tokens import TokenProvider
from trio_dispatch._transport.proxies import check_can_connect
from trio_dispatch._transport.tls import default_context
from trio_dispatch._transport.websocket import Connector, Library, choose_library
from trio_dispatch._wire.proxies import Proxy, proxy_for
from trio_dispatch._wire.url import Address, parse_url

USER_AGENT: Final = f"trio-dispatch/{importlib.metadata.version('trio-dispatch')}"

LOGGER = logging.getLogger("trio_dispatch")


@attrs.frozen(kw_only=True)
class Heartbeat:
    """When to ping a silent peer, and how long to wait for a frame, in seconds."""

    interval: float
    timeout: float
    by_session: bool = True
    """Whether the session has pings of its own; without, WebSocket pings are sent."""


@attrs.frozen(kw_only=True)
class DialSettings:
    """The settings of every connection attempt, to any address."""

    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), repr=False)
    user_agent: str = USER_AGENT
    ssl_context: ssl.SSLContext | None = None
    connector: Connector | None = None
    proxies: Mapping[Address, Proxy] = attrs.field(factory=dict[Address, Proxy])
    """The proxies of the addresses that are reached through one."""
    connect_timeout: float = 10.0
    max_message_size: int = 16 * 1024 * 1024
    library: Library = attrs.field(factory=lambda: choose_library("auto"))
    auth: Auth = "bearer"
    subprotocols: tuple[str, ...] = ()
    idle_timeout: float | None = None
    """Seconds without any message after which a peer is given up."""
    text_is_utf8: bool = True
    """Whether text messages are always UTF-8; msgpack arrives in text messages that are not."""


@attrs.frozen(kw_only=True)
class LinkSettings:
    """The settings of a link. Times are in seconds."""

    addresses: tuple[Address, ...]
    token: str | None = attrs.field(default=None, repr=False)
    token_provider: TokenProvider | None = None
    dial: DialSettings = attrs.field(factory=DialSettings)
    heartbeat: Heartbeat | None = None
    request_timeout: float | None = None
    reconnect: bool = True
    min_reconnect_delay: float = 1.0
    max_reconnect_delay: float = 60.0
    max_reconnect_attempts: int | None = None
    fail_first_connect: bool = True
    logger: logging.Logger = LOGGER
    instruments: Instruments = attrs.field(factory=Instruments)
    new_session: Callable[[], Session]
    encode: Callable[[Any], bytes]
    """Turns a message into text, and refuses what cannot be sent."""
    room: Room | None = None
    """Whether what arrives can be stored; None: it always can."""
    new_connection: (
        Callable[[Owner, Address, DialSettings, logging.Logger], AnyConnection] | None
    ) = None
    """Makes a connection that is not a WebSocket."""

    def over(self, connector: Connector) -> LinkSettings:
        """Return the same settings, with *connector* instead of TCP."""
        return attrs.evolve(self, dial=attrs.evolve(self.dial, connector=connector))


def find_proxies(
    addresses: Iterable[Address], choice: str | None, *, for_websocket: bool
) -> dict[Address, Proxy]:
    """Return the proxies for *addresses*.

    Raises:
        TypeError: *choice* is neither a string nor None.
        ValueError: it, or an environment variable that matters, is invalid.
        ModuleNotFoundError: a proxy needs python-socks.
    """
    if not (choice is None or isinstance(choice, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError("proxy is 'env', None, or the URL of a proxy")
    found = {address: proxy_for(address, choice, os.environ) for address in addresses}
    proxies = {address: proxy for address, proxy in found.items() if proxy is not None}
    for proxy in proxies.values():
        if for_websocket or proxy.is_socks:
            check_can_connect(proxy)
    return proxies


def read_ssl_context(
    addresses: Iterable[Address], given: ssl.SSLContext | None
) -> ssl.SSLContext | None:
    """Return *given*; if it is None and there is TLS, a context that verifies certificates.

    The context is made only once, because that takes 20 ms.

    Raises:
        TypeError: *given* is not a context.
        ValueError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` is invalid.
    """
    if given is not None:
        if not isinstance(given, ssl.SSLContext):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("ssl_context is an ssl.SSLContext")
        return given
    return default_context() if any(address.secure for address in addresses) else None


def read_addresses(url: str | Sequence[str], *schemes: str) -> tuple[Address, ...]:
    """Read one URL or a list of them. Raises `ValueError` or `TypeError` if one is invalid."""
    urls = [url] if isinstance(url, str) else list(url)
    if not urls:
        raise ValueError("at least one URL is needed")
    return tuple(parse_url(u, *schemes) for u in urls)
