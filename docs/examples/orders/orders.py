"""An order service: jobs, a workflow with an approval, and a live dashboard.

The functions that do the work are registered with the embedded server here; in production they
belong to the workers of a Dispatch server, and `OrderService` and `Dashboard` stay as they are.
"""

from __future__ import annotations

import datetime
from collections import Counter
from typing import Any

import attrs
import trio

import trio_dispatch
from trio_dispatch import Client, StreamGap, WorkflowFailed
from trio_dispatch.server import Server, Workflow

APPROVAL_LIMIT = 100_000
"""Orders above this many cents wait for an approval."""

APPROVAL_TIME = datetime.timedelta(hours=12)


class OutOfStock(Exception):
    """There is not enough of an article."""


@attrs.define
class Line:
    """One line of an order."""

    article: str
    count: int
    cents: int


@attrs.define
class Order:
    """What a customer wants."""

    id: str
    email: str
    lines: list[Line]

    @property
    def cents(self) -> int:
        return sum(line.count * line.cents for line in self.lines)


# What workers do.


@attrs.define
class Warehouse:
    """The world outside: stock, a payment provider, and a mail server."""

    stock: Counter[str] = attrs.field(factory=Counter)
    charged: dict[str, int] = attrs.field(factory=dict)
    mails: list[dict[str, str]] = attrs.field(factory=list)
    mail_server_is_down: bool = False

    def reserve(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            if self.stock[line["article"]] < line["count"]:
                raise OutOfStock(line["article"])
        for line in lines:
            self.stock[line["article"]] -= line["count"]

    def release(self, lines: list[dict[str, Any]]) -> None:
        for line in lines:
            self.stock[line["article"]] += line["count"]


def register(server: Server, warehouse: Warehouse) -> None:
    """Teach *server* the jobs and workflows of the order service."""

    @server.job("send-mail", max_retries=8)
    async def send_mail(payload: dict[str, str]) -> None:
        if warehouse.mail_server_is_down:
            raise ConnectionError("the mail server is down")
        await trio.sleep(0.2)
        warehouse.mails.append(payload)

    @server.job("nightly-report", max_retries=0, timeout=3600)
    async def nightly_report(payload: object) -> None:
        await trio.sleep(1800)

    @server.workflow("fulfil-order")
    async def fulfil_order(workflow: Workflow, order: dict[str, Any]) -> None:
        lines = order["lines"]

        async def reserve() -> None:
            warehouse.reserve(lines)

        async def charge() -> int:
            await trio.sleep(2)
            warehouse.charged[order["id"]] = order["cents"]
            return int(order["cents"])

        async def release() -> None:
            warehouse.release(lines)

        await workflow.step("reserve", reserve)
        if order["cents"] > APPROVAL_LIMIT:
            event = await workflow.wait_for_event(
                f"approve:{order['id']}", timeout=APPROVAL_TIME.total_seconds()
            )
            if event is None or not event.payload["approved"]:
                await workflow.step("release", release)
                raise PermissionError("the order was not approved")
        await workflow.step("charge", charge)


# What the service does.


@attrs.frozen
class Placed:
    """An order on its way."""

    order: Order
    run: trio_dispatch.RunHandle


@attrs.define
class OrderService:
    """Takes orders and sees them through."""

    client: Client

    async def place(self, order: Order) -> Placed:
        """Start to fulfil *order*; returns while that goes on."""
        if not order.lines:
            raise ValueError("an order has at least one line")
        data = attrs.asdict(order) | {"cents": order.cents}
        run = await self.client.start_workflow("fulfil-order", data)
        return Placed(order, run)

    async def decide(self, order: Order, *, approved: bool) -> None:
        """Approve an expensive order, or turn it down."""
        await self.client.publish_event(f"approve:{order.id}", {"approved": approved})

    async def finish(self, placed: Placed) -> bool:
        """Wait for the end, and write to the customer; whether the order was fulfilled."""
        try:
            await placed.run.wait()
        except WorkflowFailed:
            await self._mail(placed.order, "We are sorry")
            return False
        await self._mail(placed.order, "Your order is on its way")
        return True

    async def handle(self, order: Order) -> bool:
        """`place` and `finish`."""
        return await self.finish(await self.place(order))

    async def _mail(self, order: Order, subject: str) -> None:
        await self.client.enqueue(
            "send-mail", {"to": order.email, "subject": subject}, queue="mail", priority=5
        )


@attrs.define
class Dashboard:
    """Counts what happens, live. What it missed it says."""

    client: Client
    jobs: Counter[str] = attrs.field(factory=Counter)
    runs: Counter[str] = attrs.field(factory=Counter)
    gaps: int = 0

    async def watch(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow all jobs and runs, until cancelled."""
        async with self.client.subscribe("jobs", "workflows", overflow="drop_oldest") as events:
            task_status.started()
            async for event in events:
                if isinstance(event, StreamGap):
                    self.gaps += 1
                    continue
                kind, _, what = event.type.partition(".")
                (self.jobs if kind == "job" else self.runs)[what] += 1
