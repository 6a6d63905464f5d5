"""When to connect again, and when to give up."""

from __future__ import annotations

import pytest
import trio

import trio_dispatch
from trio_dispatch import ConnectFailed, ConnectionLost
from trio_dispatch._link.reconnecting import Reconnecting
from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._wire.codecs import JSON
from trio_dispatch._wire.session import FrameSession
from trio_dispatch._wire.url import parse_url
from trio_dispatch.server import Identity, Server

LOST = ConnectionLost("the connection was lost")


def reconnecting(attempts: int | None = None) -> Reconnecting:
    return Reconnecting(
        LinkSettings(
            encode=JSON.encode,
            new_session=FrameSession,
            addresses=(parse_url("ws://h/dwp", "ws"),),
            min_reconnect_delay=1,
            max_reconnect_delay=60,
            max_reconnect_attempts=attempts,
        )
    )


def test_sessions_that_are_dropped_at_once_are_failed_attempts() -> None:
    rules = reconnecting(attempts=4)
    assert rules.lost(LOST, 0.0) is None  # the first connection, which no delay preceded
    delays = [rules.delay()]
    for _ in range(3):
        assert rules.lost(LOST, delays[-1] * 0.9) is None
        delays.append(rules.delay())
    assert delays[-1] > 4
    assert rules.lost(LOST, delays[-1] * 0.9) is LOST


def test_a_session_that_lasted_as_long_as_its_delay_brings_the_first_delay_back() -> None:
    rules = reconnecting()
    rules.lost(LOST, 100)
    delay = 0.0
    for _ in range(10):
        assert rules.failed(ConnectFailed("no")) is None
        delay = rules.delay()
    assert delay >= 30
    rules.lost(LOST, delay)
    assert 1 <= rules.delay() <= 2


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(None, 1, 8), (0.0, 1, 8), (20.0, 20, 20), (3_600.0, 60, 60)]
)
def test_a_server_that_asks_for_time_gets_it_up_to_the_longest_delay(
    asked: float | None, least: float, most: float
) -> None:
    rules = reconnecting()
    rules.lost(LOST, 100)
    busy = ConnectFailed("HTTP 503", asked)
    rules.failed(busy)
    assert least <= rules.delay(busy) <= most
    assert str(busy) == "HTTP 503"


async def test_a_crash_loop_is_not_dialled_all_the_time(autojump_clock: object) -> None:
    server = Server(tokens={"t": Identity(scopes={"*"})})
    async with server.run(), server.open_client(token="t") as client:
        async with client.connection_events() as changes:
            with trio.move_on_after(600):
                async for change in changes:
                    if change.connected:
                        server.drop_connections()
        assert 5 < client.statistics().link.dials < 30


async def test_attempts_are_used_up_by_sessions_that_are_dropped_at_once(
    autojump_clock: object,
) -> None:
    server = Server(tokens={"t": Identity(scopes={"*"})})
    with pytest.raises(ConnectionLost):
        async with server.run(), server.open_client(token="t", max_reconnect_attempts=5) as client:
            async with client.connection_events() as changes:
                async for change in changes:
                    if change.connected:
                        server.drop_connections()
    assert trio.current_time() < 200


async def test_waiting_for_a_connection_that_is_on_its_way_out_takes_no_turns(
    autojump_clock: object,
) -> None:
    """HTTP sees requests through before it reconnects; meanwhile nobody is connected."""
    server = Server(tokens={"t": Identity(scopes={"*"})})
    down = False

    async def reach() -> trio.abc.Stream:
        if down:
            raise ConnectionRefusedError("down")
        return await server.open_stream()

    async def fails(call: object, *args: object) -> None:
        with pytest.raises(trio_dispatch.DispatchError):
            await call(*args)  # type: ignore[operator]

    async with (
        server.run(),
        server.open_client(
            token="t", url="http://localhost/dwp", open_stream=reach, request_timeout=20
        ) as client,
        trio.open_nursery() as nursery,
    ):
        server.delay("job.get", 100)
        nursery.start_soon(fails, client.get_job, "x")
        await trio.sleep(0.1)
        down = True
        nursery.start_soon(fails, client.get_job, "y")
        await trio.sleep(0.1)
        assert not client.connected
        async with trio.open_nursery() as waiting:
            waiting.start_soon(client.wait_connected)
            waiting.start_soon(client.wait_connected)
            await trio.sleep(3)
            down = False
        assert client.connected
