"""What a server shows of itself: frozen copies, safe to keep after the server has ended.

Values have the names that the client's models give them: ``payload`` is decoded, ``payload_as``
decodes it into a type, and ``payload_bytes`` is what was received.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TypeVar

import attrs
import msgspec

from trio_dispatch.server._clock import to_datetime
from trio_dispatch.server._go_json import JsonProblem, decode
from trio_dispatch.server._store import JobRow, RunRow, StepRow

T = TypeVar("T")


def _decoded(data: bytes | None) -> object:
    """The value of JSON text; bytes that are none as they are; None where there is nothing."""
    if data is None:
        return None
    try:
        return decode(data)
    except JsonProblem:
        return data


def _decoded_as(data: bytes | None, type: type[T]) -> T:
    return msgspec.json.decode(b"null" if data is None else data, type=type)


@attrs.frozen(kw_only=True)
class JobView:
    """A job in the server's store."""

    id: str
    name: str
    queue: str
    state: str
    payload_bytes: bytes | None = attrs.field(repr=False)
    """The payload's JSON text as it was received; None where the request had none."""
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
    heartbeat_at: datetime | None
    """When the worker of a running job last said that it is alive: every ten seconds."""

    @property
    def payload(self) -> object:
        """The payload, decoded; None where there is none."""
        return _decoded(self.payload_bytes)

    def payload_as(self, type: type[T]) -> T:
        """Decode the payload into *type*.

        Raises:
            msgspec.ValidationError: it is of another shape.
        """
        return _decoded_as(self.payload_bytes, type)


@attrs.frozen(kw_only=True)
class StepView:
    """A step that was done."""

    step_name: str
    result_bytes: bytes | None = attrs.field(repr=False)
    """The result's JSON text, None where it had none."""
    created_at: datetime

    @property
    def result(self) -> object:
        """The result, decoded; None where there is none."""
        return _decoded(self.result_bytes)

    def result_as(self, type: type[T]) -> T:
        """Decode the result into *type*; raises like `JobView.payload_as`."""
        return _decoded_as(self.result_bytes, type)


@attrs.frozen(kw_only=True)
class RunView:
    """A workflow run in the server's store."""

    id: str
    name: str
    version: int
    """Which version of the workflow it runs."""
    state: str
    input_bytes: bytes | None = attrs.field(repr=False)
    """The input's JSON text as it was received; None where the request had none."""
    error: str
    parent_run_id: str
    scope_app_id: str
    scope_org_id: str
    created_at: datetime
    updated_at: datetime
    started_at: datetime
    completed_at: datetime | None
    steps: tuple[StepView, ...]

    @property
    def input(self) -> object:
        """The input, decoded; None where there is none."""
        return _decoded(self.input_bytes)

    def input_as(self, type: type[T]) -> T:
        """Decode the input into *type*; raises like `JobView.payload_as`."""
        return _decoded_as(self.input_bytes, type)


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
        payload_bytes=job.payload,
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
        heartbeat_at=_time(job.heartbeat_at),
    )


def _step_view(step: StepRow) -> StepView:
    return StepView(
        step_name=step.step_name, result_bytes=step.data, created_at=to_datetime(step.created_at)
    )


def run_view(run: RunRow) -> RunView:
    """A frozen copy of *run* and its steps."""
    return RunView(
        id=run.id,
        name=run.name,
        version=run.version,
        state=run.state,
        input_bytes=run.input,
        error=run.error,
        parent_run_id=run.parent_run_id,
        scope_app_id=run.identity.app_id,
        scope_org_id=run.identity.org_id,
        created_at=to_datetime(run.created_at),
        updated_at=to_datetime(run.updated_at),
        started_at=to_datetime(run.started_at),
        completed_at=_time(run.completed_at),
        steps=tuple(_step_view(step) for step in run.steps.values()),
    )


def count(states: Iterable[str]) -> dict[str, int]:
    """How often each state occurs."""
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return counts
