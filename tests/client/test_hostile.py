"""Hostile servers: whatever they send, only their own calls and events suffer.

Each call ends with an answer or with an error of ours that is true; the client lives on, or ends
with an error that says what the server did; nothing hangs, and nothing is an `InternalError`.

``TRIO_DISPATCH_FUZZ=20000`` sets how many conversations are tried, over all wires together.
"""

from __future__ import annotations

import logging
import os
import tracemalloc
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.client.hostile import DeafStream, HostileWay, encode, framed
from tests.client.support import WEBSOCKETS, WIRES, make_server, memory_client, through
from trio_dispatch import (
    Client,
    ConnectFailed,
    DispatchError,
    EnqueueManyFailed,
    EnqueueRequest,
    InternalError,
    ProtocolError,
)
from trio_dispatch._client.opening import running

ROUNDS = int(os.environ.get("TRIO_DISPATCH_FUZZ", "400")) // len(WIRES)
PATIENCE = 300.0
"""Seconds (virtual ones) after which a call that waits for an end is given up."""


class Outcome:
    """What a conversation came to."""

    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    async def attempt(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make a call, and keep its error."""
        with trio.move_on_after(PATIENCE):
            try:
                await call()
            except (DispatchError, EnqueueManyFailed) as exc:
                self.errors.append(exc)

    @property
    def bugs(self) -> list[BaseException]:
        return [error for error in self.errors if isinstance(error, InternalError)]


class Conversation:
    """Uses everything that a client can do."""

    def __init__(self, client: Client, rng: Random) -> None:
        self.client = client
        self.rng = rng

    async def converse(self, outcome: Outcome) -> None:
        """Do a few things at once."""
        things = [self.jobs, self.many, self.listen, self.ask, self.cancel]
        if self.client.transport != "http":
            things += [self.runs, self.watch]
        async with trio.open_nursery() as nursery:
            for thing in self.rng.sample(things, self.rng.randint(1, 4)):
                nursery.start_soon(outcome.attempt, thing)

    async def jobs(self) -> None:
        job = await self.client.enqueue("noop", {"a": 1})
        await job.refresh()
        await self.client.get_job(job.job_id)
        await self.client.wait_job(job)

    async def many(self) -> None:
        entries = [EnqueueRequest("noop"), EnqueueRequest("fail-once")]
        handles = await self.client.enqueue_many(entries)
        async with self.client.wait_jobs(handles) as finished:
            async for job in finished:
                assert repr(job)

    async def runs(self) -> None:
        run = await self.client.start_workflow("nap")
        async with run.events() as events:
            async for event in events:
                assert isinstance(event.type, str)
        await run.wait()
        await run.timeline()

    async def listen(self) -> None:
        with trio.move_on_after(20):
            async with self.client.subscribe("firehose", "jobs", "queue:default") as events:
                while True:
                    event = await events.receive()
                    assert isinstance(event.type, str)
                    assert repr(event)

    async def ask(self) -> None:
        await self.client.stats()
        await self.client.publish_event("approved", {"a": 1})
        await self.client.request("stats")

    async def watch(self) -> None:
        run = await self.client.start_workflow("order-pipeline", {"items": [1]})
        async with self.client.watch(run.run_id) as events:
            async for event in events:
                assert isinstance(event.type, str)
        await self.client.workflow_timeline(run.run_id)
        await self.client.get_workflow(run.run_id)

    async def cancel(self) -> None:
        job = await self.client.enqueue("slow")
        await job.cancel()
        with trio.move_on_after(self.rng.random() * 3):
            await self.client.wait_job(job)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_whatever_a_server_sends_costs_no_more_than_its_own_call(
    rate: float, wire: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    @settings(
        max_examples=max(ROUNDS // 2, 1),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.integers(0, 2**64))  # hypothesis itself may not be asked inside a trio run
    def conversations(seed: int) -> None:
        outcome, rng = Outcome(), Random(seed)

        async def main() -> None:
            way = HostileWay(rng, rate, http=wire == "http")
            options: dict[str, Any] = {"request_timeout": 5, "heartbeat_interval": 5}
            client = memory_client(way.server, max_message_size=64 * 1024, **options)
            client = through(client, way.connect)
            with trio.fail_after(3600):
                async with way.server.run():
                    try:
                        async with running(client):
                            await Conversation(client, rng).converse(outcome)
                    except DispatchError as exc:
                        outcome.errors.append(exc)

        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
        assert outcome.bugs == [], [(b, b.__cause__) for b in outcome.bugs]

    conversations()


FLOODS: dict[str, Callable[[int], dict[str, Any]]] = {
    "pings": lambda n: {"id": f"p{n}", "type": "ping"},
    "large pings": lambda n: {"id": f"{n}" + "x" * 10_000, "type": "ping"},
    "answers to nothing": lambda n: {"id": "s", "type": "response", "correl_id": f"no{n}"},
    "errors of nobody": lambda n: {"id": "s", "type": "error", "error": {"code": n % 600}},
    "events that nobody wants": lambda n: {
        "id": "s", "type": "event", "channel": f"job:{n}",
        "data": {"type": "job.started", "topic": f"job:{n}", "data": {"job_id": f"{n}"}},
    },
    "wishes": lambda n: {"id": f"s{n}", "type": "request", "method": "auth"},
    "unknown types": lambda n: {"id": f"s{n}", "type": f"t{n}", "data": "x" * 1_000},
}  # fmt: skip


@pytest.mark.wires(*WEBSOCKETS)
@pytest.mark.parametrize("kind", FLOODS)
@pytest.mark.parametrize("when", ["before auth is answered", "later"])
async def test_a_flood_from_a_server_that_reads_nothing_is_not_stored(
    kind: str, when: str, wire: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    is_json = wire.endswith("json")
    flood = b"".join(framed(encode(FLOODS[kind](n), is_json)) for n in range(500))
    welcome = b""
    if when == "later":
        answer = {"id": "s", "type": "response", "correl_id": "t1", "data": {"session_id": "x"}}
        welcome = framed(encode(answer, is_json))
    stream = DeafStream(welcome, flood, times=20)

    async def connect(address: object) -> trio.abc.Stream:
        return stream

    options: dict[str, Any] = {"heartbeat_interval": None, "reconnect": False}
    client = through(memory_client(make_server(), **options), connect)
    tracemalloc.start()
    try:
        async with running(client):
            await trio.sleep(60)
    except (ConnectFailed, ProtocolError):
        assert when == "before auth is answered"
    else:
        assert stream.all_read
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < len(flood) + 3 * 2**20
