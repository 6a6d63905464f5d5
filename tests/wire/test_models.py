"""Models: what the server tells, typed, immutable, and with nothing of it lost."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import json_values, texts
from trio_dispatch._wire.models import (
    BrokerStats,
    Enqueued,
    Event,
    FederationStats,
    Job,
    Published,
    Started,
    Stats,
    StreamGap,
    TimelineStep,
    WorkflowRun,
    read_job,
    read_run,
    read_stats,
    read_timeline,
    utc_now,
)

JOB = {"id": "job_1", "name": "send-email"}
RUN = {"id": "wfrun_1", "name": "order-pipeline"}
STEP = {"step_name": "validate"}


def text(*parts: dict[str, Any]) -> bytes:
    """One JSON object out of several."""
    return json.dumps({name: value for part in parts for name, value in part.items()}).encode()


def stored(value: bytes) -> str:
    """How the server writes what users stored."""
    return base64.b64encode(value).decode()


def read_step(step: bytes) -> TimelineStep:
    (only,) = read_timeline(b"[" + step + b"]")
    return only


READERS: list[tuple[Callable[[bytes], Any], dict[str, Any], object]] = [
    (read_job, JOB, Job(id="job_1", name="send-email")),
    (read_run, RUN, WorkflowRun(id="wfrun_1", name="order-pipeline")),
    (read_step, STEP, TimelineStep(step_name="validate")),
    (read_stats, {}, Stats()),
]
EACH = pytest.mark.parametrize(
    ("read", "required", "expected"), READERS, ids=["job", "run", "step", "stats"]
)


# Reading.


@EACH
def test_fields_that_the_server_omits_have_empty_values(
    read: Callable[[bytes], Any], required: dict[str, Any], expected: object
) -> None:
    assert read(text(required)) == expected


@EACH
def test_a_null_counts_as_an_omitted_field(
    read: Callable[[bytes], Any], required: dict[str, Any], expected: Any
) -> None:
    names = [attribute.alias for attribute in attrs.fields(type(expected))]
    assert read(text(dict.fromkeys(names), required)) == expected


@EACH
@given(unknown=st.dictionaries(texts.map("x-{}".format), json_values, max_size=3))
def test_fields_of_a_later_server_are_ignored(
    read: Callable[[bytes], Any],
    required: dict[str, Any],
    expected: object,
    unknown: dict[str, Any],
) -> None:
    assert read(text(required, unknown)) == expected


@EACH
def test_a_field_of_another_type_is_an_error(
    read: Callable[[bytes], Any], required: dict[str, Any], expected: Any
) -> None:
    for attribute in attrs.fields(type(expected)):
        with pytest.raises(msgspec.ValidationError):
            read(text(required, {attribute.alias: [1]}))


def test_a_job_without_an_id_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        read_job(b'{"name": "send-email"}')


def test_every_field_of_a_job_is_read() -> None:
    time = "2026-11-21T00:00:47.112573905Z"
    fields = {
        "id": "job_1",
        "name": "send-email",
        "queue": "email",
        "payload": stored(b'{"to": "x"}'),
        "state": "failed",
        "priority": -1,
        "max_retries": 3,
        "retry_count": 4,
        "last_error": "boom",
        "scope_app_id": "app1",
        "scope_org_id": "org1",
        "worker_id": "w1",
        "run_at": time,
        "started_at": time,
        "completed_at": time,
        "heartbeat_at": time,
        "timeout": 300_000_000_000,
        "created_at": time,
        "updated_at": time,
    }
    job = read_job(text(fields))
    at = datetime(2026, 11, 21, 0, 0, 47, 112574, tzinfo=timezone.utc)
    assert {a.alias for a in attrs.fields(Job)} == set(fields)
    for name, value in fields.items():
        if name == "payload":
            assert job.payload_bytes == b'{"to": "x"}'
        else:
            assert getattr(job, name) == (at if value == time else value), name


def test_every_field_of_a_run_is_read() -> None:
    fields = {
        "state": "failed",
        "error": "boom",
        "input": stored(b"{}"),
        "output": stored(b"[1]"),
        "version": 1,
        "parent_run_id": "wfrun_0",
        "started_at": "2026-11-21T00:00:47Z",
    }
    run = read_run(text(RUN, fields))
    assert (run.state, run.error, run.version, run.parent_run_id) == (
        "failed",
        "boom",
        1,
        "wfrun_0",
    )
    assert (run.input, run.output) == ({}, [1])
    assert run.started_at == datetime(2026, 11, 21, 0, 0, 47, tzinfo=timezone.utc)


def test_a_time_without_a_zone_is_utc() -> None:
    for run_at in ("2026-11-21T00:00:47", "2026-11-21T00:00:47Z", "2026-11-21T01:00:47+01:00"):
        job = read_job(text(JOB, {"run_at": run_at}))
        assert job.run_at == datetime(2026, 11, 21, 0, 0, 47, tzinfo=timezone.utc)


def test_statistics_have_a_federation_part_where_federation_is_on() -> None:
    broker = {"topic_count": 1, "subscriber_count": 2, "total_published": 3, "total_dropped": 4}
    assert read_stats(text({"broker": broker, "connections": 5})) == Stats(
        broker=BrokerStats(**broker), connections=5
    )
    federation = {"total_peers": 1, "connected_peers": 2, "jobs_forwarded": 3}
    stats = read_stats(text({"federation": {**federation, "events_forwarded": 4}}))
    assert stats.federation == FederationStats(**federation, events_forwarded=4)


@pytest.mark.parametrize("answer", [b"", b"null", b"[]"])
def test_a_timeline_may_be_empty(answer: bytes) -> None:
    assert read_timeline(answer) == []


def test_a_timeline_keeps_the_order_of_the_steps() -> None:
    names = ["b", "a", "parallel:grp:1", "wait:approved"]
    answer = json.dumps([{"step_name": name} for name in names]).encode()
    assert [step.step_name for step in read_timeline(answer)] == names


def test_answers_about_one_thing_need_its_id_alone() -> None:
    assert msgspec.json.decode(b'{"job_id": "job_1"}', type=Enqueued) == Enqueued("job_1")
    assert msgspec.json.decode(b'{"run_id": "wfrun_1"}', type=Started) == Started("wfrun_1")
    assert msgspec.json.decode(b'{"event_id": "evt_1"}', type=Published) == Published("evt_1")
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b"{}", type=Enqueued)


# What users stored.


class Email(msgspec.Struct):
    to: str


class Values:
    """The stored values of the models, each under one name: bytes, decoded, decoded as a type."""

    def __init__(self, value: bytes | None) -> None:
        job = Job(id="1", name="n", payload=value)
        run = WorkflowRun(id="1", name="n", input=value, output=value)
        step = TimelineStep(step_name="s", data=value)
        self.bytes = [job.payload_bytes, run.input_bytes, run.output_bytes, step.data]
        self.decoded = [job.payload, run.input, run.output, step.result]
        self.decoders: list[Callable[[Any], object]] = [
            job.payload_as,
            run.input_as,
            run.output_as,
            step.result_as,
        ]


@given(json_values)
def test_stored_json_is_decoded(value: object) -> None:
    assert Values(json.dumps(value).encode()).decoded == [value] * 4


@given(st.binary())
def test_stored_bytes_come_back_to_the_byte(value: bytes) -> None:
    assert Values(value).bytes == [value] * 4
    assert read_job(text(JOB, {"payload": stored(value)})).payload_bytes == value
    assert read_run(text(RUN, {"input": stored(value)})).input_bytes == value
    assert read_run(text(RUN, {"output": stored(value)})).output_bytes == value
    assert read_step(text(STEP, {"data": stored(value)})).data == value


@pytest.mark.parametrize("value", [b"", b"\x0b\x0b\x00\x80", b"{", b'"\xff"', b"[" * 100_000])
def test_stored_bytes_that_are_not_json_come_as_bytes(value: bytes) -> None:
    assert Values(value).decoded == [value] * 4


def test_nothing_stored_and_a_stored_null_differ_in_their_bytes_alone() -> None:
    nothing, null = Values(None), Values(b"null")
    assert nothing.decoded == null.decoded == [None] * 4
    assert nothing.bytes == [None] * 4
    assert null.bytes == [b"null"] * 4


def test_stored_values_decode_into_a_type() -> None:
    for decode_as in Values(b'{"to": "user@example.com"}').decoders:
        assert decode_as(Email) == Email("user@example.com")
    for decode_as in Values(None).decoders:
        assert decode_as(Email | None) is None


def test_stored_values_of_another_shape_are_errors_when_decoded_into_a_type() -> None:
    for decode_as in Values(b"[1]").decoders + Values(None).decoders:
        with pytest.raises(msgspec.ValidationError):
            decode_as(Email)
    for decode_as in Values(b"\x0b\x0b").decoders:
        with pytest.raises(msgspec.DecodeError):
            decode_as(Email)


# States.


@pytest.mark.parametrize(
    ("state", "finished"),
    [
        ("pending", False),
        ("running", False),
        ("retrying", False),
        ("completed", True),
        ("failed", True),
        ("cancelled", True),
        ("", False),
    ],
)
def test_a_job_is_finished_in_its_last_states(state: str, finished: bool) -> None:
    assert Job(id="1", name="n", state=state).finished is finished


@pytest.mark.parametrize(
    ("state", "finished"), [("running", False), ("completed", True), ("failed", True), ("", False)]
)
def test_a_run_is_finished_in_its_last_states(state: str, finished: bool) -> None:
    assert WorkflowRun(id="1", name="n", state=state).finished is finished


# Events.


def test_an_event_names_the_job_or_run_that_it_is_about() -> None:
    assert Event(type="job.started", data={"job_id": "job_1"}).job_id == "job_1"
    assert Event(type="workflow.started", data={"run_id": "wfrun_1"}).run_id == "wfrun_1"
    for event in (Event(type="cron.fired"), Event(type="x", data={"job_id": 7, "run_id": None})):
        assert event.job_id is None
        assert event.run_id is None


def test_a_gap_is_an_event_of_its_own_type() -> None:
    now = utc_now()
    gap = StreamGap(since=None, until=now, channels=("jobs",))
    assert isinstance(gap, Event)
    assert gap.type == StreamGap.TYPE == "stream.gap"
    assert (gap.since, gap.until, gap.channels, dict(gap.data)) == (None, now, ("jobs",), {})
    assert gap != Event(type="stream.gap", channels=("jobs",))


def test_the_present_time_is_aware() -> None:
    assert utc_now().tzinfo is timezone.utc


# All of them.

MODELS = [
    Job(id="job_1", name="n", payload=b'{"secret": "s3cr3t"}', run_at=utc_now()),
    WorkflowRun(id="wfrun_1", name="n", input=b'"s3cr3t"', output=b'"s3cr3t"'),
    TimelineStep(step_name="s", data=b'"s3cr3t"'),
    Event(type="job.started", ts=utc_now(), topic="job:1", data={"job_id": "1"}),
    StreamGap(until=utc_now()),
    Stats(federation=FederationStats()),
]
EACH_MODEL = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@EACH_MODEL
def test_models_cannot_be_changed(model: Any) -> None:
    for attribute in attrs.fields(type(model)):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(model, attribute.name, None)


@EACH_MODEL
def test_models_copy_pickle_and_hash(model: object) -> None:
    assert pickle.loads(pickle.dumps(model)) == model
    assert copy.deepcopy(model) == model
    assert hash(copy.deepcopy(model)) == hash(model)


@EACH_MODEL
def test_a_repr_leaves_out_what_users_stored(model: object) -> None:
    assert "s3cr3t" not in repr(model)
