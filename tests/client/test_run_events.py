"""A run's events: all of them, except where a gap stands; and its end, whatever fails."""

from __future__ import annotations

import copy
import itertools
import pickle
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from tests.client.run_support import (
    EVENTS_OF_THREE_SECONDS,
    all_events,
    make_run_server,
    missing,
    names,
    open_two_ways,
)
from tests.client.support import WEBSOCKETS, memory_client, open_memory_client
from trio_dispatch import ClientClosed, RunHandle, StreamGap
from trio_dispatch._client import run_events
from trio_dispatch._client.opening import running
from trio_dispatch._client.run_events import BYTES_KEPT, EVENTS_KEPT, Candidates, EventLog
from trio_dispatch._wire.models import Event
from trio_dispatch.server import Server, _wire

pytestmark = pytest.mark.wires(*WEBSOCKETS)


async def test_nothing_is_missing_when_the_main_connection_is_lost_during_the_look_up(
    autojump_clock: object,
) -> None:
    async with open_two_ways(min_reconnect_delay=3, max_reconnect_delay=4) as net:
        net.server.delay("workflow.get", 2, times=1)

        async def cut() -> None:
            await trio.sleep(1)
            net.main.drop()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(cut)
            run = await net.client.start_workflow("steps", {"steps": 20, "pause": 1})
        assert not run.known
        await run.wait_known()
        assert trio.current_time() < 10  # long before the end
        events = await all_events(run)
        assert missing(net.server, run, events) == set()
        assert "stream.gap" not in names(events)


async def test_an_end_during_an_outage_is_heard_on_the_runs_connection(
    autojump_clock: object,
) -> None:
    async with open_two_ways() as net:
        run = await net.client.start_workflow("three-seconds", {"n": 1})
        net.main.refuse()
        net.main.drop()
        events = await all_events(run)
        assert names(events) == ["workflow.started", "first", "last", "workflow.completed"]
        net.main.accept()
        assert (await run.wait()).state == "completed"


async def test_an_end_during_an_outage_of_both_connections_leaves_a_gap(
    autojump_clock: object,
) -> None:
    async with open_two_ways() as net:
        run = await net.client.start_workflow("three-seconds", {"n": 1})
        for proxy in (net.main, net.runs):
            proxy.refuse()
            proxy.drop()
        await trio.sleep(10)
        assert net.server.runs()[0].state == "completed"
        net.main.accept()
        events = await all_events(run)
        assert names(events) == ["workflow.started", "first", "stream.gap"]
        assert isinstance(events[-1], StreamGap)
        assert events[-1].since == events[1].ts
        assert (await run.wait()).state == "completed"


@pytest.mark.parametrize("look_up", [0, 3])
async def test_a_gap_stands_for_the_oldest_of_very_many_events(
    autojump_clock: object, look_up: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_events, "EVENTS_KEPT", 100)
    server = make_run_server()
    if look_up:
        server.delay("workflow.get", look_up)  # it is known when all its events have arrived
    async with open_memory_client(server) as client:
        run = await client.start_workflow("steps", {"steps": 120})
        await run.wait()
        events = await all_events(run)
        assert len(events) == 101
        assert isinstance(events[0], StreamGap)
        assert events[0].until == events[1].ts
        assert events[-1].type == "workflow.completed"


async def test_a_scalar_input_beside_a_tagged_one_loses_nothing(autojump_clock: object) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        runs: list[RunHandle] = []

        async def start(input: object) -> None:
            runs.append(await client.start_workflow("three-seconds", input))

        async with trio.open_nursery() as nursery:
            for input in (5, {"n": 1}, 5, [1], 6):
                nursery.start_soon(start, input)
        for run in runs:
            assert [event.type for event in await all_events(run)] == EVENTS_OF_THREE_SECONDS
            assert {event.run_id for event in await all_events(run)} == {run.run_id}
        assert len({run.run_id for run in runs}) == 5
        await trio.sleep(1)
        assert client.statistics().wanted_channels == 0


async def test_a_stalled_connection_holds_up_neither_wait_nor_events(
    autojump_clock: object,
) -> None:
    async with open_two_ways(max_concurrent_runs=1) as net:
        run = await net.client.start_workflow("three-seconds", {})
        await trio.sleep(1)
        net.runs.stall()
        events = await all_events(run)
        assert names(events) == ["workflow.started", "first", "stream.gap"]
        assert (await run.wait()).state == "completed"
        assert trio.current_time() <= 3 + 3 / 8 + 1.1
        net.runs.resume()
        await net.client.run_workflow("three-seconds", {})  # its place is free again


async def test_without_the_subscribe_scope_a_gap_stands_for_all_events(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_run_server(), "no-subscribe") as client:
        run = await client.start_workflow("three-seconds", {})
        assert not run.known
        assert names(await all_events(run)) == ["stream.gap"]
        assert (await run.wait()).state == "completed"
        assert trio.current_time() == pytest.approx(3, abs=0.2)


async def test_an_event_that_cannot_be_read_is_counted_and_leaves_a_gap(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        run = await client.start_workflow("three-seconds", {})
        connections: list[Any] = list(server._hub.connections)
        connection = next(c for c in connections if c._caller.blocked)
        for topic in (f"workflow:{run.run_id}", "workflow:another", ""):
            connection._send(
                server_event(server, topic, b'{"type": "workflow.step_completed", "ts": 5}'),
                event=True,
            )
        events = await all_events(run)
        assert names(events) == [
            "workflow.started", "first", "stream.gap", "last", "workflow.completed"
        ]  # fmt: skip
        assert client.statistics().undecodable_events == 2


def server_event(server: Server, topic: str, data: bytes) -> object:
    """An event frame with any data."""
    return _wire.event(server._hub.clock, topic, msgspec.Raw(data))


async def test_odd_events_harm_nobody(autojump_clock: object) -> None:
    topics = ["", "workflow:", "workflow:x", "job:x", ":", "workflow"]
    ids: list[object] = ["", "x", None, 5, [], {}]
    strange = ["three-seconds", "", None, 7]
    server = make_run_server()
    server.delay("workflow.get", 1)
    async with open_memory_client(server) as client:

        async def publish() -> None:
            await trio.sleep(0.5)
            for topic, run_id, name in itertools.product(topics, ids, strange):
                server.publish("workflow.started", topic, {"run_id": run_id, "name": name})

        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish)
            run = await client.start_workflow("three-seconds", {})
        assert run.known
        assert [event.type for event in await all_events(run)] == EVENTS_OF_THREE_SECONDS
        assert (await run.wait()).state == "completed"


async def test_every_reader_gets_all_events_whenever_it_comes(autojump_clock: object) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        run = await client.start_workflow("three-seconds", {})
        counts: list[int] = []

        async def read(after: float) -> None:
            await trio.sleep(after)
            counts.append(len(await all_events(run)))

        async with trio.open_nursery() as nursery:
            for after in (0, 1, 2.99, 3, 10, 100):
                nursery.start_soon(read, after)
        assert counts == [4] * 6
    assert len(await all_events(run)) == 4  # the client is closed


async def test_events_are_read_inside_their_block_alone(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("three-seconds", {})
        events = run.events()
        with pytest.raises(RuntimeError, match="enter the block"):
            await events.receive()
        async with events:
            with pytest.raises(RuntimeError, match="once"):
                await events.__aenter__()
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def reader() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        while True:
                            await events.receive()

                await trio.sleep(1)
                await events.aclose()


async def test_a_cancelled_receive_takes_nothing(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("steps", {"steps": 50, "pause": 0.1})
        got = []
        async with run.events() as events:
            while True:
                with trio.move_on_after(0.05):
                    try:
                        got.append(await events.receive())
                    except trio.EndOfChannel:
                        break
        assert len(got) == 52


async def test_a_handle_can_be_copied_and_pickled(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("three-seconds", {})
        for copied in (copy.copy(run), copy.deepcopy(run)):
            assert copied.run_id == run.run_id
            assert (await copied.wait()).state == copied.state == run.state == "completed"
        alone = pickle.loads(pickle.dumps(run))
        assert (alone.run_id, alone.name, alone.state) == (run.run_id, run.name, "completed")
        assert alone.known
        assert await alone.wait_known() == run.run_id
        assert run.run_id in repr(alone)
        for call in (alone.wait, alone.refresh, alone.timeline):
            with pytest.raises(ClientClosed, match=r"unpickled.*use client\.watch"):
                await call()
        async with alone.events() as events:
            with pytest.raises(ClientClosed, match="unpickled"):
                await events.receive()


async def test_an_unknown_handle_can_be_pickled(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server()) as client:
        run = await client.start_workflow("three-seconds", 5)
        alone = pickle.loads(pickle.dumps(run))
        assert not alone.known
        with pytest.raises(ClientClosed, match="unpickled"):
            await alone.wait_known()


async def test_handles_after_the_client_is_closed(autojump_clock: object) -> None:
    server = make_run_server()
    async with server.run():
        async with running(memory_client(server)) as client:
            over = await client.start_workflow("three-seconds", {})
            await over.wait()
            answered = await client.start_workflow("order-pipeline", {"items": [1]})
            under_way = await client.start_workflow("three-seconds", {})
        assert (await over.wait()).state == "completed"
        for call in (answered.refresh, under_way.wait, under_way.timeline, over.refresh):
            with pytest.raises(ClientClosed):
                await call()
        assert under_way.state == "running"
        assert await under_way.wait_known() == under_way.run_id
        got = []
        async with under_way.events() as events:
            with pytest.raises(ClientClosed):
                while True:
                    got.append(await events.receive())
        assert names(got) == ["workflow.started", "first"]


def event(type: str, size: int = 0) -> tuple[Event, int]:
    return Event(type=type), size


@pytest.mark.wires("websockets-json")
class TestEventLog:
    def read(self, log: EventLog, position: int = 0) -> list[str]:
        got: list[str] = []
        while (found := log.read(position)) is not None:
            got.append(found[0].type)
            position = found[1]
        return got

    async def test_what_does_not_begin_with_the_first_event_has_a_gap_before_it(self) -> None:
        log = EventLog()
        log.add(*event("workflow.step_completed"))
        assert self.read(log) == ["stream.gap", "workflow.step_completed"]

    async def test_gaps_merge(self) -> None:
        log = EventLog()
        log.mark_gap()
        log.add(StreamGap())
        log.add(*event("workflow.started"))
        log.mark_gap()
        log.mark_gap()
        assert self.read(log) == ["stream.gap", "workflow.started", "stream.gap"]

    async def test_nothing_is_missing_after_the_last_event(self) -> None:
        log = EventLog()
        log.add(*event("workflow.started"))
        log.add(*event("workflow.failed"))
        log.mark_gap()
        assert self.read(log) == ["workflow.started", "workflow.failed"]
        ends: list[Event] = []
        log.on_end = ends.append
        assert [end.type for end in ends] == ["workflow.failed"]

    async def test_it_is_bounded_in_bytes_too(self) -> None:
        log = EventLog()
        log.add(*event("workflow.started"))
        for _ in range(100):
            log.add(*event("workflow.step_completed", BYTES_KEPT // 10))
        assert log.size <= BYTES_KEPT
        assert self.read(log) == ["stream.gap"] + ["workflow.step_completed"] * 10
        assert self.read(log, 95) == ["workflow.step_completed"] * 6

    async def test_one_event_that_is_too_large_is_a_gap(self) -> None:
        log = EventLog()
        log.add(*event("workflow.started", BYTES_KEPT + 1))
        assert self.read(log) == ["stream.gap"]

    @pytest.mark.parametrize("size", [0, BYTES_KEPT // 1000])
    async def test_candidates_are_bounded_together_and_the_first_stay(self, size: int) -> None:
        candidates = Candidates()
        for n in range(5_000):
            for type in ("workflow.started", "workflow.step_completed", "workflow.completed"):
                candidates.add(str(n), *event(type, size))
        assert "0" in candidates
        kept = [candidates.take(str(n)) for n in range(5_000)]
        assert sum(map(len, kept)) <= EVENTS_KEPT
        assert sum(log.size for log in kept) <= BYTES_KEPT
        assert len(kept[0]) == 3
