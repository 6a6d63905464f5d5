"""The server that the demo brings along: its jobs and its workflow."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio

from trio_dispatch.cli.demo.plan import CARD, CARD_RETRIES, STOCK, Plan
from trio_dispatch.server import Identity, Quirks, Server, Workflow, current_job


def make_server(plan: Plan, token: str) -> Server:
    """Make a server that knows everything that *plan* asks for, and accepts *token*."""
    # Jobs fail on purpose, and their tracebacks would run through the picture.
    quiet = logging.getLogger("trio_dispatch.cli.demo_server")
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    server = Server(
        tokens={token: Identity(subject="demo", app_id="demo", org_id="demo", scopes={"*"})},
        concurrency=5,
        retry_delay=0.8 / plan.speed,
        seed=1,
        quirks=Quirks(definitions_ignored=False),  # a declined card is not tried three times
        logger=quiet,
    )
    special: dict[str, Callable[[Any], Awaitable[None]]] = {STOCK: sync_stock, CARD: charge_card}
    for kind in plan.kinds:
        max_retries = CARD_RETRIES if kind.role == CARD else 3
        server.job(kind.name, max_retries=max_retries)(special.get(kind.role, work))
    server.workflow(plan.workflow)(process_order)
    return server


async def work(payload: dict[str, Any]) -> None:
    """Take as long as the payload says."""
    await trio.sleep(payload["seconds"])


async def sync_stock(payload: dict[str, Any]) -> None:
    """Fail as often as the payload says, then succeed."""
    await trio.sleep(payload["seconds"])
    if current_job().attempt <= payload["failures"]:
        raise ConnectionError(f"warehouse {payload['warehouse']} does not answer")


async def charge_card(payload: dict[str, Any]) -> None:
    """Fail every time."""
    await trio.sleep(payload["seconds"])
    raise PermissionError("card declined")


async def process_order(workflow: Workflow, order: dict[str, Any]) -> dict[str, Any]:
    """Check an order, wait until somebody approves it, and ship it."""
    second: float = order["seconds"]

    async def price() -> float:
        await trio.sleep(0.4 * second)
        return float(sum(item["quantity"] * item["price"] for item in order["items"]))

    async def take(seconds: float, result: object = None) -> object:
        await trio.sleep(seconds * second)
        return result

    total = await workflow.step("validate", price)
    await workflow.parallel(
        "check",
        partial(take, 0.3, "in stock"),
        partial(take, 0.5, "no fraud"),
        partial(take, 0.7, "address found"),
    )
    approval = await workflow.wait_for_event(order["approval"], timeout=60)
    if approval is None:
        raise TimeoutError("nobody approved the order")
    await workflow.step("charge", take, 0.6, total)
    await workflow.sleep("packing", 0.5 * second)
    await workflow.step("ship", take, 0.4, {"parcel": f"{order['order_id']}-1"})
    return {"total": total, "approved_by": approval.payload}
