"""Jobs, runs and events as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from rich.cells import cell_len

from trio_dispatch import Event, Job, StreamGap, TimelineStep, WorkflowRun
from trio_dispatch.cli.output import plain
from trio_dispatch.cli.text import cut, readable, short_id


def _here(ts: datetime) -> datetime:
    try:
        return ts.astimezone()
    except (OverflowError, OSError, ValueError):  # the first day of the calendar, in the west
        return ts


def moment(ts: datetime | None) -> str:
    """A time, as this machine's clock shows it."""
    return "-" if ts is None else _here(ts).strftime("%Y-%m-%d %H:%M:%S")


def clock(ts: datetime | None) -> str:
    """The time of day, to the millisecond."""
    return "--:--:--.---" if ts is None else _here(ts).strftime("%H:%M:%S.%f")[:-3]


def value(found: object) -> str:
    """Anything, on one line."""
    return json.dumps(plain(found), ensure_ascii=False)


def fields(pairs: Iterable[tuple[str, object]]) -> list[str]:
    """Names and what they are, one on each line; what is empty is left out."""
    shown = [(name, found) for name, found in pairs if found not in (None, "", "-")]
    width = max((len(name) for name, _ in shown), default=0)
    return [f"{name:<{width}}  {found}" for name, found in shown]


def job_lines(job: Job) -> list[str]:
    """A job."""
    return fields(
        [
            ("job", job.id),
            ("name", job.name),
            ("state", job.state),
            ("queue", job.queue),
            ("priority", job.priority or None),
            ("failed attempts", f"{job.retry_count} of {job.max_retries + 1} allowed"),
            ("last error", job.last_error),
            ("payload", None if job.payload_bytes is None else value(job.payload)),
            ("created", moment(job.created_at)),
            ("started", moment(job.started_at)),
            ("completed", moment(job.completed_at)),
            ("next attempt", moment(job.run_at) if job.state == "retrying" else None),
        ]
    )


def run_lines(run: WorkflowRun) -> list[str]:
    """A workflow run."""
    return fields(
        [
            ("run", run.id),
            ("name", run.name),
            ("state", run.state),
            ("error", run.error),
            ("input", None if run.input_bytes is None else value(run.input)),
            ("output", None if run.output_bytes is None else value(run.output)),
            ("started", moment(run.started_at)),
            ("completed", moment(run.completed_at)),
            ("part of", run.parent_run_id),
        ]
    )


def step_line(step: TimelineStep) -> str:
    """A finished step of a run."""
    result = "" if step.data is None else f"  {value(step.result)}"
    return f"{clock(step.created_at)}  {step.step_name}{result}"


_SHOWN_APART: Final = frozenset({
    "job_id", "run_id", "scope_app_id", "scope_org_id", "job_name", "name", "step_name", "error",
    "attempt", "elapsed_ms",
})  # fmt: skip

MILLISECONDS_FROM: Final = 100
"""Columns from which on a line has place for milliseconds."""

TYPE: Final = len("job.completed")


def event_line(event: Event, width: int | None = None) -> str:
    """An event, or a gap, on a line of *width* cells; without a width, with everything.

    What matters most comes first: when, what happened, to whom, and the step, error or time. Where
    there is a width the id is short, and a line that is too long loses the rest first, then the
    id, then its end.
    """
    if isinstance(event, StreamGap):
        whose = f"events of {readable(event.server)}" if event.server else "events"
        line = f"{clock(event.until)}  {whose} may be missing here, since {clock(event.since)}"
        return line if width is None else cut(line, width)
    time, rest = clock(event.ts), _rest(event)
    what = [f"{event.type:<{TYPE}}", readable(event_name(event)), readable(event_detail(event))]
    if width is None:
        return _joined(time, what[0], event.topic, *what[1:], rest)
    id = short_id(event.job_id or event.run_id or event.topic)
    if width < MILLISECONDS_FROM:
        time = time[:8]
    for line in (_joined(time, *what, id, rest), _joined(time, *what, id)):
        if cell_len(line) <= width:
            return line
    return cut(_joined(time, *what), width)


def _joined(*pieces: str) -> str:
    return "  ".join(filter(None, pieces)).rstrip()


def event_name(event: Event) -> str:
    """The job's or the workflow's name, as far as the event says."""
    found = event.data.get("job_name") or event.data.get("name") or event.data.get("entry_name")
    return found if isinstance(found, str) else ""


def event_detail(event: Event) -> str:
    """What an event says besides: its step, its error, which attempt, how long it took."""
    data = event.data
    found = [str(data[key]) for key in ("step_name", "error") if data.get(key)]
    if data.get("attempt"):
        found.insert(0, f"attempt {data['attempt']}")
    if isinstance(elapsed := data.get("elapsed_ms"), (int, float)):
        found.append(f"{elapsed} ms")
    return ": ".join(found)


def _rest(event: Event) -> str:
    return " ".join(
        f"{name}={found if isinstance(found, (str, int, float)) else value(found)}"
        for name, found in event.data.items()
        if name not in _SHOWN_APART
    )
