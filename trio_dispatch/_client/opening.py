"""Opening a client: its options, and who runs it."""

from __future__ import annotations

import inspect
import logging
import ssl
import warnings
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Concatenate, Final, Literal, ParamSpec, TypeVar

import trio

from trio_dispatch._client.client import Client
from trio_dispatch._link.block import in_background
from trio_dispatch._link.connection import AnyConnection
from trio_dispatch._link.instruments import Instrument, Instruments
from trio_dispatch._link.settings import (
    LOGGER,
    DialSettings,
    Heartbeat,
    LinkSettings,
    TokenProvider,
    read_addresses,
    read_headers,
)
from trio_dispatch._transport.websocket import choose_library
from trio_dispatch._wire.arguments import check_count, check_seconds, check_text
from trio_dispatch._wire.codecs import JSON, MSGPACK, Codec
from trio_dispatch._wire.errors import NotSupported
from trio_dispatch._wire.session import DispatchSession
from trio_dispatch._wire.url import Address

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., object])

Format = Literal["json", "msgpack"]
TransportName = Literal["auto", "trio-websocket", "websockets"]

_CODECS: Final[dict[str, tuple[Codec, ...]]] = {"json": (JSON,), "msgpack": (MSGPACK, JSON)}
"""What a session offers. A server that does not know msgpack falls back to JSON."""


class InsecureTokenWarning(UserWarning):
    """A token is sent over a connection that is not encrypted, to another machine."""


def make_client(
    url: str | Sequence[str],
    *,
    token: str | None = None,
    token_provider: TokenProvider | None = None,
    format: Format = "json",
    transport: TransportName = "auto",
    ssl_context: ssl.SSLContext | None = None,
    headers: Mapping[str, str] | Sequence[tuple[str, str]] = (),
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
) -> Client:
    """Make a client, which does nothing yet. The options are those of `open_client`."""
    addresses = read_addresses(url, "ws", "wss", "http", "https")
    _check_choice(format, "format", ("json", "msgpack"))
    _check_choice(transport, "transport", ("auto", "trio-websocket", "websockets"))
    by_http = _read_mode(addresses, format, transport)
    if token is not None:
        check_text(token, "a token")
    if token_provider is not None and not callable(token_provider):
        raise TypeError("token_provider is a function that returns a token")
    if token is not None or token_provider is not None:
        _warn_of_the_clear(addresses)
    if max_reconnect_attempts is not None:
        check_count(max_reconnect_attempts, "max_reconnect_attempts", least=0)
    if check_seconds(max_reconnect_delay, "max_reconnect_delay") < min_reconnect_delay:
        raise ValueError("max_reconnect_delay is less than min_reconnect_delay")
    settings = LinkSettings(
        addresses=addresses,
        token=token,
        token_provider=token_provider,
        dial=DialSettings(
            headers=read_headers(headers),
            ssl_context=ssl_context,
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
        new_session=lambda: DispatchSession(*_CODECS[format]),
        new_connection=_http_connection() if by_http else None,
    )
    return Client(settings, check_count(max_concurrent_runs, "max_concurrent_runs"))


def _read_mode(addresses: tuple[Address, ...], format: str, transport: str) -> bool:
    """Whether *addresses* are spoken to by HTTP. Raises for what does not go with it."""
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


def _warn_of_the_clear(addresses: tuple[Address, ...]) -> None:
    for address in addresses:
        if not (address.secure or address.loopback):
            warnings.warn(
                f"a token goes unencrypted to {address.shown}; use "
                + ("https://" if address.is_http else "wss://"),
                InsecureTokenWarning,
                stacklevel=4,
            )


def _check_choice(value: object, what: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{what} is one of {', '.join(map(repr, choices))}, not {value!r}")


_OPTIONS: Final = """
    Args:
        url: where the server is, ``ws://host:port/dwp`` or ``wss://…``. Of a list, each dial takes
            the next. With ``http://`` or ``https://`` requests go by RPC, and subscriptions by
            event streams.
        token: the token to authenticate with.
        token_provider: asked for a token before every dial, sync or async. When it raises, *token*
            is used instead.
        format: ``"json"`` or ``"msgpack"``.
        transport: ``"trio-websocket"``, ``"websockets"``, or ``"auto"``: the fastest installed.
        ssl_context: for ``wss://``; by default certificates are verified by the system's store.
        headers: extra HTTP headers for the upgrade. The token goes as ``Authorization: Bearer``.
        connect_timeout: seconds for token, TCP, TLS, upgrade and authentication together.
        request_timeout: seconds from a call to its answer; None for no limit.
        heartbeat_interval: after so many seconds of silence the server is pinged; None for never.
        heartbeat_timeout: after so many more seconds of silence the connection is given up.
        reconnect: dial again when the connection is lost.
        min_reconnect_delay: seconds before the first dial after a loss.
        max_reconnect_delay: seconds between dials at most; the delay doubles, with jitter.
        max_reconnect_attempts: dials in a row that may fail; None for no limit.
        fail_first_connect: raise the error of the first dial, instead of dialling again.
        max_message_size: bytes per message at most, in both directions.
        max_concurrent_runs: workflow runs that this client starts at once; each has a connection.
        logger: where to log; ``trio_dispatch`` by default.
        instruments: what is told of connections, requests and events.

    Raises:
        TypeError, ValueError: an argument cannot work.
        ConnectFailed: the first dial failed.
        AuthError: the server refused the token, at the first dial or later.
"""


@asynccontextmanager
async def running(client: Client) -> AsyncGenerator[Client, None]:
    """Run *client* for the length of a block."""
    async with in_background(client.run_in_block, client):
        yield client


def _opening(make: Callable[P, Client]) -> Callable[P, AbstractAsyncContextManager[Client]]:
    def open_client(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[Client]:
        return running(make(*args, **kwargs))

    open_client.__doc__ = f"""Open a `Client` for the length of a block.

    ``async with open_client("ws://localhost:8080/dwp", token="…") as client:`` begins when the
    client is connected and authenticated. Leaving the block, however, ends every task and closes
    every connection of the client, within 2 s; cancelled, at once. What the body raises comes out
    unchanged. If the client ends by itself (a refused token, attempts used up), waiting calls raise
    the error, the body is cancelled, and the block raises it.
{_OPTIONS}"""
    return _like(open_client, make, AbstractAsyncContextManager[Client], [])


def _connecting(
    make: Callable[P, Client],
) -> Callable[Concatenate[trio.Nursery, P], Coroutine[object, object, Client]]:
    async def connect_client(nursery: trio.Nursery, /, *args: P.args, **kwargs: P.kwargs) -> Client:
        client = make(*args, **kwargs)
        await nursery.start(client.run_alone)
        return client

    connect_client.__doc__ = f"""Connect a `Client` that outlives a block.

    It is one task in *nursery*, until ``aclose()``, the end of an ``async with client:``, or
    cancellation. If the client ends by itself, an ``async with client:`` raises the error; where
    there was none, the task does.
{_OPTIONS}"""
    first = inspect.Parameter("nursery", inspect.Parameter.POSITIONAL_ONLY, annotation=trio.Nursery)
    return _like(connect_client, make, Client, [first])


def _like(
    function: F,
    make: Callable[..., Client],
    result: object,
    first: list[inspect.Parameter],
) -> F:
    """Give *function* the signature of *make*, so that the options stand in one place."""
    signature = inspect.signature(make)
    parameters = [*first, *signature.parameters.values()]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=result
    )
    function.__module__ = "trio_dispatch"
    function.__qualname__ = function.__name__
    return function


open_client = _opening(make_client)
connect_client = _connecting(make_client)
