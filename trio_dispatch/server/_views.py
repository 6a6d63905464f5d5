"""What a server shows of itself: frozen copies, safe to keep after the server has ended."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

import attrs

from trio_dispatch.server._clock import to_datetime
from trio_dispatch.server._store import JobRow, RunRow, StepRow


@attrs.frozen(kw_only=True)
class JobView:
    """A job in the server's store. ``payload`` is the JSON text that was received."""

    id: str
    name: str
    queue: str
    state: str
    payload: bytes | None
    priority: int
    max_retries: int
    retry_count: int
    last_error: str
    scope_app_id: str
    scope_org_id: str
    created_at: datetime
    updated_at: datetime
    run_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


@attrs.frozen(kw_only=True)
class StepView:
    """A step that was done. ``data`` is its result as JSON text, None where it had none."""

    step_name: str
    data: bytes | None
    created_at: datetime


@attrs.frozen(kw_only=True)
class RunView:
    """A workflow run in the server's store. ``input`` is the JSON text that was received."""

    id: str
    name: str
    state: str
    input: bytes | None
    error: str
    parent_run_id: str
    scope_app_id: str
    scope_org_id: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime
    completed_at: datetime | None
    steps: tuple[StepView, ...]


@attrs.frozen(kw_only=True)
class ConnectionView:
    """A live WebSocket session or event stream."""

    session_id: str
    """Empty for an event stream: those have none."""
    transport: str
    """``websocket`` or ``sse``."""
    format: str
    """``json`` or ``msgpack``."""
    subject: str
    channels: frozenset[str]
    credits: int
    """Credits left: how many more events it can get."""
    frames: int
    """Frames handled, or being handled, ``auth`` included."""
    events_delivered: int
    events_dropped: int
    """Events lost for want of credits or room."""
    blocked: bool
    """Whether a ``workflow.start`` is holding the connection up."""
    peer_gone: bool
    """Whether the client has left; the session lives on while a run or queued frames hold it."""


@attrs.frozen(kw_only=True)
class ServerStatistics:
    """Counts, since the server was made."""

    jobs: Mapping[str, int]
    """Jobs by state."""
    runs: Mapping[str, int]
    """Workflow runs by state."""
    connections: int
    """Live sessions and event streams."""
    topics: int
    """Topics that have subscribers."""
    frames: int
    """Frames handled, over all transports."""
    events_published: int
    events_delivered: int
    """Counted once per subscriber: what ``stats`` calls ``total_published``."""
    events_dropped: int
    """Events lost for want of credits or room, which ``stats`` never tells."""
    events_waiting: int
    """Workflow events that no run has taken yet."""


def _time(ns: int | None) -> datetime | None:
    return None if ns is None else to_datetime(ns)


def job_view(job: JobRow) -> JobView:
    """A frozen copy of *job*."""
    return JobView(
        id=job.id,
        name=job.name,
        queue=job.queue,
        state=job.state,
        payload=job.payload,
        priority=job.priority,
        max_retries=job.max_retries,
        retry_count=job.retry_count,
        last_error=job.last_error,
        scope_app_id=job.scope_app_id,
        scope_org_id=job.scope_org_id,
        created_at=to_datetime(job.created_at),
        updated_at=to_datetime(job.updated_at),
        run_at=to_datetime(job.run_at),
        started_at=_time(job.started_at),
        completed_at=_time(job.completed_at),
    )


def _step_view(step: StepRow) -> StepView:
    return StepView(
        step_name=step.step_name, data=step.data, created_at=to_datetime(step.created_at)
    )


def run_view(run: RunRow) -> RunView:
    """A frozen copy of *run* and its steps."""
    return RunView(
        id=run.id,
        name=run.name,
        state=run.state,
        input=run.input,
        error=run.error,
        parent_run_id=run.parent_run_id,
        scope_app_id=run.scope_app_id,
        scope_org_id=run.scope_org_id,
        created_at=to_datetime(run.created_at),
        updated_at=to_datetime(run.updated_at),
        started_at=to_datetime(run.started_at),
        completed_at=_time(run.completed_at),
        steps=tuple(_step_view(step) for step in run.steps),
    )
