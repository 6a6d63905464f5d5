"""Opening a `Link` of one's own."""

from __future__ import annotations

import itertools
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs
import trio

from trio_dispatch._link.auth import Auth, Header, QueryToken
from trio_dispatch._link.dialect_session import DialectSession
from trio_dispatch._link.dialects import Dialect, Fielded, Fields
from trio_dispatch._link.handler import HandlerTask, OnFull
from trio_dispatch._link.interfaces import Room
from trio_dispatch._link.link import Link, LinkConnection, Messages
from trio_dispatch._link.requests import Lane
from trio_dispatch._link.settings import (
    LOGGER,
    DialSettings,
    Heartbeat,
    LinkSettings,
    find_proxies,
    read_addresses,
    read_ssl_context,
)
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._link.tokens import TokenProvider, check_token
from trio_dispatch._transport.block import in_background
from trio_dispatch._transport.websocket import Connector, choose_library
from trio_dispatch._wire.arguments import check_count, check_seconds
from trio_dispatch._wire.headers import read_headers

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    M = TypeVar("M", default=Fielded)
else:
    from typing import TypeVar

    M = TypeVar("M")

TransportName = Literal["auto", "trio-websocket", "websockets"]
Undecodable = Literal["skip", "close"]
Late = Literal["handler", "drop"]

FIELDS: Final[Dialect[Any]] = Fields()


@attrs.frozen
class WebSocketPing:
    """Send a WebSocket ping when nothing has arrived for a while.

    Attributes:
        interval: seconds of silence before a ping.
        timeout: seconds after which a peer that shows no sign of life is given up.
    """

    interval: float = 30.0
    timeout: float = 10.0


@attrs.frozen
class DialectPing:
    """Send a ping of the dialect's (`Dialect.ping`) when nothing has arrived for a while.

    Attributes:
        interval: seconds of silence before a ping.
        timeout: seconds after which a peer that shows no sign of life is given up.
    """

    interval: float = 30.0
    timeout: float = 10.0


@asynccontextmanager
async def open_link(
    url: str | Sequence[str],
    *,
    dialect: Dialect[M] = FIELDS,
    auth: Auth = "bearer",
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Callable[[M], object] | None = None,
    on_full: OnFull = "pause",
    on_connect: Callable[[LinkConnection[M]], Awaitable[object]] | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    reconnect: bool = True,
    max_reconnect_attempts: int | None = None,
    transport: TransportName = "auto",
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
    proxy: str | None = "env",
    connect_timeout: float = 10,
    request_timeout: float | None = None,
    idle_timeout: float | None = None,
    ping: WebSocketPing | DialectPing | None = None,
    max_message_size: int = 16 * 1024 * 1024,
    undecodable: Undecodable = "skip",
    late: Late = "handler",
    logger: logging.Logger | None = None,
) -> AsyncGenerator[Link[M], None]:
    """Open a `Link` for the length of a block.

    When the block exits, for whatever reason, the connection is closed and every task of the link
    ends. If the link ends by itself, the body is cancelled and the block raises the error.

    Args:
        url: where to connect, ``ws://`` or ``wss://``. Of a list, each attempt takes the next.
        dialect: what messages mean; by default objects with ``id``, ``correl_id`` and ``error``.
        auth: where the token goes: ``"bearer"``, `QueryToken`, `Header`, or None.
        auth_token: the token. A dialect may also need it for its greeting.
        token_provider: asked for a token before every attempt, sync or async; *auth_token* is the
            fallback when it raises.
        handler: called with every message that answers nothing, one at a time, in order, sync or
            async, in a task of its own. What it raises is logged.
        on_full: when 1,024 messages wait for the handler, ``"pause"`` reads nothing more until
            there is room, so that none is lost; ``"drop"`` drops and counts them.
        on_connect: an async function that is called with each new connection before what waits is
            sent. If it raises, the connection is given up and replaced.
        fail_first_connect: raise the error of the first attempt, instead of trying again. Without
            it the block begins at once, and `Link.wait_connected` waits.
        min_reconnect_delay: seconds before the first attempt after a loss.
        max_reconnect_delay: seconds between attempts at most; the delay doubles, with jitter.
        reconnect: connect again when the connection is lost.
        max_reconnect_attempts: attempts in a row that may fail; None for no limit.
        transport: ``"trio-websocket"``, ``"websockets"``, or ``"auto"``: the fastest installed.
        ssl_context: for ``wss://``; by default certificates are verified by the system's store.
        headers: extra HTTP headers for the upgrade.
        subprotocols: WebSocket subprotocols to offer; by default those of the dialect.
        proxy: ``"env"`` goes by the environment (``HTTPS_PROXY``, ``NO_PROXY``, and so on); the URL
            of an HTTP or SOCKS proxy, or None for none.
        connect_timeout: seconds for token, TCP, TLS, upgrade and greeting together.
        request_timeout: seconds from a request to its answer; None for no limit.
        idle_timeout: seconds without any message after which the connection is given up.
        ping: `WebSocketPing` or `DialectPing`; None sends no pings.
        max_message_size: bytes per message at most, in both directions.
        undecodable: a message that the dialect cannot read is logged and skipped by ``"skip"``;
            by ``"close"`` it ends the connection.
        late: where answers go that nobody waits for any more: to the ``"handler"``, or nowhere by
            ``"drop"``.
        logger: where to log; ``trio_dispatch`` by default.

    Raises:
        TypeError, ValueError: an argument cannot work.
        AuthError: the server refused the token.
        ConnectFailed: the first attempt failed, with *fail_first_connect*.
    """
    supervisor, link = make_link(
        url,
        None,
        dialect=dialect,
        auth=auth,
        auth_token=auth_token,
        token_provider=token_provider,
        handler=handler,
        on_full=on_full,
        on_connect=on_connect,
        fail_first_connect=fail_first_connect,
        min_reconnect_delay=min_reconnect_delay,
        max_reconnect_delay=max_reconnect_delay,
        reconnect=reconnect,
        max_reconnect_attempts=max_reconnect_attempts,
        transport=transport,
        ssl_context=ssl_context,
        headers=headers,
        subprotocols=subprotocols,
        proxy=proxy,
        connect_timeout=connect_timeout,
        request_timeout=request_timeout,
        idle_timeout=idle_timeout,
        ping=ping,
        max_message_size=max_message_size,
        undecodable=undecodable,
        late=late,
        logger=logger,
    )
    async with in_background(supervisor.run, link):
        yield link


async def run_link(
    url: str | Sequence[str],
    *,
    dialect: Dialect[M] = FIELDS,
    auth: Auth = "bearer",
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Callable[[M], object] | None = None,
    on_full: OnFull = "pause",
    on_connect: Callable[[LinkConnection[M]], Awaitable[object]] | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    reconnect: bool = True,
    max_reconnect_attempts: int | None = None,
    transport: TransportName = "auto",
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
    proxy: str | None = "env",
    connect_timeout: float = 10,
    request_timeout: float | None = None,
    idle_timeout: float | None = None,
    ping: WebSocketPing | DialectPing | None = None,
    max_message_size: int = 16 * 1024 * 1024,
    undecodable: Undecodable = "skip",
    late: Late = "handler",
    logger: logging.Logger | None = None,
    task_status: trio.TaskStatus[Link[M]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a `Link` until it is closed or cancelled: the blocking form of `open_link`.

    ``link = await nursery.start(run_link, url)`` returns the link. Arguments and errors are those
    of `open_link`; an error that ends the link is raised here.
    """
    supervisor, link = make_link(
        url,
        None,
        dialect=dialect,
        auth=auth,
        auth_token=auth_token,
        token_provider=token_provider,
        handler=handler,
        on_full=on_full,
        on_connect=on_connect,
        fail_first_connect=fail_first_connect,
        min_reconnect_delay=min_reconnect_delay,
        max_reconnect_delay=max_reconnect_delay,
        reconnect=reconnect,
        max_reconnect_attempts=max_reconnect_attempts,
        transport=transport,
        ssl_context=ssl_context,
        headers=headers,
        subprotocols=subprotocols,
        proxy=proxy,
        connect_timeout=connect_timeout,
        request_timeout=request_timeout,
        idle_timeout=idle_timeout,
        ping=ping,
        max_message_size=max_message_size,
        undecodable=undecodable,
        late=late,
        logger=logger,
    )
    async with in_background(supervisor.run, link):
        task_status.started(link)
        await link.wait_closed()


def make_link(
    url: str | Sequence[str],
    connector: Connector | None = None,
    *,
    dialect: Dialect[M] = FIELDS,
    auth: Auth = "bearer",
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Callable[[M], object] | None = None,
    on_full: OnFull = "pause",
    on_connect: Callable[[LinkConnection[M]], Awaitable[object]] | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    reconnect: bool = True,
    max_reconnect_attempts: int | None = None,
    transport: TransportName = "auto",
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
    subprotocols: Sequence[str] = (),
    proxy: str | None = "env",
    connect_timeout: float = 10,
    request_timeout: float | None = None,
    idle_timeout: float | None = None,
    ping: WebSocketPing | DialectPing | None = None,
    max_message_size: int = 16 * 1024 * 1024,
    undecodable: Undecodable = "skip",
    late: Late = "handler",
    logger: logging.Logger | None = None,
) -> tuple[Supervisor, Link[M]]:
    """Make a link and what keeps it connected; they do nothing yet."""
    addresses = read_addresses(url, "ws", "wss")
    if auth_token is not None:
        check_token(auth_token)
    if auth_token is not None or token_provider is not None:
        for address in addresses:
            if address.user_info is not None:
                raise ValueError(
                    f"{address.shown} has a user and a password, which go where the token goes: "
                    "in the Authorization header"
                )
    _check_choices(auth, on_full=on_full, undecodable=undecodable, late=late, transport=transport)
    if max_reconnect_attempts is not None:
        check_count(max_reconnect_attempts, "max_reconnect_attempts", least=0)
    if check_seconds(max_reconnect_delay, "max_reconnect_delay") < min_reconnect_delay:
        raise ValueError("max_reconnect_delay is less than min_reconnect_delay")
    if isinstance(ping, DialectPing):
        dialect.ping(0)  # raises if there is none
    numbers, room, log = itertools.count(1), Room(), logger or LOGGER
    settings = LinkSettings(
        addresses=addresses,
        token=auth_token,
        token_provider=token_provider,
        dial=DialSettings(
            auth=auth,
            headers=read_headers(headers),
            ssl_context=read_ssl_context(addresses, ssl_context),
            connector=connector,
            proxies={} if connector else find_proxies(addresses, proxy, for_websocket=True),
            connect_timeout=check_seconds(connect_timeout, "connect_timeout"),
            idle_timeout=_optional_seconds(idle_timeout, "idle_timeout"),
            max_message_size=check_count(max_message_size, "max_message_size"),
            library=choose_library(transport),
            subprotocols=tuple(subprotocols or dialect.subprotocols),
        ),
        heartbeat=_heartbeat(ping),
        request_timeout=_optional_seconds(request_timeout, "request_timeout"),
        reconnect=reconnect,
        min_reconnect_delay=check_seconds(min_reconnect_delay, "min_reconnect_delay"),
        max_reconnect_delay=max_reconnect_delay,
        max_reconnect_attempts=max_reconnect_attempts,
        fail_first_connect=fail_first_connect,
        logger=log,
        room=room,
        encode=lambda message: _as_bytes(dialect.encode(message)),
        new_session=lambda: DialectSession(
            dialect, numbers, late_to_handler=late == "handler", skip=undecodable == "skip"
        ),
    )
    supervisor = Supervisor(settings, HandlerTask(handler, log, room, on_full))
    messages = Messages(supervisor, dialect, numbers, Lane.CALLS)
    if on_connect is not None:
        prepare = on_connect

        async def prepare_connection() -> None:
            shown = supervisor.address.shown
            await prepare(LinkConnection(messages.lane(Lane.RESTORE), shown))

        supervisor.on_connect = prepare_connection
    return supervisor, Link(supervisor, messages, room)


_CHOICES: Final = {
    "on_full": ("pause", "drop"),
    "undecodable": ("skip", "close"),
    "late": ("handler", "drop"),
    "transport": ("auto", "trio-websocket", "websockets"),
}


def _check_choices(auth: object, **given: str) -> None:
    if auth not in ("bearer", None) and not isinstance(auth, (QueryToken, Header)):
        raise ValueError("auth is 'bearer', a QueryToken, a Header, or None")
    for what, value in given.items():
        if value not in _CHOICES[what]:
            choices = ", ".join(map(repr, _CHOICES[what]))
            raise ValueError(f"{what} is one of {choices}, not {value!r}")


def _as_bytes(payload: str | bytes) -> bytes:
    return payload.encode() if isinstance(payload, str) else payload


def _optional_seconds(value: float | None, what: str) -> float | None:
    return None if value is None else check_seconds(value, what)


def _heartbeat(ping: WebSocketPing | DialectPing | None) -> Heartbeat | None:
    if ping is None:
        return None
    return Heartbeat(
        interval=check_seconds(ping.interval, "the interval of pings"),
        timeout=check_seconds(ping.timeout, "the timeout of pings"),
        by_session=isinstance(ping, DialectPing),
    )
