"""Right uses of the typed definitions: the type checkers find nothing here. Never run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypedDict

import attrs
import msgspec

from trio_dispatch import (
    Client,
    EnqueueRequest,
    Job,
    JobHandle,
    JobType,
    RunHandle,
    WorkflowRun,
    WorkflowType,
)
from trio_dispatch.server import Server


class Email(msgspec.Struct):
    to: str
    urgent: bool = False


@dataclass
class Order:
    order_id: str
    items: list[str]


@attrs.define
class Invoice:
    number: int


class Options(TypedDict):
    deep: bool


send_email = JobType("send-email", Email, queue="email", priority=5)
bill = JobType("bill", Invoice)
clean_up = JobType("clean-up", Options)
count = JobType("count", int)
order = WorkflowType("order-pipeline", Order)


async def calls(client: Client, job: Job, run: WorkflowRun) -> None:
    handle: JobHandle = await client.enqueue(send_email, Email("you"))
    await client.enqueue(send_email, Email("you"), queue="slow", priority=1)
    await client.enqueue(bill, Invoice(7))
    await client.enqueue(clean_up, Options(deep=True))
    await client.enqueue(count, 3)
    await client.enqueue("send-email", {"to": "you"})
    await client.enqueue("send-email")
    await client.enqueue_many([EnqueueRequest(send_email, Email("you")), EnqueueRequest("x", 1)])
    started: RunHandle = await client.start_workflow(order, Order("1", ["tea"]))
    finished: WorkflowRun = await client.run_workflow(order, Order("1", []))
    await client.run_workflow("order-pipeline", {"order_id": "1"}, cancel_with_scope=True)
    email: Email = send_email.payload_of(job)
    options: Options = clean_up.payload_of(job)
    number: int = count.payload_of(job)
    input: Order = order.input_of(run)
    print(email.to, options["deep"], number + 1, input.items, finished.state)
    for one in (handle, job, "job_1"):
        await client.get_job(one)
        await client.wait_job(one)
        await client.cancel_job(one)
    for other in (started, run, "wfrun_1"):
        await client.get_workflow(other)
        await client.workflow_timeline(other)
        client.watch(other)
    async with client.wait_jobs([handle, "job_1"]) as jobs:
        async for each in jobs:
            if each.state == "completed":
                print(each.payload_as(Email).to)


def served(server: Server) -> None:
    @server.job("plain")
    async def plain(payload: object) -> None:
        """Any payload."""
