"""The models of the server's answers: jobs, runs, steps, events, statistics.

Models are immutable and have the server's field names (protocol, "Jobs", "Runs and steps",
"Events"). Times are aware datetimes, to the microsecond; the server writes nanoseconds.

Stored values are returned as users stored them. ``payload``, ``input``, ``output`` and ``result``
are decoded if they are JSON, and bytes otherwise (a Go server stores step results in Go's own
encoding). The ``*_as(type)`` methods decode into a type, and ``*_bytes`` is the stored value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Any, ClassVar, Final, Literal, TypeVar, cast

import attrs
import msgspec

from trio_dispatch._wire.codecs import aware, decode_leniently

T = TypeVar("T")
M = TypeVar("M")

JobState = Literal["pending", "running", "completed", "failed", "retrying", "cancelled"]
"""The states of a job. A later server may have others."""

RunState = Literal["running", "completed", "failed"]
"""The states of a workflow run. A later server may have others."""

EventType = Literal[
    "job.enqueued",
    "job.started",
    "job.completed",
    "job.failed",
    "job.retrying",
    "job.dlq",
    "workflow.started",
    "workflow.step_completed",
    "workflow.step_failed",
    "workflow.completed",
    "workflow.failed",
    "cron.fired",
    "stream.gap",
]
"""The types of events. A later server may have others."""

JOB_END_STATES: Final = frozenset({"completed", "failed", "cancelled"})
RUN_END_STATES: Final = frozenset({"completed", "failed"})


def _read_stored(stored: bytes | None) -> object:
    """Decode stored bytes if they are JSON; else return the bytes. None if nothing is stored."""
    if stored is None:
        return None
    try:
        return cast("object", msgspec.json.decode(stored))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return stored


def _read_stored_as(stored: bytes | None, type: type[T]) -> T:
    return msgspec.json.decode(stored if stored is not None else b"null", type=type)


@attrs.frozen(kw_only=True)
class Job:
    """A job, as ``job.get`` returns it."""

    id: str
    name: str
    queue: str = ""
    state: JobState | str = ""
    """``pending``, ``running``, ``completed``, ``failed``, ``retrying`` or ``cancelled``."""
    priority: int = 0
    max_retries: int = 0
    """How often a failed job is retried: 3 means four attempts."""
    retry_count: int = 0
    """Failed attempts so far; ``max_retries`` + 1 when the job has failed for good."""
    last_error: str = ""
    scope_app_id: str = ""
    scope_org_id: str = ""
    worker_id: str = ""
    run_at: datetime | None = None
    started_at: datetime | None = None
    completed_at: datetime | None = None
    """None for a failed job: the server sets it only for completed jobs."""
    heartbeat_at: datetime | None = None
    timeout: int = 0
    """How long one attempt may take, in nanoseconds."""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    payload_bytes: bytes | None = attrs.field(default=None, alias="payload", repr=False)
    """The stored payload, byte for byte."""

    @property
    def payload(self) -> object:
        """The payload: decoded if it is JSON, bytes otherwise, None if there is none."""
        return _read_stored(self.payload_bytes)

    def payload_as(self, type: type[T]) -> T:
        """Decode the payload into *type* (anything that msgspec decodes into).

        Raises:
            msgspec.DecodeError: the payload is not JSON, or (`msgspec.ValidationError`) is JSON of
                another shape.
        """
        return _read_stored_as(self.payload_bytes, type)

    @property
    def finished(self) -> bool:
        """Whether the job has ended: it is completed, failed or cancelled."""
        return self.state in JOB_END_STATES


@attrs.frozen(kw_only=True)
class WorkflowRun:
    """A workflow run, as ``workflow.get`` returns it."""

    id: str
    name: str
    state: RunState | str = ""
    """``running``, ``completed`` or ``failed``."""
    error: str = ""
    scope_app_id: str = ""
    scope_org_id: str = ""
    started_at: datetime | None = None
    completed_at: datetime | None = None
    version: int = 0
    parent_run_id: str = ""
    created_at: datetime | None = None
    updated_at: datetime | None = None
    input_bytes: bytes | None = attrs.field(default=None, alias="input", repr=False)
    """The stored input, byte for byte."""
    output_bytes: bytes | None = attrs.field(default=None, alias="output", repr=False)
    """The stored output; today's server never sets one."""

    @property
    def input(self) -> object:
        """The input: decoded if it is JSON, bytes otherwise, None if there is none."""
        return _read_stored(self.input_bytes)

    def input_as(self, type: type[T]) -> T:
        """Decode the input into *type*; raises like `Job.payload_as`."""
        return _read_stored_as(self.input_bytes, type)

    @property
    def output(self) -> object:
        """The output, like `input`. Today's server never sets one."""
        return _read_stored(self.output_bytes)

    def output_as(self, type: type[T]) -> T:
        """Decode the output into *type*; raises like `Job.payload_as`."""
        return _read_stored_as(self.output_bytes, type)

    @property
    def finished(self) -> bool:
        """Whether the run has ended: it is completed or failed."""
        return self.state in RUN_END_STATES


@attrs.frozen(kw_only=True)
class TimelineStep:
    """One step that a run has finished, as ``workflow.timeline`` lists it.

    Failed steps are not in the timeline. Names are the step's own, or ``parallel:<group>:<i>``,
    ``parallel:<group>``, ``wait:<event>``, ``sleep:<name>``, ``child:…``, ``spawn:…``,
    ``compensate:…``.
    """

    step_name: str
    created_at: datetime | None = None
    data: bytes | None = attrs.field(default=None, repr=False)
    """The result that the server stored, byte for byte; None for a step without a result."""

    @property
    def result(self) -> object:
        """The result: decoded if it is JSON, bytes otherwise, None if there is none."""
        return _read_stored(self.data)

    def result_as(self, type: type[T]) -> T:
        """Decode the result into *type*; raises like `Job.payload_as`."""
        return _read_stored_as(self.data, type)


@attrs.frozen(kw_only=True)
class Event:
    """Something that happened on the server.

    Attributes:
        type: for example ``job.completed`` or ``workflow.step_failed``.
        ts: when it happened, by the server's clock; None if the server did not send a time.
        topic: what it happened to: ``job:<id>``, ``workflow:<id>``, or empty.
        data: the event's own fields.
        channels: the channels of the subscription that it matched, in the order of the call.
    """

    type: EventType | str
    ts: datetime | None = None
    topic: str = ""
    data: Mapping[str, object] = attrs.field(factory=dict[str, object], hash=False)
    channels: tuple[str, ...] = ()

    @property
    def job_id(self) -> str | None:
        """The job that the event is about, if it is about one."""
        return self._text("job_id")

    @property
    def run_id(self) -> str | None:
        """The workflow run that the event is about, if it is about one."""
        return self._text("run_id")

    def _text(self, key: str) -> str | None:
        value = self.data.get(key)
        return value if isinstance(value, str) and value else None


@attrs.frozen(kw_only=True)
class StreamGap(Event):
    """A mark in a stream of events: some may be missing here because the connection was lost.

    Attributes:
        since: the server's clock at the last frame before the loss; None if there was none.
        until: the server's clock when the subscription was restored.
        server: the URL of the server whose events are missing, if the client gets events from
            several servers; else empty.
    """

    TYPE: ClassVar[str] = "stream.gap"

    type: EventType | str = TYPE
    since: datetime | None = None
    until: datetime | None = None
    server: str = ""


@attrs.frozen(kw_only=True)
class BrokerStats:
    """The ``broker`` part of the server's statistics."""

    topic_count: int = 0
    subscriber_count: int = 0
    """WebSocket sessions and event streams that are open, subscribed or not."""
    total_published: int = 0
    """Deliveries: an event counts once for each session that received it."""
    total_dropped: int = 0
    """Always 0 on today's server."""


@attrs.frozen(kw_only=True)
class FederationStats:
    """The ``federation`` part of the server's statistics, if federation is on."""

    total_peers: int = 0
    connected_peers: int = 0
    jobs_forwarded: int = 0
    events_forwarded: int = 0


@attrs.frozen(kw_only=True)
class Stats:
    """The server's own statistics, as ``stats`` returns them."""

    broker: BrokerStats = attrs.field(factory=BrokerStats)
    connections: int = 0
    """Always 0 on today's server; `BrokerStats.subscriber_count` counts."""
    federation: FederationStats | None = None


class Enqueued(msgspec.Struct, frozen=True):
    """The answer to ``job.enqueue``."""

    job_id: str
    queue: str = ""
    state: str = ""


class Started(msgspec.Struct, frozen=True):
    """The answer to ``workflow.start``."""

    run_id: str
    name: str = ""
    state: str = ""


class Published(msgspec.Struct, frozen=True):
    """The answer to ``workflow.event``."""

    event_id: str
    name: str = ""


def _on_the_wire(type: object) -> Any:
    """Return the type to decode a field as: an unknown state is a plain string."""
    return str if type in (JobState | str, RunState | str) else type


def _reader(model: type[M]) -> Callable[[bytes], M]:
    """Make a function that reads *model* from JSON.

    The models have their own names for stored values (``payload_bytes``), and msgspec cannot rename
    fields of attrs classes. So the function decodes a struct with the wire's names first.
    """
    attributes = attrs.fields(cast("Any", model))
    fields = [
        (a.alias, _on_the_wire(a.type))
        if a.default is attrs.NOTHING
        else (
            a.alias,
            _on_the_wire(a.type),
            msgspec.field(default_factory=a.default.factory)
            if isinstance(a.default, attrs.Factory)  # type: ignore[arg-type]
            else a.default,
        )
        for a in attributes
    ]
    struct = msgspec.defstruct(f"{model.__name__}OnTheWire", fields, kw_only=True)
    decoder = msgspec.json.Decoder(struct)
    times = [a.alias for a in attributes if a.type == datetime | None]

    def read(text: bytes) -> M:
        values = msgspec.structs.asdict(decode_leniently(text, decoder))
        for name in times:
            values[name] = aware(values[name])
        return model(**values)

    return read


for _model in (Job, WorkflowRun, TimelineStep, Stats, BrokerStats, FederationStats):
    attrs.resolve_types(_model, globals())

read_job: Final = _reader(Job)
read_run: Final = _reader(WorkflowRun)
read_stats: Final = _reader(Stats)
_read_step: Final = _reader(TimelineStep)
_step_texts: Final[msgspec.json.Decoder[list[msgspec.Raw] | None]] = msgspec.json.Decoder(
    cast("Any", list[msgspec.Raw] | None)
)


def read_timeline(text: bytes) -> list[TimelineStep]:
    """Read the answer to ``workflow.timeline``; no data and a null count as an empty list."""
    return [_read_step(bytes(raw)) for raw in _step_texts.decode(text or b"null") or []]


def utc_now() -> datetime:
    """Return the present time as an aware datetime."""
    return datetime.now(timezone.utc)
