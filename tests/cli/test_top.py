"""``top``: what it counts, and what it shows."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import cast

import pytest
from attrs import evolve
from rich.cells import cell_len

from tests.cli.test_demo_screen import SIZES, console, outline
from tests.shares import EVERYTHING
from trio_dispatch import Event, Stats, StreamGap
from trio_dispatch.cli.top.counts import REMEMBERED, WINDOW, Counts
from trio_dispatch.cli.top.screen import TopScreen

AT = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)


def job(type: str, id: str = "job_1", **data: object) -> Event:
    fields = {"job_id": id, "job_name": "send-email", "queue": "email", **data}
    return Event(type=f"job.{type}", ts=AT, topic=f"job:{id}", data=fields)


def run(type: str, id: str = "run_1", **data: object) -> Event:
    fields = {"run_id": id, "name": "order", **data}
    return Event(type=f"workflow.{type}", ts=AT, topic=f"workflow:{id}", data=fields)


def filled() -> Counts:
    board = Counts(stats=Stats())
    for n in range(30):
        id = f"job_{n:026}"
        board.add(job("enqueued", id), 0.1 * n)
        if n % 3:
            board.add(job("started", id, queue=f"queue-{n % 7}"), 0.1 * n)
        if n % 3 == 2:
            board.add(job("completed", id, elapsed_ms=n * 100), 0.1 * n)
        if n % 10 == 1:
            board.add(job("dlq", id, error=f"no such\x1b customer {n} " + "x" * 200), 0.1 * n)
    board.add(run("started"), 3)
    board.add(run("failed", "run_2", error="out of stock"), 3)
    return board


def test_it_counts_states_rates_queues_and_runs() -> None:
    board = Counts()
    for type in ("enqueued", "started", "retrying"):
        board.add(job(type), 1)
    board.add(job("enqueued", "job_2", queue=""), 2)
    board.add(run("started"), 2)
    board.add(run("started", "run_2"), 2)
    board.add(run("completed", "run_2"), 2)
    assert board.states() == {
        "pending": 1, "running": 0, "retrying": 1, "completed": 0, "failed": 0, "cancelled": 0
    }  # fmt: skip
    assert board.rates(3)[""] == 7 / WINDOW
    assert board.rates(3)["job.enqueued"] == 2 / WINDOW
    assert board.rates(1 + WINDOW)[""] == 4 / WINDOW
    assert board.rates(100)[""] == 0
    assert [name for name, _ in board.queues()] == ["default", "email"]
    assert list(board.runs) == ["run_1"]
    board.add(job("completed", elapsed_ms=1500), 3)
    assert board.slowest() == [(1.5, "send-email", "job_1")]
    assert board.states()["completed"] == 1


def test_what_it_keeps_is_bounded_and_what_it_lost_is_counted() -> None:
    board = Counts()
    for n in range(REMEMBERED + 5):
        board.add(job("completed", f"job_{n}", elapsed_ms=n), 0)
        board.add(run("started", f"run_{n}"), 0)
        board.add(job("dlq", f"dead_{n % 60}"), 0)
    assert len(board.runs) == REMEMBERED
    assert len(board.jobs) == REMEMBERED
    assert len(board.slowest()) == 20
    assert board.slowest()[0][0] == (REMEMBERED + 4) / 1000
    assert len(board.failures()) == 50
    assert board.states()["completed"] == REMEMBERED + 5
    board.add(StreamGap(), 1)
    assert board.summary(1)["gaps"] == 1


def failing(id: str) -> list[Event]:
    return [
        job("started", id),
        job("retrying", id, attempt=1),
        job("failed", id, error="no such customer"),
        job("dlq", id, error="no such customer"),
    ]


def test_each_failure_counts_once_whatever_number_of_events_tell_of_it() -> None:
    counts = Counts()
    for event in (*failing("job_1"), *failing("job_2"), *failing("job_2")):
        counts.add(event, 1)
    counts.add(run("step_failed", step_name="charge", error="no money"), 1)
    counts.add(run("failed", error="no money"), 1)
    assert [(f.type, f.name, f.step, f.error) for f in counts.failures()] == [
        ("workflow.failed", "order", "charge", "no money"),
        ("job.dlq", "send-email", "", "no such customer"),
        ("job.dlq", "send-email", "", "no such customer"),
    ]
    assert len(cast("list[object]", counts.summary(1)["failures"])) == 3


def test_events_of_one_job_may_come_in_any_order_and_twice() -> None:
    counts = Counts()
    for type, seconds in (("started", 1), ("completed", 2), ("completed", 2), ("enqueued", 0)):
        counts.add(evolve(job(type), ts=AT + timedelta(seconds=seconds)), 1)
    for type in ("completed", "started"):
        counts.add(run(type), 1)
    assert counts.states()["completed"] == 1
    assert counts.states()["pending"] == 0
    assert not counts.runs


@pytest.mark.parametrize("width", range(60, 201, 1 if EVERYTHING else 3))
def test_at_every_width_the_names_the_headings_and_the_counts_are_whole(width: int) -> None:
    counts = Counts(stats=Stats())
    for event in failing("job_01m89dbqygfwmr4cfy9qbfhrtv"):
        counts.add(evolve(event, data={**event.data, "queue": "invoices-of-customers"}), 1)
    counts.add(job("completed", "job_2", elapsed_ms=1500), 1)
    for n in range(1234):
        counts.add(job("enqueued", f"many_{n}", queue="default"), 1)
    screen = console(width, 24)
    view = TopScreen(screen, counts, "ws://host:8080/dwp")
    lines = screen.render_lines(view.render(2), pad=False)
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert max(map(cell_len, text.splitlines())) <= width
    for wanted in (
        *("trio-dispatch top  connected", "ws://host:8080/dwp", "q ends", "failed 0.1/s"),
        *("pending  running  retrying  completed  failed  cancelled", "jobs seen", "queues"),
        *("invoices-of-customers", "default", "slowest", "1.500  send-email", "failures"),
        *("no such cust", "job_2"),
    ):
        assert wanted in text, f"{wanted}\n{text}"
    assert re.search(r"invoices-of-customers +1 +0 +0 +0 +0 ", text), text
    assert "retrying  completed " in text.partition("queues")[2] or "retry   done" in text


@pytest.mark.parametrize("size", [*SIZES, (40, 10), (120, 24)])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_screen_fits_and_stands_still(size: tuple[int, int], encoding: str) -> None:
    screen = console(*size, encoding)

    def frame(board: Counts) -> list[str]:
        lines = screen.render_lines(
            TopScreen(screen, board, "ws://host:8080/dwp").render(5), pad=False
        )
        return ["".join(segment.text for segment in line) for line in lines]

    empty, full = frame(Counts()), frame(filled())
    disconnected = filled()
    disconnected.connected, disconnected.connections, disconnected.dropped = False, 3, 7
    lost = frame(disconnected)
    for lines in (empty, full, lost):
        assert len(lines) == size[1]
        assert max(map(len, lines)) <= size[0]
        assert "\x1b" not in "".join(lines)
    if encoding == "utf-8" and size in SIZES:
        assert [re.sub(r"[^╭╰│]", " ", line)[:1] for line in empty] == [
            re.sub(r"[^╭╰│]", " ", line)[:1] for line in full
        ]
        assert len(outline(empty)) == len(outline(full))
        text = "\n".join(full)
        for word in ("queue-", "no such", "send-email", "runs 1", "connected", "completed"):
            assert word in text
        assert "disconnected" in "\n".join(lost)
        assert "7 dropped" in "\n".join(lost)
