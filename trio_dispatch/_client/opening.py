"""Opening and running a client."""

# Users do not run a client themselves, so running it is not a public method.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from difflib import get_close_matches
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import trio

from trio_dispatch._client.client import Client
from trio_dispatch._client.options import ClientSettings, read_options
from trio_dispatch._transport.block import in_background
from trio_dispatch._transport.needs_trio import check_trio
from trio_dispatch._transport.websocket import Connector

P = ParamSpec("P")
F = TypeVar("F", bound=Callable[..., object])

_OPTIONS: Final = """
    Args:
        url: the server's URL, ``ws://host:port/dwp`` or ``wss://…``. With a list, each connection
            attempt uses the next URL, without a pause until all have been tried. With ``http://``
            or ``https://`` requests go by RPC, and subscriptions by event streams.
        token: the token to authenticate with.
        token_provider: a function, sync or async, that returns a token; called before every
            connection attempt. If it raises, *token* is used instead; without one, the attempt
            fails.
        format: ``"json"`` or ``"msgpack"``.
        transport: ``"trio-websocket"``, ``"websockets"``, or ``"auto"``: the fastest installed.
        ssl_context: for ``wss://``; by default certificates are verified against the system's
            store.
        headers: extra HTTP headers for the upgrade. The token is sent as ``Authorization: Bearer``.
        proxy: ``"env"`` for the proxy in ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and
            ``NO_PROXY``; None for no proxy; or the URL of one, ``http://…`` or ``socks5://…``. The
            proxy resolves host names. WebSockets and SOCKS need ``trio-dispatch[proxy]``.
        connect_timeout: seconds for token, TCP, TLS, upgrade and authentication together.
        request_timeout: seconds from a call to its answer; None for no limit.
        heartbeat_interval: seconds without a frame after which the client pings the server; None
            for no pings.
        heartbeat_timeout: further seconds without a frame after which the connection is lost.
        reconnect: whether to reconnect when the connection is lost.
        min_reconnect_delay: seconds before the first attempt after a loss.
        max_reconnect_delay: the most seconds between attempts; the delay doubles, with jitter.
        max_reconnect_attempts: attempts in a row that may fail; None for no limit. Trying each URL
            of a list once is one attempt.
        fail_first_connect: whether to raise the error of the first attempt instead of trying again.
        max_message_size: the most bytes of a message, in both directions.
        max_concurrent_runs: workflow runs that this client starts at once; each has a connection.
        logger: the logger to use (default: ``trio_dispatch``).
        instruments: called for connections, requests and events.
        events_from: the servers of a list whose events subscriptions receive: ``"connection"``, the
            one that the client is connected to, or ``"all"``, with one more connection to each of
            the others.

    Raises:
        TypeError, ValueError: an argument is invalid.
        ConnectFailed: the first attempt failed.
        AuthError: the server refused the token, at the first attempt or later.
"""


@asynccontextmanager
async def running(client: Client) -> AsyncGenerator[Client, None]:
    """Run *client* for the length of a block."""
    async with in_background(client._link.run, client):
        yield client


def open_over(
    connector: Connector, *args: Any, **options: Any
) -> AbstractAsyncContextManager[Client]:
    """Do the same as `open_client`, with *connector* instead of TCP."""
    options.setdefault("proxy", None)
    settings = _checked("open_client", read_options, *args, **options)
    return running(Client(settings.over(connector)))


async def run_alone(
    client: Client, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run *client* in a caller's nursery. If no block raises the client's error, raise it here."""
    link = client._link
    await link.run(task_status=task_status)
    if link.error is not None and not link.used_as_block:
        raise link.error


def _opening(read: Callable[P, ClientSettings]) -> Callable[P, AbstractAsyncContextManager[Client]]:
    def open_client(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[Client]:
        return running(Client(_checked("open_client", read, *args, **kwargs)))

    open_client.__doc__ = f"""Open a `Client` for the length of a block.

    The block ``async with open_client("ws://localhost:8080/dwp", token="…") as client:`` begins
    when the client is connected and authenticated. When the block exits, for whatever reason, the
    client ends all of its tasks and closes all of its connections within 2 s; if it is cancelled,
    at once. Exceptions of the body propagate unchanged. If the client ends by itself (a refused
    token, no attempts left), waiting calls raise the error, the body is cancelled, and the block
    raises the error.
{_OPTIONS}"""
    return _like(open_client, read, AbstractAsyncContextManager[Client], [])


def _connecting(
    read: Callable[P, ClientSettings],
) -> Callable[Concatenate[trio.Nursery, P], Coroutine[object, object, Client]]:
    async def connect_client(nursery: trio.Nursery, /, *args: P.args, **kwargs: P.kwargs) -> Client:
        check_trio("connect_client()")
        client = Client(_checked("connect_client", read, *args, **kwargs))
        await nursery.start(run_alone, client)
        return client

    connect_client.__doc__ = f"""Connect a `Client` that outlives a block.

    It runs as one task in *nursery*, until ``aclose()``, the end of an ``async with client:``, or
    cancellation. If the client ends by itself, an ``async with client:`` raises the error; without
    such a block, the task raises it.
{_OPTIONS}"""
    first = inspect.Parameter("nursery", inspect.Parameter.POSITIONAL_ONLY, annotation=trio.Nursery)
    return _like(connect_client, read, Client, [first])


def _checked(
    name: str, read: Callable[P, ClientSettings], *args: P.args, **kwargs: P.kwargs
) -> ClientSettings:
    """Call *read*; if an option is misspelt, raise `TypeError` on behalf of *name*."""
    try:
        inspect.signature(read).bind(*args, **kwargs)
    except TypeError as exc:
        known = [*inspect.signature(read).parameters]
        wrong = next((option for option in kwargs if option not in known), "")
        hint = "".join(f"; did you mean {close!r}?" for close in get_close_matches(wrong, known, 1))
        raise TypeError(f"{name}() {exc}{hint}") from None
    return read(*args, **kwargs)


def _like(
    function: F,
    read: Callable[..., ClientSettings],
    result: object,
    first: list[inspect.Parameter],
) -> F:
    """Give *function* the signature of *read*, so that the options are defined in one place."""
    signature = inspect.signature(read)
    parameters = [*first, *signature.parameters.values()]
    function.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=parameters, return_annotation=result
    )
    function.__module__ = "trio_dispatch"
    function.__qualname__ = function.__name__
    return function


open_client = _opening(read_options)
connect_client = _connecting(read_options)
