"""The server that others are compared with: its tokens, jobs and workflows.

A server under comparison is expected to have the same.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import trio

from trio_dispatch.server import Identity, Quirks, Server, Workflow, WorkflowEvent
from trio_dispatch.server._quirks import RECORDED


def _identity(subject: str, *scopes: str) -> Identity:
    return Identity(subject=subject, app_id="app1", org_id="org1", scopes=scopes)


TOKENS = {
    "demo-token": _identity("demo-token", "*"),
    "ro": _identity("ro", "job:read", "workflow:read", "subscribe"),
    "wo": _identity("wo", "job:write"),
    "nosub": _identity("nosub", "job:read", "job:write"),
    "none": _identity("none"),
}


async def _noop(payload: Any) -> None:
    pass


async def _fail(payload: Any) -> None:
    raise ValueError("boom")


async def _pause(input: Any, otherwise: float) -> None:
    await trio.sleep((input or {}).get("ms", otherwise) / 1000)


async def _item(workflow: Workflow, input: Any) -> None:
    async def process() -> None:
        if (input or {}).get("item") == "bad":
            raise ValueError("bad item")
        await _pause(input, 50)

    await workflow.step("process", process)


async def _sleepy(workflow: Workflow, input: Any) -> None:
    await workflow.step("before", trio.lowlevel.checkpoint)
    await workflow.sleep("nap", (input or {}).get("ms", 2000) / 1000)
    await workflow.step("after", trio.lowlevel.checkpoint)


async def _wait_approval(workflow: Workflow, input: Any) -> None:
    name = (input or {}).get("event", "approved")
    timeout = (input or {}).get("timeout_ms", 60_000) / 1000
    await _record(workflow, await workflow.wait_for_event(name, timeout=timeout))


async def _saga(workflow: Workflow, input: Any) -> None:
    async def each() -> None:
        await _pause(input, 10)

    async def charge() -> None:
        if not (input or {}).get("ok"):
            raise ValueError("card declined")

    await workflow.step("reserve-hotel", each, compensate=each)
    await workflow.step("reserve-flight", each, compensate=each)
    await workflow.step("charge", charge)


async def _order(workflow: Workflow, input: Any) -> None:
    items = (input or {}).get("items", ["widget"])

    async def validate() -> None:
        if not items:
            raise ValueError("order has no items")

    async def total() -> float:
        return 19.99 * len(items)

    async def each() -> None:
        await _pause(input, 10)

    await workflow.step("validate", validate)
    await workflow.step("calculate-total", total)
    await workflow.parallel("fulfil", each, each, each)
    await workflow.step("send-confirmation", trio.lowlevel.checkpoint)


async def _spawns(workflow: Workflow, input: Any) -> None:
    await workflow.spawn("item", input)
    await workflow.step("finalize", trio.lowlevel.checkpoint)


async def _parent(workflow: Workflow, input: Any) -> None:
    await workflow.child("item", input)
    await workflow.step("finalize", trio.lowlevel.checkpoint)


async def _record(workflow: Workflow, event: WorkflowEvent | None) -> None:
    async def record() -> str:
        return "timeout" if event is None else json.dumps(event.payload)

    await workflow.step("record", record)


async def _wait_any(workflow: Workflow, input: Any) -> None:
    names = (input or {}).get("events", ["red", "green"])
    timeout = (input or {}).get("timeout_ms", 60_000) / 1000
    await _record(workflow, await workflow.wait_for_any(*names, timeout=timeout))


async def _wait_match(workflow: Workflow, input: Any) -> None:
    order = (input or {}).get("order_id", "")
    timeout = (input or {}).get("timeout_ms", 60_000) / 1000

    def matches(event: WorkflowEvent) -> bool:
        payload: Any = event.payload
        return bool((payload or {}).get("order_id", "") == order)

    await _record(workflow, await workflow.wait_for_event("paid", timeout=timeout, match=matches))


def reference_server(quirks: Quirks = RECORDED) -> Server:
    """Make it."""
    server = Server(
        TOKENS,
        quirks=quirks,
        queues={"default", "email", "images"},
        seed=0,
        logger=logging.Logger("reference", logging.CRITICAL),  # noqa: LOG001 - failures are meant
    )
    server.job("noop")(_noop)
    server.job("fail")(_fail)
    for name, function in {
        "item": _item,
        "sleepy": _sleepy,
        "wait-approval": _wait_approval,
        "saga": _saga,
        "order-pipeline": _order,
        "spawns": _spawns,
        "parent": _parent,
        "wait-any": _wait_any,
        "wait-match": _wait_match,
    }.items():
        server.workflow(name)(function)
    return server
