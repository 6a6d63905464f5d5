"""The connections on which runs are started: a place for each, kept alive, where the client is."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.client import support
from tests.client.run_support import all_events, make_run_server, open_two_ways
from tests.client.support import (
    WEBSOCKETS,
    WIRES,
    memory_client,
    new_client,
    open_memory_client,
    through,
)
from trio_dispatch import AuthError, Client, ClientClosed, ConnectFailed, InternalError
from trio_dispatch._client.opening import running
from trio_dispatch._client.run_connections import RunConnection

pytestmark = pytest.mark.wires(*WEBSOCKETS)


async def test_starts_at_once_with_one_idle_connection_run_side_by_side(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_run_server()) as client:
        await client.run_workflow("order-pipeline", {"items": [1]})  # leaves an idle connection
        began = trio.current_time()
        started: list[float] = []

        async def start() -> None:
            run = await client.start_workflow("three-seconds", {"n": 1})
            started.append(trio.current_time() - began)
            await run.wait()

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(start)
            await trio.sleep(1)
            statistics = client.statistics()
            assert (statistics.runs, statistics.runs_waiting) == (4, 0)
        assert max(started) < 0.1
        assert trio.current_time() - began < 3.5


async def test_a_start_outlives_the_failed_check_of_an_idle_connection(
    autojump_clock: object,
) -> None:
    async with open_two_ways(max_concurrent_runs=2) as net:
        await net.client.run_workflow("order-pipeline", {"items": [1]})
        net.runs.stall("to_server")

        async def reset_by_the_peer() -> None:
            await trio.sleep(1)
            net.runs.drop()
            net.runs.resume()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(reset_by_the_peer)
            with trio.fail_after(5):
                run = await net.client.start_workflow("three-seconds", {})
        assert (await run.wait()).state == "completed"
        assert net.client.statistics().runs == 0
        assert len(net.server.runs()) == 2


async def test_an_idle_connection_that_does_not_answer_is_replaced_within_two_seconds(
    autojump_clock: object,
) -> None:
    async with open_two_ways() as net:
        await net.client.run_workflow("order-pipeline", {"items": [1]})
        net.runs.stall()
        began = trio.current_time()

        async def resume() -> None:
            await trio.sleep(2.1)
            net.runs.resume()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(resume)
            run = await net.client.start_workflow("three-seconds", {})
        assert run.known
        assert trio.current_time() - began < 2.5
        assert net.runs.statistics().accepted == 2


async def test_a_thousand_abandoned_starts_leave_nothing(autojump_clock: object) -> None:
    async with open_memory_client(make_run_server(), max_concurrent_runs=1) as client:
        first = await client.start_workflow("sleep", {"seconds": 1_000})
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(1_000):
            with trio.move_on_after(0.01):
                await client.start_workflow("sleep", {"seconds": 1})
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        statistics = client.statistics()
        assert (statistics.runs, statistics.runs_waiting, statistics.wanted_channels) == (1, 0, 0)
        assert len(client._run_starts.matching) == 0
        assert (await first.wait()).state == "completed"


async def test_starts_abandoned_while_their_connection_is_made_leave_nothing(
    autojump_clock: object,
) -> None:
    async with open_two_ways(connect_timeout=1_000) as net:
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        net.runs.stall()
        for _ in range(20):
            with trio.move_on_after(0.5):
                await net.client.start_workflow("three-seconds", {})
        net.runs.resume()
        await trio.sleep(35)
        assert net.client.statistics().runs == 0
        assert net.server.runs() == []
        assert trio.lowlevel.current_statistics().tasks_living == tasks


class CutWhenIdle(trio.abc.HalfCloseableStream):
    """A stream through a proxy that cuts what is idle for *timeout* seconds."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, timeout: float) -> None:
        self._stream = stream
        self._timeout = timeout
        self._cut_at = trio.current_time() + timeout

    def _traffic(self) -> None:
        self._cut_at = trio.current_time() + self._timeout

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._traffic()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        while True:
            with trio.move_on_at(self._cut_at):
                data = await self._stream.receive_some(max_bytes)
                self._traffic()
                return data
            if trio.current_time() >= self._cut_at:
                await self._stream.aclose()
                raise trio.BrokenResourceError("cut by a proxy, as it was idle")

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("heartbeat_interval", [15, None])
async def test_a_run_outlasts_the_idle_timeout_of_a_proxy(
    autojump_clock: object, heartbeat_interval: float | None
) -> None:
    server = make_run_server()

    async def to_runs(address: object) -> trio.abc.Stream:
        return CutWhenIdle(await server.open_stream(), 50)

    client = through(memory_client(server, heartbeat_interval=heartbeat_interval), runs=to_runs)
    async with server.run(), running(client):
        run = await client.start_workflow("sleep", {"seconds": 75})
        kinds = [event.type for event in await all_events(run)]
        assert (await run.wait()).state == "completed"
        assert trio.current_time() == pytest.approx(75, abs=6)
        # Without pings it is cut, and the handle ends with the truth all the same.
        whole = ["workflow.started", "workflow.completed"]
        assert kinds == (whole if heartbeat_interval else [whole[0], "stream.gap", whole[1]])


async def test_missing_pongs_are_no_sign_of_death_while_a_run_blocks(
    autojump_clock: object,
) -> None:
    async with open_two_ways(
        heartbeat_interval=1, heartbeat_timeout=1, max_concurrent_runs=1
    ) as net:
        run = await net.client.start_workflow("sleep", {"seconds": 1_000})
        events = await all_events(run)
        assert [event.type for event in events] == ["workflow.started", "workflow.completed"]
        # A thousand pongs later the connection is as good as new.
        await net.client.run_workflow("three-seconds", {})
        assert net.runs.statistics().accepted == 1
        assert net.client.statistics().link.connections == 1


async def test_idle_connections_hear_nothing_and_are_closed_after_half_a_minute(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        await client.run_workflow("order-pipeline", {"items": [1]})
        await trio.sleep(1)
        assert [connection.channels for connection in server.connections] == [frozenset()] * 2
        await trio.sleep(31)
        assert len(server.connections) == 1


class TwoHosts:
    """Two servers at two addresses, either of which may be away."""

    def __init__(self) -> None:
        self.servers = {"a": make_run_server(), "b": make_run_server()}
        self.away: set[str] = set()
        self.connected: list[str] = []

    def client(self, **options: object) -> Client:
        client = new_client(
            ["ws://localhost:1/dwp", "ws://localhost:2/dwp"],
            token="demo-token",
            min_reconnect_delay=0.05,
            **WIRES[support.wire],
            **options,
        )
        return through(client, self.connect)

    async def connect(self, address: object) -> trio.abc.Stream:
        host = {1: "a", 2: "b"}[address.port]  # type: ignore[attr-defined]
        await trio.lowlevel.checkpoint()
        if host in self.away:
            raise OSError(f"{host} is away")
        self.connected.append(host)
        return await self.servers[host].open_stream()

    def runs(self, host: str) -> int:
        return len(self.servers[host].runs())


async def test_runs_go_where_the_client_is_of_a_list_of_urls(autojump_clock: object) -> None:
    hosts = TwoHosts()
    a, b = hosts.servers["a"], hosts.servers["b"]
    async with a.run(), b.run(), running(hosts.client()) as client:
        await client.run_workflow("order-pipeline", {"items": [1]})
        assert (hosts.runs("a"), hosts.runs("b")) == (1, 0)
        hosts.away.add("a")
        for connection in list(a._steering.connections):
            connection.cancel()
        await trio.sleep(1)
        run = await client.start_workflow("approval", {})
        assert run.known
        hosts.away.clear()
        await client.publish_event("approved")  # to where the run is
        assert (await run.wait()).state == "completed"
        assert len(await run.timeline()) == 1
        assert (hosts.runs("a"), hosts.runs("b")) == (1, 1)


async def test_an_idle_connection_to_where_the_client_was_is_not_used(
    autojump_clock: object,
) -> None:
    hosts = TwoHosts()
    a, b = hosts.servers["a"], hosts.servers["b"]
    async with a.run(), b.run(), running(hosts.client()) as client:
        await client.run_workflow("order-pipeline", {"items": [1]})
        main = next(c for c in a.connections if c.session_id == client.session_id)
        list(a._steering.connections)[a.connections.index(main)].cancel()
        await trio.sleep(1)
        assert len(a.connections) == 1  # the idle one
        await client.run_workflow("order-pipeline", {"items": [1]})
        assert (hosts.runs("a"), hosts.runs("b")) == (1, 1)
        assert len(b.connections) == 2


async def test_a_start_waits_for_a_host_that_is_not_available(autojump_clock: object) -> None:
    async with open_two_ways(max_reconnect_delay=2) as net:
        net.runs.refuse()

        async def come_back() -> None:
            await trio.sleep(10)
            net.runs.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            run = await net.client.start_workflow("three-seconds", {})
        assert run.known
        assert 10 <= trio.current_time() < 20


async def test_a_start_waits_while_the_client_is_not_connected(autojump_clock: object) -> None:
    async with open_two_ways(max_reconnect_delay=2) as net:
        net.main.refuse()
        net.runs.refuse()
        net.main.drop()

        async def come_back() -> None:
            await trio.sleep(10)
            net.runs.accept()
            net.main.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            assert (await net.client.run_workflow("three-seconds", {})).state == "completed"
        assert trio.current_time() < 20


async def test_a_start_gives_up_when_the_client_would(autojump_clock: object) -> None:
    async with open_two_ways(max_reconnect_attempts=3) as net:
        net.runs.refuse()
        with pytest.raises(ConnectFailed):
            await net.client.start_workflow("three-seconds", {})
        net.runs.accept()
        assert net.runs.statistics().refused == 3
        assert net.client.statistics().runs == 0
        await net.client.run_workflow("three-seconds", {})


async def test_without_reconnecting_a_start_fails_at_once(autojump_clock: object) -> None:
    async with open_two_ways(reconnect=False) as net:
        net.runs.refuse()
        with pytest.raises(ConnectFailed):
            await net.client.start_workflow("three-seconds", {})
        assert trio.current_time() < 0.1


async def test_a_refused_token_fails_the_start_that_it_is_refused_for(
    autojump_clock: object,
) -> None:
    server = make_run_server()
    async with open_memory_client(server) as client:
        server.revoke("demo-token")
        with pytest.raises(AuthError):
            await client.start_workflow("three-seconds", {})


async def test_a_start_that_was_never_written_goes_to_another_connection(
    autojump_clock: object,
) -> None:
    async with open_two_ways() as net:
        server = net.server
        with server.delay("subscribe", 1):

            async def drop() -> None:
                await trio.sleep(0.5)
                net.runs.drop()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(drop)
                run = await net.client.start_workflow("three-seconds", {})
        assert run.known
        assert len(server.runs()) == 1


async def test_waiting_starts_end_with_the_client(autojump_clock: object) -> None:
    errors: list[BaseException] = []
    server = make_run_server()
    async with server.run(), trio.open_nursery() as nursery:
        async with running(memory_client(server, max_concurrent_runs=1)) as client:
            await client.start_workflow("sleep", {"seconds": 100})

            async def start(what: str) -> None:
                try:
                    if what == "start":
                        await client.start_workflow("sleep", {"seconds": 1})
                    else:
                        await client.request("workflow.start", {"name": "sleep", "input": {}})
                except ClientClosed as exc:
                    errors.append(exc)

            for _ in range(10):
                nursery.start_soon(start, "start")
                nursery.start_soon(start, "request")
            await trio.sleep(1)
            assert client.statistics().runs_waiting == 20
        before = trio.current_time()
    assert trio.current_time() == before
    assert len(errors) == 20


async def test_a_request_by_name_has_a_place_like_any_start(autojump_clock: object) -> None:
    server = make_run_server()
    async with open_memory_client(server, max_concurrent_runs=1) as client:
        data = {"name": "sleep", "input": {"seconds": 1}}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.request, "workflow.start", data)
            await trio.sleep(0.1)
            with trio.move_on_after(0.1):
                await client.request("workflow.start", data)
        answer = await client.request("workflow.start", data)
        assert isinstance(answer, dict)
        assert answer["state"] == "completed"
        assert len(server.runs()) == 2
        assert client.statistics().runs == 0


async def test_a_bug_on_a_runs_connection_fails_its_start_alone(
    autojump_clock: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError

    async with open_memory_client(make_run_server()) as client:
        monkeypatch.setattr(RunConnection, "on_ready", fail)
        with pytest.raises(InternalError) as caught:
            await client.start_workflow("three-seconds", {})
        assert caught.value.__cause__ is not None
        monkeypatch.undo()
        assert (await client.run_workflow("three-seconds", {})).state == "completed"
        assert client.statistics().runs == 0
