"""Cancelling: anywhere, any caller, at any time; nobody else notices, and nothing is left."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from tests.client.support import (
    EITHER_LIBRARY,
    WEBSOCKETS,
    make_server,
    memory_client,
    open_memory_client,
    through,
)
from tests.shares import FIRST, STEP
from trio_dispatch import Client, EnqueueRequest, Frame
from trio_dispatch._client.opening import running
from trio_dispatch._link.connection import GROUP
from trio_dispatch._link.requests import Request
from trio_dispatch.server import Server

pytestmark = pytest.mark.wires(*WEBSOCKETS)


class CancelAtStep(trio.abc.Instrument):
    """Cancels a scope when, since its beginning, tasks have run *step* times."""

    def __init__(self, scope: trio.CancelScope, step: int, only: trio.lowlevel.Task | None) -> None:
        self.scope = scope
        self.left = step
        self.only = only

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.only is None or task is self.only:
            self.left -= 1
            if self.left == 0:
                self.scope.cancel()


class Wires:
    """The streams that clients opened to a server."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.streams: list[trio.abc.Stream] = []

    async def connect(self, address: object) -> trio.abc.Stream:
        stream = await self.server.open_stream()
        self.streams.append(stream)
        return stream

    async def all_closed(self) -> bool:
        for stream in self.streams:
            try:
                await stream.send_all(b"?")
            except trio.ClosedResourceError:
                continue
            return False
        return True


Scenario = Callable[[Client], Awaitable[None]]


async def whole_life(client: Client) -> None:
    """Open, subscribe, request, read, unsubscribe, start a workflow, close."""
    async with running(client):
        async with client.subscribe("jobs", "queue:email") as events:
            await client.enqueue("noop", {}, queue="email")
            await events.receive()
            await events.unsubscribe("jobs")
        await client.enqueue_many([EnqueueRequest("noop")] * 3)
        await client.run_workflow("order-pipeline", {"items": [1]})
        await client.aclose()


@pytest.mark.wires(*EITHER_LIBRARY)
@pytest.mark.parametrize("whose", ["its own", "anybody's"])
async def test_cancelled_at_any_step_of_its_life_a_client_leaves_nothing(
    autojump_clock: trio.testing.MockClock, whose: str
) -> None:
    server = make_server()
    async with server.run():
        await trio.testing.wait_all_tasks_blocked()
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        step = FIRST - STEP + 1  # the first step is 1
        finished = False
        while not finished:
            step += STEP
            wires = Wires(server)
            client = memory_client(server)
            client = through(client, wires.connect)
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(
                    scope, step, trio.lowlevel.current_task() if whose == "its own" else None
                )
                trio.lowlevel.add_instrument(instrument)
                try:
                    await whole_life(client)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            finished = not scope.cancelled_caught
            left_at = trio.current_time()
            while server.connections:
                await trio.sleep(0.1)
                # A run goes on when its client leaves; these take no time.
                assert trio.current_time() - left_at <= 2, f"cancelled at step {step}"
            await trio.testing.wait_all_tasks_blocked()
            assert trio.lowlevel.current_statistics().tasks_living == tasks_before, step
            assert await wires.all_closed(), f"cancelled at step {step}"
        assert step > (15 if whose == "its own" else 100)


async def subscribing(client: Client) -> None:
    async with client.subscribe("jobs", "workflows") as events:
        await client.enqueue("noop")
        await events.receive()


async def asking(client: Client) -> None:
    await client.stats()
    await (await client.enqueue("noop")).wait()


async def starting(client: Client) -> None:
    await (await client.start_workflow("order-pipeline", {"items": [1]})).wait()


async def watching(client: Client) -> None:
    handle = await client.start_workflow("order-pipeline", {"items": [1]})
    async with client.watch(handle.run_id) as watch:
        async for _ in watch:
            pass


async def batching(client: Client) -> None:
    await client.enqueue_many([EnqueueRequest("noop")] * 10)


@pytest.mark.parametrize("scenario", [subscribing, asking, starting, watching, batching])
async def test_cancelled_at_any_step_a_call_leaves_the_client_whole(
    autojump_clock: trio.testing.MockClock, scenario: Scenario
) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        await trio.testing.wait_all_tasks_blocked()
        tasks_before = trio.lowlevel.current_statistics().tasks_living
        connection = server.connections[0].session_id
        step = FIRST - STEP + 1  # the first step is 1
        finished = False
        while not finished:
            step += STEP
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, step, None)
                trio.lowlevel.add_instrument(instrument)
                try:
                    await scenario(client)
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            finished = not scope.cancelled_caught
            await client.stats()  # answered after all that was queued before
            await trio.sleep(35)  # idle run connections are kept for half a minute
            assert client.statistics().wanted_channels == 0
            assert client.statistics().link.in_flight == 0
            assert client.statistics().link.queued == 0
            assert client.statistics().runs == 0
            (only,) = server.connections
            assert only.session_id == connection
            assert only.channels == frozenset(), f"cancelled at step {step}"
            assert trio.lowlevel.current_statistics().tasks_living == tasks_before, step


@pytest.mark.wires(*EITHER_LIBRARY)
@pytest.mark.parametrize("seed", range(3))
async def test_hundreds_cancelled_at_random_disturb_nobody(
    autojump_clock: trio.testing.MockClock, seed: int
) -> None:
    rng = random.Random(seed)
    server = make_server()
    right: list[int] = []
    cancelled: list[int] = []

    async with server.run(), running(memory_client(server)) as client:
        connection = client.session_id

        async def steady(n: int) -> None:
            for k in range(20):
                handle = await client.enqueue("noop", {"n": n, "k": k})
                job = await client.get_job(handle.job_id)
                assert job.payload == {"n": n, "k": k}
                right.append(n)

        async def fickle(n: int) -> None:
            with trio.CancelScope() as scope:
                instrument = CancelAtStep(scope, rng.randrange(1, 40), None)
                trio.lowlevel.add_instrument(instrument)
                try:
                    choice = rng.randrange(3)
                    if choice == 0:
                        async with client.subscribe("jobs", f"job:{n}"):
                            await client.enqueue("noop", {"x": "y" * rng.randrange(100_000)})
                    elif choice == 1:
                        await client.enqueue_many([EnqueueRequest("noop")] * 5)
                    else:
                        await (await client.enqueue("noop")).wait()
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            if scope.cancelled_caught:
                cancelled.append(n)

        async with trio.open_nursery() as nursery:
            for n in range(20):
                nursery.start_soon(steady, n)
            for n in range(300):
                nursery.start_soon(fickle, n)
                if n % 10 == 0:
                    await trio.lowlevel.checkpoint()
        assert len(right) == 400
        assert len(cancelled) > 100
        assert client.session_id == connection
        assert client.statistics().link.connections == 1
        await client.stats()
        await trio.sleep(1)
        assert server.connections[0].channels == frozenset()
        assert client.statistics().link.strays == 0


async def test_a_request_withdrawn_before_it_is_written_is_never_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        await client.stats()  # from here on a request that is alone is written at once
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.enqueue("noop")
        await client.stats()
        assert server.jobs() == []


async def test_the_late_answer_to_a_cancelled_request_is_dropped_quietly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        carried_out_all_the_same = 0
        for step in range(1, 30):
            jobs = len(server.jobs())
            with trio.CancelScope() as scope:
                trio.lowlevel.add_instrument(instrument := CancelAtStep(scope, step, None))
                try:
                    await client.enqueue("noop")
                finally:
                    trio.lowlevel.remove_instrument(instrument)
            await client.stats()
            if scope.cancelled_caught and len(server.jobs()) > jobs:
                carried_out_all_the_same += 1  # it had been written, so it went out whole
        assert carried_out_all_the_same > 0
        assert client.statistics().link.strays == 0


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_request_that_is_alone_is_written_on_the_spot(
    autojump_clock: trio.testing.MockClock, wire: str
) -> None:
    if wire.startswith("trio-websocket"):
        pytest.skip("that library writes in its own time")
    server = make_server()
    async with server.run(), running(memory_client(server)) as client:
        await client.stats()  # what belongs to the beginning has been written
        requests = [Request(Frame(type="request", method="stats")) for _ in range(GROUP + 2)]
        sent = []
        before = client.statistics().link.frames_sent
        for request in requests:
            client._link.submit(request)
            sent.append(client.statistics().link.frames_sent - before)
        # The first at once; the others wait for the writer, or until they are a group.
        assert sent == [1] * GROUP + [GROUP + 1] * 2
        await trio.sleep(1)
        assert all(request.answer is not None for request in requests)


async def test_no_more_than_256_requests_are_in_flight_whatever_they_are(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client, trio.open_nursery() as nursery:

        async def subscribe(n: int) -> None:
            async with client.subscribe(f"job:{n}"):
                await trio.sleep_forever()

        with server.freeze():
            for n in range(1000):
                nursery.start_soon(subscribe, n)
                nursery.start_soon(client.stats)
            await trio.testing.wait_all_tasks_blocked()
            assert client.statistics().link.in_flight == 256
        await trio.testing.wait_all_tasks_blocked()
        assert client.statistics().link.in_flight == 0
        server.drop_connections()
        await client.wait_connected()
        nursery.cancel_scope.cancel()
