"""Opening a `Link` of one's own."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager

import trio

from trio_dispatch._link.handler import Handler, HandlerTask
from trio_dispatch._link.link import Link
from trio_dispatch._link.settings import (
    LOGGER,
    DialSettings,
    LinkSettings,
    find_proxies,
    read_addresses,
    read_ssl_context,
)
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._link.tokens import TokenProvider
from trio_dispatch._transport.block import in_background
from trio_dispatch._transport.websocket import Connector
from trio_dispatch._wire.arguments import check_seconds


@asynccontextmanager
async def open_link(
    url: str | Sequence[str],
    *,
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Handler | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    logger: logging.Logger | None = None,
) -> AsyncGenerator[Link, None]:
    """Open a `Link` for the length of a block.

    Leaving the block, however, closes the connection and ends every task of the link. If the link
    ends by itself, the body is cancelled and the block raises the error.

    Args:
        url: where to connect, ``ws://`` or ``wss://``; of a list each dial takes the next.
        auth_token: sent as ``Authorization: Bearer`` with the upgrade.
        token_provider: asked for a token before every dial, sync or async; `auth_token` is the
            fallback when it raises.
        handler: called with every frame that answers nothing, one at a time, sync or async, in a
            task of its own behind a queue of 1,024 frames. What it raises is logged.
        fail_first_connect: raise the error of the first dial, instead of dialling again. Without
            it the block begins at once, and `Link.wait_connected` waits.
        min_reconnect_delay: seconds before the first dial after a loss.
        max_reconnect_delay: seconds between dials at most; the delay doubles, with jitter.
        logger: where to log; ``trio_dispatch`` by default.

    Raises:
        TypeError, ValueError: an argument cannot work.
        AuthError: the server refused the token.
        ConnectFailed: the first dial failed, with *fail_first_connect*.
    """
    supervisor = make_supervisor(
        url, None, auth_token, token_provider, handler, fail_first_connect,
        min_reconnect_delay, max_reconnect_delay, logger,
    )  # fmt: skip
    async with in_background(supervisor.run, Link(supervisor)) as link:
        yield link


async def run_link(
    url: str | Sequence[str],
    *,
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Handler | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    logger: logging.Logger | None = None,
    task_status: trio.TaskStatus[Link] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a `Link` until it is closed or cancelled: the blocking form of `open_link`.

    ``link = await nursery.start(run_link, url)`` gives the link. Arguments and errors are those of
    `open_link`; an error that ends the link is raised here.
    """
    supervisor = make_supervisor(
        url, None, auth_token, token_provider, handler, fail_first_connect,
        min_reconnect_delay, max_reconnect_delay, logger,
    )  # fmt: skip
    async with in_background(supervisor.run, Link(supervisor)) as link:
        task_status.started(link)
        await link.wait_closed()


def make_supervisor(
    url: str | Sequence[str],
    connector: Connector | None,
    /,
    auth_token: str | None = None,
    token_provider: TokenProvider | None = None,
    handler: Handler | None = None,
    fail_first_connect: bool = False,
    min_reconnect_delay: float = 1,
    max_reconnect_delay: float = 60,
    logger: logging.Logger | None = None,
) -> Supervisor:
    """Make what keeps a link connected; it does nothing yet."""
    addresses = read_addresses(url, "ws", "wss")
    if auth_token is not None or token_provider is not None:
        for address in addresses:
            if address.user_info is not None:
                raise ValueError(
                    f"{address.shown} has a user and a password, which go where the token goes: "
                    "in the Authorization header"
                )
    settings = LinkSettings(
        addresses=addresses,
        token=auth_token,
        token_provider=token_provider,
        fail_first_connect=fail_first_connect,
        min_reconnect_delay=check_seconds(min_reconnect_delay, "min_reconnect_delay"),
        max_reconnect_delay=check_seconds(max_reconnect_delay, "max_reconnect_delay"),
        logger=logger or LOGGER,
        dial=DialSettings(
            connector=connector,
            ssl_context=read_ssl_context(addresses, None),
            proxies={} if connector else find_proxies(addresses, "env", for_websocket=True),
        ),
    )
    if max_reconnect_delay < min_reconnect_delay:
        raise ValueError("max_reconnect_delay is less than min_reconnect_delay")
    return Supervisor(settings, HandlerTask(handler, settings.logger))
