"""Outside of trio.run, everything says what is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import trio_dispatch
from trio_dispatch import remote
from trio_dispatch.server import Cluster, Identity, Server
from trio_dispatch.testing import FaultyProxy

URL = "ws://localhost:1/dwp"
TOKENS = {"t": Identity(scopes={"*"})}

BLOCKS: dict[str, Callable[[], Any]] = {
    "open_client": lambda: trio_dispatch.open_client(URL),
    "open_link": lambda: trio_dispatch.open_link(URL),
    "Server.run": lambda: Server(TOKENS).run(),
    "Server.serve": lambda: Server(TOKENS).serve(),
    "Cluster.serve": lambda: Cluster(TOKENS).serve(),
    "FaultyProxy": lambda: FaultyProxy.listen(URL),
    "remote.open_client": lambda: remote.open_client("key"),
    "remote.open_service": lambda: remote.open_service(api_key="key"),
}
CALLS: dict[str, Callable[[], Awaitable[Any]]] = {
    "connect_client": lambda: trio_dispatch.connect_client(None, URL),  # type: ignore[arg-type]
    "run_link": lambda: trio_dispatch.run_link(URL),
}


async def use(name: str) -> None:
    if name in CALLS:
        await CALLS[name]()
    else:
        async with BLOCKS[name]():
            pass


@pytest.mark.parametrize("name", [*BLOCKS, *CALLS])
def test_asyncio_is_told_apart_from_nothing_at_all(name: str) -> None:
    with pytest.raises(RuntimeError, match=r"needs trio.run\(...\), and asyncio runs here"):
        asyncio.run(use(name))
    with pytest.raises(RuntimeError, match=r"needs trio.run\(...\), and nothing runs here"):
        use(name).send(None)
