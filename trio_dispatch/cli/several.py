"""Finding out whether connections lead to one server or to several.

Each server counts the topics that its own clients subscribe to, and no other's. So one connection
subscribes to topics that nobody else has, and the others ask for the statistics: whoever sees them
come is on the same server. Nothing is left behind: the subscriptions end with the connection.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, TypeAlias

from trio_dispatch import Client

CONNECTIONS: Final = 6

INCOMPLETE: Final = (
    "at least {} servers are behind this URL, and the events of one are heard; give the URL of each"
)

MARKS: Final = 32
"""Topics that one connection subscribes to."""

SEEN: Final = MARKS * 3 // 4
"""By so many more topics a server is known; others may come and go meanwhile."""

Opener: TypeAlias = Callable[[], AbstractAsyncContextManager[Client]]


async def count_servers(openers: Sequence[Opener]) -> int:
    """Open a client with each of *openers*, and return how many servers they reach.

    Raises:
        DispatchError: one cannot connect, or the token has not the scopes ``stats:read`` and
            ``subscribe``.
    """
    async with AsyncExitStack() as stack:
        unknown = [await stack.enter_async_context(opener()) for opener in openers]
        servers = 0
        while unknown:
            servers += 1
            first, *others = unknown
            before = [await _topics(client) for client in others]
            base = secrets.randbelow(10**20)
            channels = [f"job:job_{base + n:026}" for n in range(MARKS)]
            async with first.subscribe(*channels):
                unknown = [
                    client
                    for client, count in zip(others, before, strict=True)
                    if await _topics(client) - count < SEEN
                ]
        return servers


async def _topics(client: Client) -> int:
    return (await client.stats()).broker.topic_count
