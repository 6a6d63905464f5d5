"""``watch``: what its filters let through, and what it says of the connection."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
import trio
import trio.testing

from tests.cli.demonstrating import QUIET
from trio_dispatch import Event, StreamGap
from trio_dispatch.cli.output import OutputOptions
from trio_dispatch.cli.watch import EventFilter, print_events, tell_connection
from trio_dispatch.server import Identity, Server

AT = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


def event(type: str, **data: object) -> Event:
    return Event(type=type, ts=AT, topic="job:job_1", data=data)


EVENTS = [
    event("job.enqueued", job_name="email", queue="fast"),
    event("job.completed", job_name="image", queue="slow"),
    event("job.dlq", job_name="email", queue="slow"),
    event("workflow.step_failed", name="order"),
    event("workflow.completed", name="order"),
]


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (EventFilter(), [0, 1, 2, 3, 4]),
        (EventFilter(names=frozenset({"email"})), [0, 2]),
        (EventFilter(names=frozenset({"email", "order"})), [0, 2, 3, 4]),
        (EventFilter(queues=frozenset({"slow"})), [1, 2]),
        (EventFilter(states=frozenset({"completed"})), [1, 4]),
        (EventFilter(failed=True), [2, 3]),
        (EventFilter(failed=True, queues=frozenset({"slow"})), [2]),
    ],
)
def test_each_filter_lets_its_own_through_and_all_of_them_together(
    wanted: EventFilter, shown: list[int]
) -> None:
    assert [n for n, event in enumerate(EVENTS) if wanted.wants(event)] == shown
    assert wanted.wants(StreamGap())


def make_server() -> Server:
    server = Server(tokens={"token": Identity(scopes={"*"})}, logger=QUIET)

    @server.job("echo")
    async def echo(payload: object) -> None: ...

    return server


async def test_only_the_wanted_events_count(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    async with make_server().open_client() as client, trio.open_nursery() as nursery:

        async def enqueue() -> None:
            while True:
                await client.enqueue("echo")
                await trio.sleep(0.1)

        nursery.start_soon(enqueue)
        wanted = EventFilter(states=frozenset({"completed"}))
        await print_events(client, ("jobs",), wanted, 3, OutputOptions())
        nursery.cancel_scope.cancel()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == ["job.completed"] * 3


async def test_a_line_tells_when_the_server_goes_and_one_when_it_is_back(
    autojump_clock: trio.testing.MockClock, capsys: pytest.CaptureFixture[str]
) -> None:
    server = make_server()
    async with server.open_client() as client, trio.open_nursery() as nursery:
        nursery.start_soon(tell_connection, client)
        await trio.sleep(1)
        assert capsys.readouterr() == ("", "")
        server.drop_connections()
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    out, errors = capsys.readouterr()
    gone, back = errors.splitlines()
    assert out == ""
    assert gone.startswith("trio-dispatch: the connection is lost: ")
    assert gone.endswith("; connecting again")
    assert back.startswith("trio-dispatch: connected again after ")
