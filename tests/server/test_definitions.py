"""Typed definitions on the server's side."""

from __future__ import annotations

from typing import Any

import attrs
import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, running
from trio_dispatch import JobType, WorkflowType
from trio_dispatch.server import Quirks, Server, Workflow


class Email(msgspec.Struct):
    to: str
    urgent: bool = False


@attrs.define
class Order:
    order_id: str


SEND_EMAIL = JobType("send-email", Email)
ORDER = WorkflowType("order", Order)


async def test_functions_get_what_the_definition_says(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)
    got: list[object] = []

    @server.job(SEND_EMAIL)
    async def send(email: Email) -> None:
        got.append(email)

    @server.workflow(ORDER)
    async def order(workflow: Workflow, input: Order) -> None:
        got.append(input)

    async with server.open_client() as client:
        await (await client.enqueue(SEND_EMAIL, Email("you"))).wait()
        await (await client.start_workflow(ORDER, Order("1"))).wait()
    assert got == [Email("you"), Order("1")]
    server.assert_enqueued(SEND_EMAIL, Email("you"), count=1)
    server.assert_enqueued(SEND_EMAIL, count=1)
    server.assert_started(ORDER, Order("1"))
    assert server.jobs(SEND_EMAIL)[0].payload_as(Email) == Email("you")
    assert server.runs(ORDER)[0].input_as(Order) == Order("1")
    with pytest.raises(AssertionError, match="urgent"):
        server.assert_enqueued(SEND_EMAIL, Email("you", urgent=True))


async def test_a_payload_of_another_shape_fails_the_attempt_and_the_run(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, quirks=Quirks(definitions_ignored=False))

    @server.job(SEND_EMAIL, max_retries=0)
    async def send(email: Email) -> None:
        pytest.fail("called")

    @server.workflow(ORDER)
    async def order(workflow: Workflow, input: Order) -> None:
        pytest.fail("called")

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "send-email", "payload": {"to": 1}})
        await peer.call("workflow.start", {"name": "order"})
        await trio.sleep(1)
    assert "Expected `str`, got `int`" in server.jobs()[0].last_error
    assert server.runs()[0].state == "failed"


async def test_children_and_schedules_take_definitions(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, seed=1)
    got: list[object] = []

    @server.workflow(ORDER)
    async def order(workflow: Workflow, input: Order) -> None:
        got.append(input)

    @server.workflow
    async def parent(workflow: Workflow, input: Any) -> None:
        await workflow.child(ORDER, Order("1"))
        await workflow.fan_out(ORDER, [Order("2")])
        await workflow.spawn(ORDER, Order("3"))
        with pytest.raises(ValueError, match="does not fit"):
            await workflow.child(ORDER, {"order_id": 1})

    @server.cron("daily", "@every 24h", job=SEND_EMAIL, payload=Email("you"))
    async def send(email: Email) -> None:
        got.append(email)

    async with running(server) as peer:
        assert (await peer.call("workflow.start", {"name": "parent"}))["state"] == "completed"
        await trio.sleep(24 * 3600 + 1)
    assert got == [Order("1"), Order("2"), Order("3"), Email("you")]
