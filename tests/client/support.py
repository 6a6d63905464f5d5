"""What the client's tests share: a server with a few jobs and workflows, reached in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from trio_dispatch import Client
from trio_dispatch._client.opening import running
from trio_dispatch._client.options import read_options
from trio_dispatch._transport.websocket import Connector
from trio_dispatch.server import Identity, Quirks, Server, Workflow

URL = "ws://localhost/dwp"

WIRES: dict[str, dict[str, Any]] = {
    f"{transport}-{format}": {"transport": transport, "format": format}
    for transport in ("trio-websocket", "websockets")
    for format in ("json", "msgpack")
}
"""What a client may use; its tests run over each of them."""

WIRES["http"] = {"url": "http://localhost/dwp"}

WEBSOCKETS = tuple(name for name in WIRES if name != "http")
"""For tests of what HTTP does not have."""

EITHER_LIBRARY = ("trio-websocket-msgpack", "websockets-json")
"""For tests that take long: each library and each format once."""

wire = "trio-websocket-json"
"""The one in use: set by the fixture of this name."""

SCOPES = {
    "demo-token": {"*"},
    "read-only": {"job:read", "workflow:read", "subscribe"},
    "no-subscribe": {"job:read", "job:write", "workflow:read", "workflow:write"},
    "write-only": {"job:write", "workflow:write"},
    "no-read": {"subscribe", "workflow:write"},
}


def make_server(**options: Any) -> Server:
    """A server with jobs that end in every way, and some workflows."""
    tokens = {
        token: Identity(subject=f"a {token[:4]} user", app_id="app1", org_id="org1", scopes=scopes)
        for token, scopes in SCOPES.items()
    }
    # Jobs have the retries of their definitions, so that tests need not wait for three.
    server = Server(tokens, **{"seed": 1, "quirks": Quirks(definitions_ignored=False), **options})

    @server.job("noop")
    async def noop(payload: object) -> None:
        pass

    @server.job("slow")
    async def slow(payload: object) -> None:
        await trio.sleep(2)

    @server.job("fail")
    async def fail(payload: object) -> None:
        raise ValueError("boom")

    @server.job("fail-once", max_retries=0)
    async def fail_once(payload: object) -> None:
        raise ValueError("boom")

    @server.workflow("order-pipeline")
    async def order_pipeline(workflow: Workflow, input: Any) -> None:
        async def validate(order: Any) -> None:
            if not order or not order.get("items"):
                raise ValueError("order has no items")

        await workflow.step("validate", validate, input)
        await workflow.step("calculate-total", calculate_total, input)

    @server.workflow("nap")
    async def nap(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3)

    @server.workflow("approval")
    async def approval(workflow: Workflow, input: Any) -> None:
        await workflow.wait_for_event("approved", timeout=60)

    return server


async def calculate_total(order: Any) -> float:
    """A step with a result."""
    return 19.99 * len(order["items"])


def new_client(*args: Any, **options: Any) -> Client:
    """A client that does nothing yet; the options are those of `open_client`."""
    return Client(read_options(*args, **options))


def through(
    client: Client,
    connector: Connector | None = None,
    *,
    main: Connector | None = None,
    runs: Connector | None = None,
) -> Client:
    """A client like *client* that reaches its server by *connector*, or by one for each purpose."""
    settings = client._settings if connector is None else client._settings.over(connector)
    if main is not None:
        settings = attrs.evolve(settings, link=settings.link.over(main))
    if runs is not None:
        settings = attrs.evolve(settings, run_link=settings.run_link.over(runs))
    return Client(settings)


def memory_client(server: Server, token: str | None = "demo-token", **options: Any) -> Client:
    """A client that will reach *server* in memory."""
    defaults = {"url": URL, "token": token} | ({} if "url" in options else WIRES[wire])

    async def connect(address: object) -> trio.abc.Stream:
        return await server.open_stream()

    return through(new_client(**(defaults | options)), connect)


@asynccontextmanager
async def open_memory_client(
    server: Server, token: str | None = "demo-token", **options: Any
) -> AsyncIterator[Client]:
    """A running server, and a client of it."""
    async with server.run(), running(memory_client(server, token, **options)) as client:
        yield client
