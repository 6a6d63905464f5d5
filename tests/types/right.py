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
from trio_dispatch.server import Server, Workflow, WorkflowEvent


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

    @server.job
    async def named_by_itself(payload: dict[str, int]) -> None:
        """Any payload."""

    @server.job(send_email, max_retries=1)
    async def send(email: Email) -> str:
        return email.to

    @server.workflow(order, version=2)
    async def run(workflow: Workflow, input: Order) -> int:
        return await steps(workflow, input)

    @server.workflow("any")
    async def any_input(workflow: Workflow, input: object) -> None:
        await workflow.child(order, Order("1", []))
        await workflow.fan_out(order, [Order("1", [])])

    @server.cron("nightly", "@daily", job=send_email, payload=Email("you"))
    async def nightly(email: Email) -> None:
        """By the clock."""

    server.assert_enqueued(send_email, Email("you"), count=1)
    server.assert_enqueued("send-email", {"to": "you"})
    server.assert_started(order, Order("1", []))
    print(server.jobs(send_email)[0].payload_as(Email).to, server.runs(order)[0].input)


async def steps(workflow: Workflow, input: Order) -> int:
    number: int = await workflow.step("count", count_items, input, 2, compensate=give_back)
    await workflow.step("count", count_items, input, 2, compensate=give_up)
    counts: list[int] = await workflow.parallel("group", one, one)
    event: WorkflowEvent | None = await workflow.wait_for_event(
        "paid", timeout=1, match=lambda event: bool(event.payload)
    )
    events: list[WorkflowEvent] = await workflow.wait_for_all("a", "b", timeout=1)
    run_id: str = await workflow.spawn(order, input)
    print(event, events, run_id)
    return number + sum(counts)


async def count_items(order: Order, factor: int) -> int:
    return len(order.items) * factor


async def one() -> int:
    return 1


async def give_back(number: int) -> None:
    """Undo a step."""


async def give_up() -> None:
    """Undo a step."""
