"""Event streams that are not answered, that die, or that nobody wants any more."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

import trio_dispatch
from tests.client.support import make_server, memory_client, through
from trio_dispatch import Client, ConnectFailed, Event, StreamGap
from trio_dispatch._client.opening import running
from trio_dispatch.server import Server

URL = "http://localhost/dwp"


class Line(trio.abc.Stream):
    """A connection to the server that may go deaf: then what the server sends is lost."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.asked = b""
        """What was sent first."""
        self.deaf = False
        self.slow = 0.0

    @property
    def is_event_stream(self) -> bool:
        return self.asked.startswith(b"GET")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.asked = self.asked or bytes(data)
        await trio.sleep(self.slow if self.is_event_stream else 0)
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        while True:
            data = await self._stream.receive_some(max_bytes)
            if not self.deaf:
                return data
            if not data:
                await trio.sleep_forever()

    async def aclose(self) -> None:
        await self._stream.aclose()


class Lines:
    """All connections of a client."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.lines: list[Line] = []
        self.down = False
        self.deaf_streams = 0
        """How many event streams that come next are accepted, and never answered."""
        self.slow = 0.0
        """Seconds until a request for an event stream reaches the server."""
        self.deaf_requests = False

    async def reach(self, address: object) -> trio.abc.Stream:
        if self.down:
            raise ConnectionRefusedError("down")
        line = _Watched(await self._server.open_stream(), self)
        line.slow = self.slow
        self.lines.append(line)
        return line

    @property
    def streams(self) -> list[Line]:
        return [line for line in self.lines if line.is_event_stream]


class _Watched(Line):
    def __init__(self, stream: trio.abc.Stream, lines: Lines) -> None:
        super().__init__(stream)
        self._lines = lines

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if not self.asked and bytes(data[:3]) == b"GET" and self._lines.deaf_streams:
            self._lines.deaf_streams -= 1
            self.deaf = True
        if self._lines.deaf_requests and not self.is_event_stream and self.asked:
            self.deaf = True
        await super().send_all(data)


@asynccontextmanager
async def client_on_lines(
    **options: Any,
) -> AsyncGenerator[tuple[Client, Server, Lines], None]:
    server = make_server()
    lines = Lines(server)
    client = through(memory_client(server, url=URL, **options), lines.reach)
    with trio.fail_after(7_200):
        async with server.run(), running(client):
            yield client, server, lines


async def publish(server: Server, first: int, last: int, pause: float = 1.0) -> None:
    for n in range(first, last):
        server.publish("job.completed", f"job:{n}", {"job_id": str(n)})
        await trio.sleep(pause)


def drain(events: Any) -> list[Event]:
    got: list[Event] = []
    try:
        while True:
            got.append(events.receive_nowait())
    except trio.WouldBlock:
        return got


def numbers(events: list[Event]) -> list[int]:
    return [int(str(event.data["job_id"])) for event in events if not isinstance(event, StreamGap)]


def gaps(events: list[Event]) -> list[StreamGap]:
    return [event for event in events if isinstance(event, StreamGap)]


def check_nothing_is_lost_unnoticed(server: Server, got: list[Event], count: int) -> None:
    """What did not come lies in a gap; what came came once, in order."""
    came = numbers(got)
    assert came == sorted(set(came))
    when = {int(event.topic.partition(":")[2]): event.ts for event in server.events}
    for n in set(range(count)) - set(came):
        assert any(
            gap.since is not None and gap.until is not None and gap.since <= when[n] <= gap.until
            for gap in gaps(got)
        ), n


# Not answered.


async def test_a_stream_that_is_not_answered_after_a_reconnect_holds_up_nothing(
    autojump_clock: object,
) -> None:
    async with client_on_lines() as (client, server, lines):
        async with client.subscribe("jobs") as events:
            lines.down = True
            server.drop_connections()
            with trio.move_on_after(3):
                await client.stats()
            lines.down = False
            lines.deaf_streams = 1
            await client.wait_connected()
            before = trio.current_time()
            await client.stats()
            assert trio.current_time() - before <= 2.001
            before = trio.current_time()
            await client.stats()
            assert trio.current_time() == before
            await trio.sleep(15)
            assert isinstance(await events.receive(), StreamGap)
            await publish(server, 0, 1)
            assert numbers([await events.receive()]) == [0]
            assert client.connected


async def test_streams_that_are_never_answered_lose_the_connection(autojump_clock: object) -> None:
    async with client_on_lines(request_timeout=None) as (client, _server, lines):
        lines.deaf_streams = 3
        async with client.connection_events() as changes:
            assert (await changes.receive()).connected
            async with client.subscribe("jobs"):
                pass
            lost = await changes.receive()
        assert isinstance(lost, trio_dispatch.Disconnected)
        assert "not answered within 10 s" in str(lost.reason)


async def test_a_subscribe_whose_test_is_not_answered_is_tried_again(
    autojump_clock: object,
) -> None:
    async with client_on_lines() as (client, server, _lines):
        server.delay("subscribe", 3_600)
        before = trio.current_time()
        async with client.subscribe("jobs") as events:
            assert trio.current_time() - before == pytest.approx(11, abs=1)
            await publish(server, 0, 1)
            assert numbers(drain(events)) == [0]
            await trio.sleep(2)
            assert len(server.connections) == 1


async def test_a_successor_that_is_not_answered_loses_nothing(autojump_clock: object) -> None:
    async with client_on_lines() as (client, server, lines):
        async with client.subscribe("jobs", buffer=10_000) as events:
            await trio.sleep(20)
            lines.deaf_streams = 2
            await publish(server, 0, 3_600)
            got = drain(events)
        assert not gaps(got)
        assert numbers(got) == list(range(3_600))


async def test_a_stream_without_a_successor_is_given_up(autojump_clock: object) -> None:
    async with client_on_lines() as (client, server, lines):
        async with client.subscribe("jobs", buffer=10_000) as events:
            lines.deaf_streams = 10
            await publish(server, 0, 300)
            got = drain(events)
        assert gaps(got)
        check_nothing_is_lost_unnoticed(server, got, 300)
        assert numbers(got)[-1] == 299


@pytest.mark.parametrize("provider_takes", [0.0, 6.0, 3_600.0])
async def test_connect_timeout_covers_the_provider_and_the_first_answer(
    autojump_clock: object, provider_takes: float
) -> None:
    async def provider() -> str:
        await trio.sleep(provider_takes)
        return "demo-token"

    async def silence(address: object) -> trio.abc.Stream:
        return trio.testing.memory_stream_pair()[0]

    client = memory_client(make_server(), None, url=URL, token_provider=provider)
    what = "the token provider gave none" if provider_takes > 10 else "no answer from http://"
    with pytest.raises(ConnectFailed, match=f"{what}.* within 10 s"):
        async with running(through(client, silence)):
            pytest.fail("entered")
    assert trio.current_time() == pytest.approx(10)


# Half-open.


@pytest.mark.parametrize("dies_at", [3, 20, 24, 26, 49, 60])
async def test_a_half_open_stream_leaves_a_gap(autojump_clock: object, dies_at: int) -> None:
    async with client_on_lines() as (client, server, lines):
        async with client.subscribe("jobs", buffer=10_000) as events:
            await publish(server, 0, dies_at)
            for line in lines.streams:
                line.deaf = True
            await publish(server, dies_at, 200)
            await trio.sleep(1)
            got = drain(events)
        assert len(gaps(got)) == 1
        check_nothing_is_lost_unnoticed(server, got, 200)
        assert len(numbers(got)) > 160


async def test_a_successor_that_is_deaf_from_the_start_is_replaced(autojump_clock: object) -> None:
    async with client_on_lines() as (client, server, lines):
        async with client.subscribe("jobs", buffer=10_000) as events:
            await publish(server, 0, 24)

            async def deafen() -> None:
                await trio.sleep(1.1)  # the successor has been answered
                lines.streams[1].deaf = True

            async with trio.open_nursery() as nursery:
                nursery.start_soon(deafen)
                await publish(server, 24, 100, 1.3)
            got = drain(events)
        assert not gaps(got)
        assert numbers(got) == list(range(100))


async def test_a_stream_that_is_proved_leaves_at_once_and_a_quiet_one_later(
    autojump_clock: object,
) -> None:
    async with client_on_lines() as (client, server, _lines):
        async with client.subscribe("jobs") as events:
            await trio.sleep(26)
            assert len(server.connections) == 2
            await publish(server, 0, 1)
            await trio.sleep(1)
            assert len(server.connections) == 1
            assert numbers(drain(events)) == [0]
            await trio.sleep(25 + 21)
            assert len(server.connections) == 1


# Not wanted any more.


@pytest.mark.parametrize("comes_back_after", [0.0, 0.1, 3.0])
@pytest.mark.parametrize("leaves_after", [0.0, 0.5, 1.0, 1.5])
async def test_giving_up_a_subscribe_while_its_stream_opens_harms_nothing(
    autojump_clock: object, leaves_after: float, comes_back_after: float
) -> None:
    async with client_on_lines() as (client, server, lines):
        lines.slow = 1
        server.delay("subscribe", 1)
        with trio.move_on_after(leaves_after):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        lines.slow = 0
        await trio.sleep(comes_back_after)
        async with client.subscribe("jobs") as events:
            await publish(server, 0, 1)
            assert numbers(drain(events)) == [0]
        await trio.sleep(5)
        assert server.connections == []
        await client.stats()


async def test_giving_up_while_it_is_tried_again_harms_nothing(autojump_clock: object) -> None:
    async with client_on_lines(connect_timeout=5) as (client, server, lines):
        lines.deaf_streams = 1
        with trio.move_on_after(5.5):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        await trio.sleep(20)
        assert server.connections == []
        await client.stats()


async def test_leaving_the_client_while_a_stream_opens_leaves_nothing(
    autojump_clock: object,
) -> None:
    async with client_on_lines() as (client, server, lines):
        lines.slow = 1
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def subscribe() -> None:
                with pytest.raises(trio_dispatch.ClientClosed):
                    async with client.subscribe("jobs"):
                        pytest.fail("entered")

            await trio.sleep(0.5)
            await client.aclose()
    assert server.connections == []


# Bounds.


@pytest.mark.parametrize(
    "line", [b"data: x\n", b"data: x\r\n", b"data: x\r", b"data: " + b"y" * 100]
)
async def test_an_event_that_never_ends_is_not_collected(
    autojump_clock: object, line: bytes
) -> None:
    server = make_server()
    sent = 0

    async def endless(stream: trio.abc.Stream) -> None:
        nonlocal sent
        head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
        try:
            await stream.send_all(head)
            for _ in range(1_000):
                await stream.send_all(line * 100)
                sent += 100 * len(line)
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:

        class Endless(Line):
            async def send_all(self, data: bytes | bytearray | memoryview) -> None:
                if bytes(data[:3]) == b"GET":
                    self._stream, far = trio.testing.memory_stream_pair()
                    nursery.start_soon(endless, far)
                else:
                    await super().send_all(data)

        async def reach(address: object) -> trio.abc.Stream:
            return Endless(await server.open_stream())

        options: dict[str, Any] = {"max_message_size": 10_000, "request_timeout": 5}
        client = through(memory_client(server, url=URL, **options), reach)
        async with server.run(), running(client):
            with trio.move_on_after(2):
                async with client.subscribe("jobs"):
                    await trio.sleep(1)
            await client.stats()
        assert sent < 400_000
        nursery.cancel_scope.cancel()
