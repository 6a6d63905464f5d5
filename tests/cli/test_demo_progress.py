"""Live states: from events in any order, before and after the answers that name their jobs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from trio_dispatch import Event
from trio_dispatch.cli.demo.plan import make_plan
from trio_dispatch.cli.demo.progress import STRANGERS_KEPT, Board, Line

T0 = datetime(2024, 1, 1, tzinfo=timezone.utc)


def event(type: str, at: int, **data: object) -> Event:
    ts = T0 + timedelta(milliseconds=at)
    return Event(type=type, ts=ts, topic="job:job_1", data={"job_id": "job_1", **data})


async def test_states_follow_the_servers_clock_and_not_the_order_of_arrival() -> None:
    board = Board(make_plan())
    row = board.rows[0]
    board.add_job(row, "job_1", "pending")
    board.job_event(event("job.retrying", 5, attempt=1), "job_1")
    board.job_event(event("job.started", 3), "job_1")
    assert row.states == {"job_1": "retrying"}
    board.job_event(event("job.completed", 9), "job_1")
    board.job_event(event("job.enqueued", 10), "job_1")
    board.job_event(event("job.started", 11), "job_1")
    assert row.states == {"job_1": "completed"}


async def test_events_that_come_before_the_answer_are_made_up_for() -> None:
    board = Board(make_plan())
    board.job_event(event("job.started", 1), "job_1")
    board.job_event(event("job.failed", 2, error="boom"), "job_1")
    board.add_job(board.rows[1], "job_1", "pending")
    assert board.rows[1].states == {"job_1": "failed"}
    assert not board.rows[1].open_jobs()


async def test_somebody_elses_jobs_cost_bounded_memory_and_are_not_shown() -> None:
    lines: list[Line] = []
    board = Board(make_plan(), lines.append)
    for n in range(2 * STRANGERS_KEPT):
        board.job_event(event("job.failed", n), f"job_{n}")
    board.add_job(board.rows[0], "job_0", "pending")
    assert board.rows[0].states == {"job_0": "pending"}
    assert not lines
    assert not board.lines


async def test_steps_that_publish_no_event_are_done_when_a_later_one_is() -> None:
    board = Board(make_plan())
    board.run.done("parallel:check:2", 1.0)
    assert [step.label for step in board.run.steps if step.at is not None] == ["check:2"]
    board.run.done("ship", 2.0)
    assert all(step.at is not None for step in board.run.steps)
    board.run.done("unheard-of", 3.0)
    assert board.run.steps[-1].label == "unheard-of"
