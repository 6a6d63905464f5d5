"""Opening a client, and who runs it."""

# Running a client is not for its users, so it is no method of theirs.
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
        url: where the server is, ``ws://host:port/dwp`` or ``wss://…``. Of a list, each dial takes
            the next, without a pause until all have been tried. With ``http://`` or ``https://``
            requests go by RPC, and subscriptions by event streams.
        token: the token to authenticate with.
        token_provider: asked for a token before every dial, sync or async. When it raises, *token*
            is used instead; without one, the dial has failed.
        format: ``"json"`` or ``"msgpack"``.
        transport: ``"trio-websocket"``, ``"websockets"``, or ``"auto"``: the fastest installed.
        ssl_context: for ``wss://``; by default certificates are verified by the system's store.
        headers: extra HTTP headers for the upgrade. The token goes as ``Authorization: Bearer``.
        proxy: ``"env"``: what ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` say;
            None for none; or the URL of one, ``http://…`` or ``socks5://…``. Names are resolved by
            the proxy. WebSockets and SOCKS need ``trio-dispatch[proxy]``.
        connect_timeout: seconds for token, TCP, TLS, upgrade and authentication together.
        request_timeout: seconds from a call to its answer; None for no limit.
        heartbeat_interval: after so many seconds of silence the server is pinged; None for never.
        heartbeat_timeout: after so many more seconds of silence the connection is given up.
        reconnect: dial again when the connection is lost.
        min_reconnect_delay: seconds before the first dial after a loss.
        max_reconnect_delay: seconds between dials at most; the delay doubles, with jitter.
        max_reconnect_attempts: attempts in a row that may fail; None for no limit. One turn round
            a list of URLs is one attempt.
        fail_first_connect: raise the error of the first dial, instead of dialling again.
        max_message_size: bytes per message at most, in both directions.
        max_concurrent_runs: workflow runs that this client starts at once; each has a connection.
        logger: where to log; ``trio_dispatch`` by default.
        instruments: what is told of connections, requests and events.
        events_from: which servers of a list subscriptions hear: ``"connection"``, the one that the
            client is connected to, or ``"all"``, with one more connection to each of the others.

    Raises:
        TypeError, ValueError: an argument cannot work.
        ConnectFailed: the first dial failed.
        AuthError: the server refused the token, at the first dial or later.
"""


@asynccontextmanager
async def running(client: Client) -> AsyncGenerator[Client, None]:
    """Run *client* for the length of a block."""
    async with in_background(client._link.run, client):
        yield client


def open_over(
    connector: Connector, *args: Any, **options: Any
) -> AbstractAsyncContextManager[Client]:
    """`open_client`, but reaching the server by *connector* instead of TCP."""
    options.setdefault("proxy", None)
    settings = _checked("open_client", read_options, *args, **options)
    return running(Client(settings.over(connector)))


async def run_alone(
    client: Client, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run *client* in a caller's nursery: if no block raises the client's error, this does."""
    link = client._link
    await link.run(task_status=task_status)
    if link.error is not None and not link.used_as_block:
        raise link.error


def _opening(read: Callable[P, ClientSettings]) -> Callable[P, AbstractAsyncContextManager[Client]]:
    def open_client(*args: P.args, **kwargs: P.kwargs) -> AbstractAsyncContextManager[Client]:
        return running(Client(_checked("open_client", read, *args, **kwargs)))

    open_client.__doc__ = f"""Open a `Client` for the length of a block.

    ``async with open_client("ws://localhost:8080/dwp", token="…") as client:`` begins when the
    client is connected and authenticated. Leaving the block, however, ends every task and closes
    every connection of the client, within 2 s; cancelled, at once. What the body raises comes out
    unchanged. If the client ends by itself (a refused token, attempts used up), waiting calls raise
    the error, the body is cancelled, and the block raises it.
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

    It is one task in *nursery*, until ``aclose()``, the end of an ``async with client:``, or
    cancellation. If the client ends by itself, an ``async with client:`` raises the error; where
    there was none, the task does.
{_OPTIONS}"""
    first = inspect.Parameter("nursery", inspect.Parameter.POSITIONAL_ONLY, annotation=trio.Nursery)
    return _like(connect_client, read, Client, [first])


def _checked(
    name: str, read: Callable[P, ClientSettings], *args: P.args, **kwargs: P.kwargs
) -> ClientSettings:
    """Call *read*; a misspelt option is named as one of *name*."""
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
    """Give *function* the signature of *read*, so that the options stand in one place."""
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
