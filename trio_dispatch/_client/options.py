"""The options of a client: this module checks them and converts them into settings."""

from __future__ import annotations

import logging
import ssl
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

import attrs

from trio_dispatch._link.instruments import Instrument, Instruments
from trio_dispatch._link.interfaces import AnyConnection
from trio_dispatch._link.settings import (
    LOGGER,
    DialSettings,
    Heartbeat,
    LinkSettings,
    find_proxies,
    read_addresses,
    read_ssl_context,
)
from trio_dispatch._link.tokens import TokenProvider, check_token
from trio_dispatch._transport.websocket import Connector, choose_library
from trio_dispatch._wire.arguments import check_count, check_seconds
from trio_dispatch._wire.codecs import JSON, MSGPACK, Codec
from trio_dispatch._wire.dispatch_session import DispatchSession
from trio_dispatch._wire.errors import NotSupported
from trio_dispatch._wire.headers import check_one_authorization, read_headers
from trio_dispatch._wire.url import Address

Format = Literal["json", "msgpack"]
EventsFrom = Literal["connection", "all"]
TransportName = Literal["auto", "trio-websocket", "websockets"]

_CODECS: Final[dict[str, tuple[Codec, ...]]] = {"json": (JSON,), "msgpack": (MSGPACK, JSON)}
"""The formats that a session offers. A server that does not know msgpack falls back to JSON."""


class InsecureTokenWarning(UserWarning):
    """A token is sent to another machine over an unencrypted connection."""


@attrs.frozen(kw_only=True)
class ClientSettings:
    """The settings of a client."""

    link: LinkSettings
    run_link: LinkSettings
    """For the connections of workflow runs."""
    max_concurrent_runs: int
    events_from: EventsFrom = "connection"

    @property
    def servers_heard(self) -> tuple[str, ...]:
        """The URLs of the servers whose events are heard; one empty one if it is a single one."""
        addresses = self.link.addresses
        if self.events_from == "connection" or len(addresses) == 1:
            return ("",)
        return tuple(address.shown for address in addresses)

    def over(self, connector: Connector) -> ClientSettings:
        """Return the same settings, with *connector* instead of TCP."""
        return attrs.evolve(
            self,
            link=self.link.over(connector),
            run_link=self.run_link.over(connector),
        )


def read_options(
    url: str | Sequence[str],
    *,
    token: str | None = None,
    token_provider: TokenProvider | None = None,
    format: Format = "json",
    transport: TransportName = "auto",
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    proxy: str | None = "env",
    connect_timeout: float = 10,
    request_timeout: float | None = 30,
    heartbeat_interval: float | None = 15,
    heartbeat_timeout: float = 10,
    reconnect: bool = True,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    max_reconnect_attempts: int | None = None,
    fail_first_connect: bool = True,
    max_message_size: int = 16 * 1024 * 1024,
    max_concurrent_runs: int = 16,
    logger: logging.Logger | None = None,
    instruments: Sequence[Instrument] = (),
    events_from: EventsFrom = "connection",
) -> ClientSettings:
    """Check the options of `open_client`. Raises `TypeError` or `ValueError` if one is invalid."""
    addresses = read_addresses(url, "ws", "wss", "http", "https")
    _check_choice(format, "format", ("json", "msgpack"))
    _check_choice(transport, "transport", ("auto", "trio-websocket", "websockets"))
    _check_choice(events_from, "events_from", ("connection", "all"))
    if events_from == "all":
        addresses = tuple(dict.fromkeys(addresses))  # a server is heard once
    by_http = _read_mode(addresses, format, transport)
    if token is not None:
        check_token(token)
    if token_provider is not None and not callable(token_provider):
        raise TypeError("token_provider is a function that returns a token")
    extra = read_headers(headers)
    check_one_authorization(addresses, extra)
    _warn_of_the_clear(addresses, has_token=token is not None or token_provider is not None)
    if max_reconnect_attempts is not None:
        check_count(max_reconnect_attempts, "max_reconnect_attempts", least=0)
    if check_seconds(max_reconnect_delay, "max_reconnect_delay") < min_reconnect_delay:
        raise ValueError("max_reconnect_delay is less than min_reconnect_delay")
    link = LinkSettings(
        addresses=addresses,
        token=token,
        token_provider=token_provider,
        dial=DialSettings(
            headers=extra,
            proxies=find_proxies(addresses, proxy, for_websocket=not by_http),
            ssl_context=read_ssl_context(addresses, ssl_context),
            connect_timeout=check_seconds(connect_timeout, "connect_timeout"),
            max_message_size=check_count(max_message_size, "max_message_size"),
            library="trio-websocket" if by_http else choose_library(transport),
            text_is_utf8=format != "msgpack",
        ),
        heartbeat=None
        if heartbeat_interval is None
        else Heartbeat(
            interval=check_seconds(heartbeat_interval, "heartbeat_interval"),
            timeout=check_seconds(heartbeat_timeout, "heartbeat_timeout"),
        ),
        request_timeout=None
        if request_timeout is None
        else check_seconds(request_timeout, "request_timeout"),
        reconnect=reconnect,
        min_reconnect_delay=check_seconds(min_reconnect_delay, "min_reconnect_delay"),
        max_reconnect_delay=max_reconnect_delay,
        max_reconnect_attempts=max_reconnect_attempts,
        fail_first_connect=fail_first_connect,
        logger=logger or LOGGER,
        instruments=Instruments(instruments, logger),
        encode=JSON.encode,
        new_session=lambda: DispatchSession(*_CODECS[format]),
        new_connection=_http_connection() if by_http else None,
    )
    return ClientSettings(
        link=link,
        run_link=run_link(link),
        max_concurrent_runs=check_count(max_concurrent_runs, "max_concurrent_runs"),
        events_from=events_from,
    )


def run_link(link: LinkSettings) -> LinkSettings:
    """Make the settings for the connection of a run: it has no heartbeat and never reconnects."""
    return attrs.evolve(
        link, reconnect=False, fail_first_connect=True, heartbeat=None, request_timeout=None
    )


def _read_mode(addresses: tuple[Address, ...], format: str, transport: str) -> bool:
    """Return whether *addresses* use HTTP. Raises if an option does not work with HTTP."""
    modes = {address.is_http for address in addresses}
    if len(modes) > 1:
        raise ValueError(
            "a list of URLs is either all ws:// and wss://, or all http:// and https://"
        )
    if not modes.pop():
        return False
    instead = addresses[0].shown_for_websocket
    if format == "msgpack":
        raise NotSupported(f"format='msgpack' does not work over HTTP: use {instead!r}")
    if transport != "auto":
        raise NotSupported(f"transport={transport!r} does not work over HTTP: use {instead!r}")
    return True


def _http_connection() -> Callable[..., AnyConnection]:
    try:
        from trio_dispatch._link.http.connection import HttpConnection
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"http:// URLs need {exc.name}: pip install 'trio-dispatch[http]'"
        ) from exc
    return HttpConnection


def _warn_of_the_clear(addresses: tuple[Address, ...], *, has_token: bool) -> None:
    for address in addresses:
        secret = "a token" if has_token else "a password" if address.user_info else None
        if secret is not None and not (address.secure or address.loopback):
            warnings.warn(
                f"{secret} goes unencrypted to {address.shown}; use "
                + ("https://" if address.is_http else "wss://"),
                InsecureTokenWarning,
                stacklevel=4,
            )


def _check_choice(value: object, what: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}, not {value!r}")
