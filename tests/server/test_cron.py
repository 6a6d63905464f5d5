"""Jobs that are enqueued by the clock."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, running
from trio_dispatch.server import Cluster, Server
from trio_dispatch.server._cron import Schedule

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def following(schedule: str, moment: datetime, count: int = 1) -> list[str]:
    now = int((moment - EPOCH).total_seconds()) * 10**9
    found: list[str] = []
    for _ in range(count):
        now = Schedule(schedule).next_after(now)
        found.append((EPOCH + timedelta(seconds=now // 10**9)).isoformat(" ")[:19])
    return found


MOMENT = datetime(2026, 1, 31, 23, 59, 30, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("0 2 * * *", ["2026-02-01 02:00:00", "2026-02-02 02:00:00"]),
        ("*/15 * * * *", ["2026-02-01 00:00:00", "2026-02-01 00:15:00"]),
        ("30 4 1 * *", ["2026-02-01 04:30:00", "2026-03-01 04:30:00"]),
        ("0 9 * * MON-FRI", ["2026-02-02 09:00:00", "2026-02-03 09:00:00"]),
        ("0 0 29 2 *", ["2028-02-29 00:00:00", "2032-02-29 00:00:00"]),
        ("@hourly", ["2026-02-01 00:00:00", "2026-02-01 01:00:00"]),
        ("@daily", ["2026-02-01 00:00:00", "2026-02-02 00:00:00"]),
        ("@weekly", ["2026-02-01 00:00:00", "2026-02-08 00:00:00"]),
        ("@monthly", ["2026-02-01 00:00:00", "2026-03-01 00:00:00"]),
        ("@yearly", ["2027-01-01 00:00:00", "2028-01-01 00:00:00"]),
        ("@every 90s", ["2026-02-01 00:01:00", "2026-02-01 00:02:30"]),
        ("@every 1h30m", ["2026-02-01 01:29:30", "2026-02-01 02:59:30"]),
    ],
)
def test_schedules_are_those_of_crontab_in_utc(schedule: str, expected: list[str]) -> None:
    assert following(schedule, MOMENT, 2) == expected


@pytest.mark.parametrize(
    "schedule",
    [
        "",
        "x",
        "* * * *",
        "* * * * * *",
        "61 * * * *",
        "0 0 31 2 *",
        "@every",
        "@every 1ms",
        "@noon",
    ],
)
def test_what_is_no_schedule_is_refused_at_once(schedule: str) -> None:
    with pytest.raises(ValueError, match="is no schedule"):
        Server(TOKENS).cron("nightly", schedule)


async def test_jobs_are_enqueued_when_they_are_due_with_their_own_options(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, seed=1)
    times: list[float] = []

    @server.cron("tick", "@every 10s", payload={"a": 1}, queue="q")
    async def tick(payload: Any) -> None:
        times.append(trio.current_time())

    @server.job("clean-up", max_retries=0)
    async def clean_up(payload: Any) -> None:
        raise ValueError("boom")

    server.cron("nightly", "@every 25s", job="clean-up")

    async with running(server) as peer:
        await peer.call("subscribe", {"channel": "firehose"})
        await trio.sleep(35)
        await peer.settle()
        fired = [e for e in peer.events if e["data"]["type"] == "cron.fired"]
    assert [round(b - a, 2) for a, b in pairwise(times)] == [pytest.approx(10, abs=0.01)] * 2
    jobs = server.jobs("tick")
    assert [(job.queue, job.payload, job.state) for job in jobs] == [
        ("q", {"a": 1}, "completed")
    ] * 3
    assert [(job.state, job.retry_count) for job in server.jobs("clean-up")] == [("failed", 1)]
    assert [e["data"]["data"]["entry_name"] for e in fired] == ["tick", "tick", "nightly", "tick"]
    assert fired[0]["data"]["data"]["job_id"] == jobs[0].id
    assert "channel" not in fired[0]


async def test_a_schedule_may_be_registered_while_the_server_runs(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    async with server.run():
        await trio.sleep(1)
        server.cron("tick", "@every 10s")
        await trio.sleep(21)
        assert len(server.jobs("tick")) == 2


async def test_one_server_of_a_cluster_fires(autojump_clock: MockClock) -> None:
    cluster = Cluster(TOKENS, seed=1)
    cluster.cron("tick", "@every 10s")
    async with cluster.run():
        await trio.sleep(11)
        cluster.nodes[0].kill()
        await trio.sleep(10)
    fired = [[e.type for e in node.events].count("cron.fired") for node in cluster.nodes]
    assert fired == [1, 1, 0]


def test_a_name_is_scheduled_once() -> None:
    server = Server(TOKENS)
    server.cron("nightly", "@daily")
    with pytest.raises(ValueError, match="already"):
        server.cron("nightly", "@daily")
