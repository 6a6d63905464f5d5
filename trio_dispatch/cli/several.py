"""Finding out whether connections lead to one server or to several.

Each server counts the topics that its own clients subscribe to, and no other's. So one connection
subscribes to topics that nobody else has, and the others ask for the statistics: who sees so many
more is on the same server. Nothing is left behind: the subscriptions end with the connections.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final, TypeAlias

import trio

from trio_dispatch import Client

CONNECTIONS: Final = 6

INCOMPLETE: Final = (
    "at least {} servers are behind this URL, and the events of one are heard; give the URL of each"
)

MARKS: Final = (16, 48)
"""Topics that one connection subscribes to: a number between these, which is hard to mistake."""

AGREEING: Final = 2
"""So many looks in a row must agree, as other clients come and go meanwhile."""

LOOKS: Final = 12
"""After so many looks that do not agree, two connections count as one server's."""

PAUSE: Final = 0.2
"""Seconds at most until the second look, if the first one told nothing; later ones wait longer."""

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
            unknown = await _others_servers(stack, first, others)
        return servers


async def _others_servers(
    stack: AsyncExitStack, first: Client, others: list[Client]
) -> list[Client]:
    """Those of *others* that are not on the server of *first*."""
    same = dict.fromkeys(others, 0)
    elsewhere = dict.fromkeys(others, 0)
    for look in range(LOOKS):
        open_ones = [c for c in others if max(same[c], elsewhere[c]) < AGREEING]
        if not open_ones:
            break
        # Not secrets: nobody gains by guessing them.
        marks = random.randint(*MARKS)
        before = [await _topics(client) for client in open_ones]
        base = secrets.randbelow(10**20)
        channels = [f"job:job_{base + n:026}" for n in range(marks)]
        await stack.enter_async_context(first.subscribe(*channels))
        told = True
        for client, count in zip(open_ones, before, strict=True):
            rise = await _topics(client) - count
            is_same, is_elsewhere = 4 * abs(rise - marks) < marks, 4 * abs(rise) < marks
            same[client] = same[client] + 1 if is_same else 0
            elsewhere[client] = elsewhere[client] + 1 if is_elsewhere else 0
            told = told and (is_same or is_elsewhere)
        if not told:
            await trio.sleep(random.uniform(0, PAUSE * (look + 1)))
    return [client for client in others if elsewhere[client] >= AGREEING]


async def _topics(client: Client) -> int:
    return (await client.stats()).broker.topic_count
