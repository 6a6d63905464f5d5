"""Wrong uses of the typed definitions. The comment says which error mypy reports. Never run."""

# fmt: off

from __future__ import annotations

from tests.types.right import (
    Email,
    Order,
    bill,
    clean_up,
    count,
    count_items,
    one,
    order,
    send_email,
)
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
from trio_dispatch.server import Server, Workflow


async def calls(
    client: Client, job: Job, run: WorkflowRun, handle: JobHandle, started: RunHandle
) -> None:
    await client.enqueue(send_email, Order("1", []))  # E: call-overload|misc
    await client.enqueue(send_email, {"to": "you"})  # E: call-overload|misc
    await client.enqueue(send_email, "you")  # E: call-overload|misc
    await client.enqueue(send_email, None)  # E: call-overload|misc
    await client.enqueue(send_email)  # E: call-overload|misc
    await client.enqueue(send_email, Email(1))  # E: arg-type
    await client.enqueue(send_email, Email("you"), queue=1)  # E: call-overload|misc
    await client.enqueue(send_email, Email("you"), priority="high")  # E: call-overload|misc
    await client.enqueue(send_email, Email("you"), "email")  # E: call-overload|misc
    await client.enqueue(bill, Email("you"))  # E: call-overload|misc
    await client.enqueue(clean_up, {"deep": "yes"})  # E: call-overload|dict-item|typeddict-item|misc
    await client.enqueue(clean_up, {"shallow": True})  # E: call-overload|dict-item|typeddict|misc
    await client.enqueue(count, "three")  # E: call-overload|misc
    await client.enqueue(order, Order("1", []))  # E: call-overload|misc
    await client.enqueue(7, {})  # E: call-overload|misc
    await client.enqueue(None)  # E: call-overload|misc
    EnqueueRequest(send_email, Order("1", []))  # E: call-overload|arg-type|misc
    EnqueueRequest(send_email, {"to": "you"})  # E: call-overload|arg-type|misc
    EnqueueRequest(send_email)  # E: call-overload|call-arg
    EnqueueRequest(order, Order("1", []))  # E: call-overload|arg-type|misc
    EnqueueRequest()  # E: call-overload|call-arg
    await client.enqueue_many([send_email])  # E: list-item
    await client.enqueue_many([("send-email", {})])  # E: list-item
    await client.enqueue_many(EnqueueRequest("x"))  # E: arg-type
    await client.start_workflow(order, Email("you"))  # E: call-overload|misc
    await client.start_workflow(order)  # E: call-overload|misc
    await client.start_workflow(order, {"order_id": "1"})  # E: call-overload|misc
    await client.start_workflow(send_email, Email("you"))  # E: call-overload|misc
    await client.run_workflow(order, "1")  # E: call-overload|misc
    await client.run_workflow(order, Order("1", []), cancel_with_scope="yes")  # E: call-overload|misc
    await client.run_workflow(order, Order("1", "tea"))  # E: arg-type
    text: str = send_email.payload_of(job)  # E: assignment
    send_email.payload_of(run)  # E: arg-type
    send_email.payload_of("job_1")  # E: arg-type
    order.input_of(job)  # E: arg-type
    email: Email = order.input_of(run)  # E: assignment
    send_email.payload_of(job).too  # E: attr-defined
    order.input_of(run).id  # E: attr-defined
    JobType("x", int, queue=3)  # E: arg-type
    JobType("x")  # E: call-arg
    JobType(7, int)  # E: arg-type
    JobType("x", int, priority=None)  # E: arg-type
    WorkflowType("x")  # E: call-arg
    WorkflowType("x", Order, queue="email")  # E: call-arg
    await client.get_job(run)  # E: arg-type
    await client.get_job(7)  # E: arg-type
    await client.wait_job(started)  # E: arg-type
    await client.get_workflow(job)  # E: arg-type
    client.watch(handle)  # E: arg-type
    client.subscribe("jobs", overflow="drop_newest")  # E: arg-type


async def served(server: Server, workflow: Workflow) -> None:
    @server.job(send_email)  # E: arg-type
    async def wrong_payload(order: Order) -> None: ...

    @server.job  # E: type-var|call-overload
    def not_async(payload: object) -> None: ...

    @server.job(order)  # E: call-overload|type-var|misc
    async def wrong_definition(payload: Order) -> None: ...

    @server.workflow(order)  # E: arg-type
    async def wrong_input(workflow: Workflow, input: Email) -> None: ...

    server.assert_enqueued(send_email, Order("1", []))  # E: call-overload|arg-type|misc
    server.assert_started(order, Email("you"))  # E: call-overload|arg-type|misc
    await workflow.step("s", count_items, "order", 2)  # E: arg-type
    await workflow.step("s", count_items, Order("1", []))  # E: arg-type
    text: str = await workflow.step("s", one)  # E: assignment|arg-type
    await workflow.wait_for_event("e", match="x")  # E: arg-type
    await workflow.wait_for_event(["e"])  # E: arg-type
