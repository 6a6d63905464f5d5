"""A client on a bad network: what is restored, what is sent again, what a gap tells."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import statistics
import tracemalloc
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
import trio
import trio.testing
from trio._core._run import GLOBAL_RUN_CONTEXT

from tests.client.support import (
    EITHER_LIBRARY,
    WEBSOCKETS,
    make_server,
    memory_client,
    new_client,
    through,
)
from trio_dispatch import (
    AuthError,
    Client,
    ConnectFailed,
    ConnectionLost,
    Event,
    PermissionDenied,
    RequestTimeout,
    StreamGap,
    Subscription,
)
from trio_dispatch._client.opening import run_alone, running
from trio_dispatch._link.connection import Connection
from trio_dispatch.server import Identity, Server
from trio_dispatch.testing import FaultyProxy, PipeEnd

pytestmark = pytest.mark.wires(*WEBSOCKETS)


class Network:
    """The way to a server, which a test can cut."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.down = False
        self.dials: list[float] = []
        self.streams: list[trio.abc.HalfCloseableStream] = []

    async def connect(self, address: object) -> trio.abc.Stream:
        self.dials.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.down:
            raise OSError("network is unreachable")
        stream = await self.server.open_stream()
        self.streams.append(stream)
        return stream

    async def cut(self) -> None:
        """Drop every connection."""
        for stream in self.streams:
            assert isinstance(stream, PipeEnd)
            stream.reset()
        self.streams.clear()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def on_a_network(
    server: Server, token: str | None = "demo-token", **options: Any
) -> AsyncGenerator[tuple[Client, Network], None]:
    network = Network(server)
    client = memory_client(server, token, **options)
    client = through(client, network.connect)
    async with server.run(), running(client):
        yield client, network


async def test_the_session_and_every_subscription_are_restored(autojump_clock: object) -> None:
    server = make_server()
    async with on_a_network(server) as (client, network):
        async with client.subscribe("jobs", "workflows") as events:
            first = client.session_id
            await network.cut()
            assert (client.connected, client.session_id) == (False, None)
            await client.wait_connected()
            assert client.session_id not in (None, first)
            gap = await events.receive()
            assert isinstance(gap, StreamGap)
            assert gap.type == "stream.gap"
            handle = await client.enqueue("noop")
            assert (await events.receive()).job_id == handle.job_id
            assert server.connections[0].channels == {"jobs", "workflows"}
            assert server.connections[0].credits > 1_000_000
        await client.stats()
        assert server.connections[0].channels == frozenset()


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_fifty_reconnects_leave_one_true_gap_each_and_lose_nothing_else(
    autojump_clock: object,
) -> None:
    server = make_server()
    got: dict[str, list[Event]] = {"jobs": [], "firehose": []}

    async def read(client: Client, name: str, *channels: str) -> None:
        async with client.subscribe(*channels, buffer=100_000) as events:
            async for event in events:
                got[name].append(event)

    # Each connection lasts longer than the delay before it, so the delay does not grow.
    quick = on_a_network(server, min_reconnect_delay=0.2)
    async with quick as (client, network), running(memory_client(server)) as steady:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, client, "jobs", "jobs")
            nursery.start_soon(read, client, "firehose", "firehose", "queue:email")
            await trio.sleep(1)

            @nursery.start_soon
            async def produce() -> None:
                while True:
                    await steady.enqueue("noop")
                    await trio.sleep(0.05)

            for n in range(50):
                await trio.sleep(0.5 + 0.13 * (n % 7))
                await network.cut()
                await client.wait_connected()
            await trio.sleep(1)
            nursery.cancel_scope.cancel()

    published = {(event.type, event.topic): event.ts for event in server.events}
    assert len(published) == len(server.events)  # each job once, so these tell events apart
    for events in got.values():
        gaps = [event for event in events if isinstance(event, StreamGap)]
        assert len(gaps) == 50
        times: list[tuple[datetime, datetime]] = []
        for gap in gaps:
            assert gap.since is not None
            assert gap.until is not None
            assert gap.since < gap.until
            times.append((gap.since, gap.until))
        assert all(a[1] <= b[0] for a, b in pairwise(times))
        # Outside the gaps everything came, once, in order; inside, what came came once.
        seen = [(e.type, e.topic) for e in events if not isinstance(e, StreamGap)]
        assert len(set(seen)) == len(seen)
        assert seen == [event for event in published if event in set(seen)]
        missing = [ts for event, ts in published.items() if event not in set(seen)]
        assert missing
        rounding = timedelta(microseconds=1)
        assert all(
            any(since - rounding <= ts <= until + rounding for since, until in times)
            for ts in missing
        )
        # A gap stands where it belongs: what is before it is older than its end, and so on.
        for position, event in enumerate(events):
            if isinstance(event, StreamGap):
                before, after = events[position - 1], events[position + 1]
                assert before.ts is not None
                assert after.ts is not None
                assert event.since is not None
                assert event.until is not None
                assert before.ts <= event.until
                assert after.ts >= event.since


async def test_a_request_made_while_disconnected_waits(autojump_clock: object) -> None:
    server = make_server()
    async with on_a_network(server) as (client, network):
        network.down = True
        await network.cut()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                assert (await client.enqueue("noop")).state == "pending"

            await trio.sleep(10)
            assert client.statistics().link.queued == 1
            network.down = False
        assert len(server.jobs()) == 1


async def test_a_request_that_waits_too_long_was_certainly_not_sent(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with on_a_network(server, request_timeout=20) as (client, network):
        network.down = True
        await network.cut()
        before = trio.current_time()
        with pytest.raises(RequestTimeout, match="never sent") as caught:
            await client.enqueue("noop")
        assert trio.current_time() - before == pytest.approx(20)
        assert not caught.value.maybe_delivered
        with pytest.raises(RequestTimeout):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        assert client.statistics().wanted_channels == 0
        network.down = False
        await client.wait_connected()
        await client.stats()
        assert server.jobs() == []
        assert server.connections[0].channels == frozenset()


async def test_what_was_written_when_the_connection_dropped(autojump_clock: object) -> None:
    """Safe requests are sent once more; others raise, as nobody knows whether they arrived."""
    server = make_server()
    async with on_a_network(server) as (client, network):
        handle = await client.enqueue("noop")
        outcomes: dict[str, object] = {}

        async def note(name: str, call: Any) -> None:
            try:
                outcomes[name] = await call
            except Exception as exc:  # noqa: BLE001
                outcomes[name] = exc

        async with trio.open_nursery() as nursery:
            blocker = trio.Event()
            server_frozen(client, blocker)
            nursery.start_soon(note, "enqueue", client.enqueue("noop"))
            nursery.start_soon(note, "get", client.get_job(handle.job_id))
            nursery.start_soon(note, "raw", client.request("stats"))
            nursery.start_soon(note, "raw-unsafe", client.request("job.cancel", {"job_id": "x"}))
            nursery.start_soon(
                note, "raw-safe", client.request("job.cancel", {"job_id": "x"}, safe=True)
            )
            await trio.testing.wait_all_tasks_blocked()
            await network.cut()
        lost = outcomes["enqueue"]
        assert isinstance(lost, ConnectionLost)
        assert lost.maybe_delivered
        assert isinstance(outcomes["raw-unsafe"], ConnectionLost)
        assert getattr(outcomes["get"], "id", None) == handle.job_id
        assert isinstance(outcomes["raw"], dict)
        assert "400" in str(outcomes["raw-safe"])


def server_frozen(client: Client, blocker: trio.Event) -> None:
    """Let the client hear nothing more on its present connection."""
    connection = client._link._connection
    assert isinstance(connection, Connection)
    connection.session.receive = lambda payload: []  # type: ignore[method-assign]


async def test_a_safe_request_is_sent_twice_at_the_most(autojump_clock: object) -> None:
    server = make_server()
    async with on_a_network(server) as (client, network):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(ConnectionLost) as caught:
                    await client.stats()
                assert caught.value.maybe_delivered

            for _ in range(2):
                await client.wait_connected()
                server_frozen(client, trio.Event())
                await trio.testing.wait_all_tasks_blocked()
                await network.cut()
                await trio.sleep(0.01)
        await client.stats()


async def test_waiting_for_a_job_survives_any_loss(autojump_clock: object) -> None:
    server = make_server()
    async with on_a_network(server) as (client, network):
        async with trio.open_nursery() as nursery:
            for _ in range(20):

                @nursery.start_soon
                async def wait() -> None:
                    handle = await client.enqueue("slow")
                    assert (await handle.wait()).state == "completed"

            await trio.sleep(0.5)
            for _ in range(5):
                await network.cut()
                await trio.sleep(0.7)
        assert {job.state for job in server.jobs()} == {"completed"}


async def test_watching_a_run_survives_any_loss(autojump_clock: object) -> None:
    server = make_server()
    async with (
        on_a_network(server) as (client, network),
        running(memory_client(server)) as steady,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(steady.start_workflow, "nap")
        await trio.sleep(0.1)
        async with client.watch(server.runs()[0].id) as watch:
            seen: list[str] = []

            @nursery.start_soon
            async def cut() -> None:
                await trio.sleep(2.5)
                await network.cut()

            seen = [event.type async for event in watch]
        assert seen[0] == "stream.gap"
        assert watch.run is not None
        assert watch.run.state == "completed"


async def test_a_channel_refused_on_restore_raises_in_its_subscribers(
    autojump_clock: object,
) -> None:
    identities = {"demo-token": Identity(subject="x", app_id="a", org_id="o", scopes={"*"})}
    server = Server(identities.get)
    async with on_a_network(server) as (client, network):
        async with client.subscribe("jobs") as events:
            identities["demo-token"] = Identity(
                subject="x", app_id="a", org_id="o", scopes={"job:write"}
            )
            await network.cut()
            with pytest.raises(PermissionDenied):
                await events.receive()
        assert client.connected


async def test_a_refused_token_while_reconnecting_ends_the_client(autojump_clock: object) -> None:
    identities = {"demo-token": Identity(subject="x", app_id="a", org_id="o", scopes={"*"})}
    server = Server(identities.get)
    with pytest.raises(AuthError):
        async with on_a_network(server) as (client, network):
            async with client.subscribe("jobs") as events:
                identities.clear()
                await network.cut()
                with pytest.raises(AuthError):
                    await events.receive()


async def test_a_provider_brings_the_new_token(autojump_clock: object) -> None:
    tokens = {"old"}
    current = ["old"]

    def identify(token: str) -> Identity | None:
        if token not in tokens:
            return None
        return Identity(subject=token, app_id="a", org_id="o", scopes={"*"})

    server = Server(identify)
    options: Any = {"token": None, "token_provider": lambda: current[0]}
    async with on_a_network(server, **options) as (client, network):
        tokens.clear()
        tokens.add("new")
        await network.cut()
        await trio.sleep(4)  # refused, twice or so
        assert not client.connected
        current[0] = "new"
        await client.wait_connected()


async def test_attempts_can_be_limited(autojump_clock: object) -> None:
    server = make_server()
    network = Network(server)
    with pytest.raises(ConnectFailed, match="unreachable"):
        async with on_a_network(server, max_reconnect_attempts=3) as (_, network):
            network.down = True
            await network.cut()
            await trio.sleep_forever()
    assert len(network.dials) == 4
    with pytest.raises(ConnectionLost):
        async with on_a_network(server, reconnect=False) as (_, network):
            await network.cut()
            await trio.sleep_forever()
    assert len(network.dials) == 1


async def test_of_several_urls_each_dial_takes_the_next(autojump_clock: object) -> None:
    server = make_server()
    hosts: list[str] = []

    async def connect(address: Any) -> trio.abc.Stream:
        hosts.append(address.host)
        if address.host != "c.localhost":
            raise OSError("down")
        return await server.open_stream()

    urls = [f"ws://{name}.localhost/dwp" for name in "abc"]
    client = new_client(urls, token="demo-token", fail_first_connect=False)
    client = through(client, connect)
    async with server.run(), running(client):
        await client.wait_connected()
        assert hosts == ["a.localhost", "b.localhost", "c.localhost"]


async def test_a_half_open_peer_is_noticed_in_time(autojump_clock: object) -> None:
    server = make_server()
    async with on_a_network(server, heartbeat_interval=15, heartbeat_timeout=10) as (
        client,
        _,
    ):
        await client.stats()
        before = trio.current_time()
        server_frozen_at_the_wire(client)
        async with client.connection_events() as events:
            assert (await events.receive()).connected
            lost = await events.receive()
            assert not lost.connected
            assert "no sign of life" in str(getattr(lost, "reason", ""))
        assert 15 <= trio.current_time() - before <= 25
        await client.stats()


async def test_a_write_that_is_stuck_is_noticed_while_events_flow(autojump_clock: object) -> None:
    server = make_server()
    async with server.run(), FaultyProxy.in_memory(server.open_stream) as proxy:

        async def connect(address: Any) -> trio.abc.Stream:
            return await proxy.open_stream()

        client = memory_client(server, heartbeat_timeout=10, heartbeat_interval=15)
        async with running(through(client, connect)) as client, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def publish() -> None:
                for n in itertools.count():
                    server.publish("job.completed", f"job:{n}", {"job_id": str(n)})
                    await trio.sleep(1)

            async def enqueue() -> None:
                with pytest.raises(ConnectionLost):
                    await client.enqueue("noop", "x" * 1_000_000)

            async with client.subscribe("jobs", overflow="drop_oldest") as jobs:
                async with client.connection_events() as events:
                    assert (await events.receive()).connected
                    proxy.stall("to_server")
                    nursery.start_soon(enqueue)
                    before = trio.current_time()
                    lost = await events.receive()
                    assert "no progress" in str(getattr(lost, "reason", ""))
                    assert 10 <= trio.current_time() - before <= 20
                    assert len([e for e in drain(jobs) if e.type == "job.completed"]) >= 9
            nursery.cancel_scope.cancel()


def drain(subscription: Subscription) -> list[Event]:
    """What can be read without waiting."""
    events: list[Event] = []
    with contextlib.suppress(trio.WouldBlock):
        while True:
            events.append(subscription.receive_nowait())
    return events


async def test_a_silent_peer_is_pinged_after_each_interval(autojump_clock: object) -> None:
    server = make_server()
    async with server.run():
        client = memory_client(server, heartbeat_interval=2, heartbeat_timeout=10)
        async with running(client):
            await trio.testing.wait_all_tasks_blocked()
            before, sent = trio.current_time(), client.statistics().link.frames_sent
            times: list[float] = []
            while len(times) < 10:
                await trio.sleep(0.25)
                if client.statistics().link.frames_sent > sent:
                    sent = client.statistics().link.frames_sent
                    times.append(trio.current_time() - before)
            assert times == pytest.approx([2.0 * (n + 1) for n in range(10)], abs=0.6)


def server_frozen_at_the_wire(client: Client) -> None:
    """Half-open: what the server sends never arrives, and nothing says so."""
    connection = client._link._connection
    assert isinstance(connection, Connection)
    transport = connection._transport
    assert transport is not None

    async def never() -> Any:
        await trio.sleep_forever()

    async def swallow(data: bytes) -> None:
        await trio.lowlevel.checkpoint()

    wire = transport._stream  # type: ignore[attr-defined]
    wire._stream.receive_some = lambda max_bytes=None: never()
    wire._stream.send_all = swallow


async def test_a_server_busy_with_a_run_is_not_mistaken_for_dead(autojump_clock: object) -> None:
    server = make_server()

    @server.workflow("ten-minutes")
    async def ten_minutes(workflow: Any, input: Any) -> None:
        await workflow.sleep("long", 600)

    async with on_a_network(server) as (client, _):
        run = await client.run_workflow("ten-minutes")
        assert run.state == "completed"
        assert client.statistics().link.connections == 1


@pytest.mark.wires("websockets-json")
async def test_after_an_hour_away_everybody_is_back_soon_and_spread_out(
    autojump_clock: object,
) -> None:
    server = make_server()
    network = Network(server)
    async with server.run(), trio.open_nursery() as nursery:
        clients = []
        for _ in range(200):
            client = memory_client(server)
            client = through(client, network.connect)
            await nursery.start(run_alone, client)
            clients.append(client)
        network.down = True
        network.dials.clear()
        await network.cut()
        lost_at = trio.current_time()
        await trio.sleep(3600)
        attempts = network.dials[:]
        network.down = False
        back_from = trio.current_time()
        for client in clients:
            await client.wait_connected()
        assert trio.current_time() - back_from <= 60
        # No busy loop: at most one dial per client and 30 s once the delay has grown.
        later = [t for t in attempts if t - lost_at > 120]
        per_client_and_minute = len(later) / 200 / ((3600 - 120) / 60)
        assert per_client_and_minute <= 2
        # Spread out: no second of the last ten minutes sees a crowd.
        last = [int(t) for t in attempts if t > lost_at + 3000]
        histogram = [last.count(second) for second in range(min(last), max(last))]
        assert max(histogram) <= 25
        assert statistics.mean(histogram) == pytest.approx(200 / 45, rel=0.15)
        nursery.cancel_scope.cancel()


SOAK = int(os.environ.get("TRIO_DISPATCH_SOAK", "300"))
"""How many reconnects `test_nothing_grows` measures; ten requests each in a long soak."""


@pytest.mark.wires("websockets-json")
async def test_nothing_grows(autojump_clock: object) -> None:
    """Thousands of reconnects and requests leave memory and tasks where they were."""
    server = make_server()
    requests = 10 if SOAK >= 1_000 else 2
    async with (
        on_a_network(server, min_reconnect_delay=0.01, max_reconnect_delay=0.02) as (
            client,
            network,
        ),
        client.subscribe("jobs", buffer=10, overflow="drop_oldest"),
    ):

        async def work(rounds: int) -> None:
            for _ in range(rounds):
                for _ in range(requests):
                    await client.stats()
                await network.cut()
                await client.wait_connected()

        async def measure() -> tuple[int, int]:
            await trio.sleep(5)  # what is closing has closed
            # trio keeps up to a thousand deadlines that are over, and what they refer to.
            GLOBAL_RUN_CONTEXT.runner.deadlines._prune()
            network.dials.clear()
            gc.collect()
            tasks = trio.lowlevel.current_statistics().tasks_living
            return tasks, tracemalloc.get_traced_memory()[0]

        tracemalloc.start()
        try:
            await work(100)
            tasks_before, memory_before = await measure()
            await work(SOAK)
            tasks, memory = await measure()
        finally:
            tracemalloc.stop()
        print(f"{SOAK} reconnects, {SOAK * requests} requests: {memory - memory_before:+,} bytes")
        assert tasks == tasks_before
        assert memory - memory_before < 50_000


async def test_a_wait_that_begins_while_the_server_is_away_has_no_timeout(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with on_a_network(server, request_timeout=5) as (client, network):
        job = await client.enqueue("slow")
        run = await client.start_workflow("nap")
        network.down = True
        await network.cut()
        ended: list[str] = []

        async def wait(what: Any) -> None:
            ended.append((await what).state)

        async def watch() -> None:
            async with client.watch(run.run_id) as events:
                async for _ in events:
                    pass
            assert events.run is not None
            ended.append(events.run.state)

        async with trio.open_nursery() as nursery:
            await trio.sleep(10)
            for what in (job.wait(), run.wait()):
                nursery.start_soon(wait, what)
            nursery.start_soon(watch)
            await trio.sleep(60)
            assert ended == []
            network.down = False
        assert ended == ["completed"] * 3
