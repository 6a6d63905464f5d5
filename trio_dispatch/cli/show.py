"""Jobs, runs and events as lines of text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime

from trio_dispatch import Event, Job, StreamGap, TimelineStep, WorkflowRun
from trio_dispatch.cli.output import plain


def moment(ts: datetime | None) -> str:
    """A time, as this machine's clock shows it."""
    return "-" if ts is None else ts.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def clock(ts: datetime | None) -> str:
    """The time of day, to the millisecond."""
    return "--:--:--.---" if ts is None else ts.astimezone().strftime("%H:%M:%S.%f")[:-3]


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


_TOPIC_FIELDS = frozenset({"job_id", "run_id", "scope_app_id", "scope_org_id"})


def event_line(event: Event) -> str:
    """An event, or a gap."""
    if isinstance(event, StreamGap):
        until = clock(event.until)
        return f"{until}  events may be missing here, since {clock(event.since)}"
    rest = [
        f"{name}={found if isinstance(found, (str, int, float)) else value(found)}"
        for name, found in event.data.items()
        if name not in _TOPIC_FIELDS
    ]
    return "  ".join([clock(event.ts), f"{event.type:<18}", event.topic, " ".join(rest)]).rstrip()
