"""The server that others are compared with: its tokens, jobs and workflows.

A server under comparison is expected to have the same.
"""

from __future__ import annotations

import json
import logging
from typing import Any

import trio

from trio_dispatch.server import Identity, Quirks, Server, Workflow
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
    event = await workflow.wait_for_event("approved", timeout=60)

    async def record() -> str:
        return "timeout" if event is None else json.dumps(event.payload)

    await workflow.step("record", record)


async def _saga(workflow: Workflow, input: Any) -> None:
    async def each() -> None:
        await _pause(input, 10)

    async def charge() -> None:
        if not (input or {}).get("ok"):
            raise ValueError("card declined")

    await workflow.step("reserve-hotel", each, compensate=each)
    await workflow.step("reserve-flight", each, compensate=each)
    await workflow.step("charge", charge)


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
    server.workflow("item")(_item)
    server.workflow("sleepy")(_sleepy)
    server.workflow("wait-approval")(_wait_approval)
    server.workflow("saga")(_saga)
    return server
