"""Clients in memory, of servers in this process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from trio_dispatch._client.client import Client
from trio_dispatch._client.opening import open_over
from trio_dispatch.server._identity import Tokens


@asynccontextmanager
async def open_client_over(
    connect: Callable[[Any], Awaitable[trio.abc.Stream]],
    tokens: Tokens,
    token: str | None,
    options: dict[str, Any],
) -> AsyncGenerator[Client, None]:
    """Open a client that reaches its server by *connect*.

    Args:
        connect: opens a stream to an address.
        tokens: the server's tokens, of which the first is the default.
        token: the client's token.
        options: those of `trio_dispatch.open_client`.
    """
    if token is None and "token_provider" not in options:
        if callable(tokens):
            raise TypeError("name a token: this server's tokens are a function")
        token = next(iter(tokens), None)
    url = options.pop("url")
    async with open_over(connect, url, token=token, **options) as client:
        yield client
