"""The server that was recorded: its jobs, workflows, queues and tokens."""

from __future__ import annotations

import json
from typing import Any

import trio

from tests.server.peer import TOKENS
from trio_dispatch.server import Cluster, Server, Workflow


def _want_object(value: Any) -> None:
    if not isinstance(value, dict | None):
        raise TypeError("unmarshal input for workflow: not an object")


async def noop(payload: Any) -> None:
    _want_object(payload)


async def send_email(payload: Any) -> None:
    _want_object(payload)
    await trio.sleep(0.02)


async def fail(payload: Any) -> None:
    _want_object(payload)
    raise ValueError("boom")


async def slow(payload: Any) -> None:
    _want_object(payload)
    await trio.sleep(2)


async def order_pipeline(workflow: Workflow, order: Any) -> None:
    _want_object(order)

    async def validate() -> None:
        if not (order or {}).get("items"):
            raise ValueError("order has no items")

    async def calculate() -> float:
        return 19.99 * len(order["items"])

    await workflow.step("validate", validate)
    await workflow.step("calculate-total", calculate)
    await workflow.step("send-confirmation", trio.lowlevel.checkpoint)


async def par(workflow: Workflow, input: Any) -> None:
    await workflow.parallel("grp", trio.lowlevel.checkpoint, trio.lowlevel.checkpoint)


async def slow_wf(workflow: Workflow, input: Any) -> None:
    await workflow.sleep("nap", 3)


async def approval(workflow: Workflow, input: Any) -> None:
    event = await workflow.wait_for_event("approved", timeout=10)

    async def record() -> str:
        return "timeout" if event is None else json.dumps(event.payload)

    await workflow.step("record", record)


async def saga(workflow: Workflow, trip: Any) -> None:
    async def charge() -> None:
        raise ValueError("card declined")

    nothing = trio.lowlevel.checkpoint
    await workflow.step("reserve-hotel", nothing, compensate=nothing)
    await workflow.step("reserve-flight", nothing, compensate=nothing)
    await workflow.step("charge", charge)


async def batch(workflow: Workflow, input: Any) -> None:
    for number in range(3):
        await workflow.spawn("item", {"i": number})
    await workflow.step("finalize", trio.lowlevel.checkpoint)


async def item(workflow: Workflow, input: Any) -> None:
    await workflow.step("process", trio.sleep, 0.05)


async def any_event(workflow: Workflow, input: Any) -> None:
    event = await workflow.wait_for_any("red", "green", timeout=5)

    async def seen() -> str:
        return "" if event is None else event.name

    await workflow.step("seen", seen)


async def match_event(workflow: Workflow, input: Any) -> None:
    await workflow.wait_for_event(
        "paid", timeout=8, match=lambda event: event.payload["order_id"] == input["order_id"]
    )
    await workflow.step("done", trio.lowlevel.checkpoint)


def recorded_server(scenario: str = "") -> Server:
    """The server of a recording."""
    server = Server(
        TOKENS,
        queues={"default", "email", "images"},
        concurrency=4,
        # The recorded delays were short by luck, and they are not compared.
        retry_delay=0.1,
        seed=1,
        federation_id="n1" if scenario == "federation" else None,
    )
    register(server)
    return server


def recorded_cluster() -> Cluster:
    """The servers of the recordings of several."""
    cluster = Cluster(
        TOKENS, queues={"default", "email", "images"}, concurrency=4, retry_delay=0.1, seed=1
    )
    register(cluster)
    return cluster


def register(server: Server | Cluster) -> None:
    """Register everything that was recorded."""
    server.job("noop")(noop)
    server.job("send-email")(send_email)
    server.job("fail", max_retries=3)(fail)
    server.job("slow")(slow)
    server.workflow("order-pipeline")(order_pipeline)
    server.workflow("par")(par)
    server.workflow("slow-wf")(slow_wf)
    server.workflow("approval")(approval)
    server.workflow("saga")(saga)
    server.workflow("batch")(batch)
    server.workflow("item")(item)
    server.workflow("any-event")(any_event)
    server.workflow("match-event")(match_event)
