"""Channels: which ones there are, and who gets an event, whichever shape it came in."""

from __future__ import annotations

import json
from datetime import datetime, timezone
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.recorded import SCENARIOS, messages
from tests.strategies import json_values, texts, times
from trio_dispatch._wire.channels import (
    CopyFilter,
    Occurrence,
    check_channel,
    read_occurrence,
    server_channel,
)
from trio_dispatch._wire.codecs import JSON
from trio_dispatch._wire.frames import Frame, FrameType, WireFrame

AT = datetime(2026, 11, 21, 0, 0, 47, tzinfo=timezone.utc)
EARLIER = datetime(2026, 11, 21, 0, 0, 46, tzinfo=timezone.utc)


def event(data: object, channel: str = "", ts: datetime | None = None) -> WireFrame:
    """An event frame as it comes off the wire."""
    return JSON.decode(JSON.encode(Frame(type="event", channel=channel, data=data, ts=ts)))


def envelope(topic: str, channel: str | None = None, **fields: Any) -> Occurrence:
    """An event as servers send it: the topic is the entity's, and so is the channel."""
    body = {"type": "x", "ts": AT, "topic": topic, "data": fields}
    return read_occurrence(event(body, topic if channel is None else channel))


def flat(channel: str, **fields: Any) -> Occurrence:
    """An event as the description has it: the channel is the subscribed one."""
    return read_occurrence(event(fields, channel))


# Which channels there are.


@pytest.mark.parametrize(
    "channel",
    ["jobs", "workflows", "firehose", "job:job_1", "workflow:wfrun_1", "queue:email", "queue:ä b"],
)
def test_channels_that_servers_accept(channel: str) -> None:
    assert check_channel(channel) == channel


@pytest.mark.parametrize(
    "channel",
    ["", "job", "Jobs", "jobs ", "job:", "workflow:", "queue:", "workflows:1", "cron:x", "*", ":"],
)
def test_channels_that_no_server_accepts_are_refused(channel: str) -> None:
    with pytest.raises(ValueError, match="no server has a channel") as caught:
        check_channel(channel)
    assert repr(channel) in str(caught.value)


@pytest.mark.parametrize("channel", [None, b"jobs", 7, ["jobs"]])
def test_what_is_no_text_is_no_channel(channel: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(channel).__name__}"):
        check_channel(channel)


def test_a_channel_that_cannot_be_written_is_refused_before_it_is() -> None:
    with pytest.raises(ValueError, match="valid text"):
        check_channel("job:\ud800")


@pytest.mark.parametrize("channel", ["jobs", "workflows", "firehose", "job:1", "workflow:1"])
def test_what_delivers_is_subscribed_as_it_is(channel: str) -> None:
    assert server_channel(channel) == channel


def test_a_queue_is_served_from_jobs_as_servers_never_deliver_on_it() -> None:
    assert server_channel("queue:email") == "jobs"


# The shape that servers send.


def test_an_envelope_is_read() -> None:
    found = envelope("job:job_1", job_id="job_1", queue="email")
    assert (found.type, found.ts, found.topic) == ("x", AT, "job:job_1")
    assert found.fields() == {"job_id": "job_1", "queue": "email"}
    assert not found.flat


@pytest.mark.parametrize(
    ("topic", "fields", "channels"),
    [
        ("job:1", {"queue": "email"}, ["job:1", "queue:email", "jobs", "firehose"]),
        ("job:1", {"queue": ""}, ["job:1", "jobs", "firehose"]),
        ("job:1", {"queue": None}, ["job:1", "jobs", "firehose"]),
        ("job:1", {}, ["job:1", "jobs", "firehose"]),
        ("job:a:b", {}, ["job:a:b", "jobs", "firehose"]),
        ("workflow:1", {"queue": "email"}, ["workflow:1", "workflows", "firehose"]),
        ("", {"entry_name": "nightly", "job_id": "1", "queue": "email"}, ["firehose"]),  # cron
        ("job:", {}, ["firehose"]),
        ("job", {}, ["firehose"]),
        ("workflow:", {}, ["firehose"]),
        ("webhook:1", {}, ["firehose"]),
    ],
)
def test_the_topic_of_an_envelope_says_who_gets_it(
    topic: str, fields: dict[str, Any], channels: list[str]
) -> None:
    found = envelope(topic, **fields)
    assert found.channels(with_queue=True) == channels
    plain = [channel for channel in channels if not channel.startswith("queue:")]
    assert found.channels(with_queue=False) == plain


def test_the_channel_of_an_envelope_stands_in_for_a_topic_but_is_not_a_subscription() -> None:
    body = {"type": "x", "data": {"queue": "email"}}
    assert read_occurrence(event(body, "job:1")).topic == "job:1"
    # A topic goes before it, and what is no entity's topic is none.
    assert envelope("job:1", channel="workflow:2").topic == "job:1"
    assert envelope("", channel="jobs").topic == ""
    assert envelope("", channel="jobs").channels(with_queue=True) == ["firehose"]
    assert envelope("", channel="workflow:2").topic == "workflow:2"


def test_an_envelope_without_a_time_has_that_of_its_frame() -> None:
    body = {"type": "x", "topic": "job:1"}
    assert read_occurrence(event(body, ts=EARLIER)).ts == EARLIER
    assert read_occurrence(event({**body, "ts": AT}, ts=EARLIER)).ts == AT
    assert read_occurrence(event({**body, "ts": None}, ts=EARLIER)).ts == EARLIER
    assert read_occurrence(event(body)).ts is None


def test_times_are_aware_even_where_the_zone_was_left_out() -> None:
    for body in ({"type": "x", "topic": "job:1"}, {"job_id": "1"}):
        assert read_occurrence(event({**body, "ts": "2026-11-21T00:00:47"})).ts == AT


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": {}}])
def test_an_envelope_without_fields_has_none(data: dict[str, object]) -> None:
    found = read_occurrence(event({"type": "x", "topic": "job:1", **data}))
    assert found.fields() == {}
    assert found.queue() == ""
    assert found.channels(with_queue=True) == ["job:1", "jobs", "firehose"]


def test_a_type_alone_is_an_event_for_everybody_who_takes_everything() -> None:
    found = read_occurrence(event({"type": "cron.fired"}))
    assert found.type == "cron.fired"
    assert found.channels(with_queue=True) == ["firehose"]


@pytest.mark.parametrize("data", [msgspec.Raw(), msgspec.Raw(b"null")])
def test_no_data_at_all_is_an_event_without_fields(data: msgspec.Raw) -> None:
    found = read_occurrence(WireFrame(type="event", channel="jobs", data=data, ts=AT))
    assert (found.type, found.topic, found.ts, found.fields()) == ("", "", AT, {})


# The described shape.


def test_a_flat_event_is_read() -> None:
    found = flat("jobs", job_id="job_1", state="completed", ts=AT)
    assert (found.type, found.ts, found.topic) == ("job.completed", AT, "job:job_1")
    assert found.fields()["state"] == "completed"
    assert found.flat


@pytest.mark.parametrize(
    ("fields", "type", "topic"),
    [
        ({"job_id": "1"}, "", "job:1"),
        ({"job_id": "1", "state": "failed"}, "job.failed", "job:1"),
        ({"job_id": "1", "state": "failed", "type": "job.dlq"}, "job.dlq", "job:1"),
        ({"run_id": "1", "state": "completed"}, "workflow.completed", "workflow:1"),
        ({"run_id": "1"}, "", "workflow:1"),
        ({"state": "odd"}, "", ""),
        ({}, "", ""),
    ],
)
def test_a_flat_event_is_named_by_its_type_or_what_happened_to_what(
    fields: dict[str, object], type: str, topic: str
) -> None:
    found = flat("firehose", **fields)
    assert (found.type, found.topic) == (type, topic)
    assert found.fields() == fields


def test_a_flat_event_goes_by_what_it_is_about_whatever_channel_brought_it() -> None:
    for channel in ("jobs", "firehose", "job:1", "queue:email"):
        found = flat(channel, job_id="1", state="completed", queue="email")
        assert found.channels(with_queue=True) == ["job:1", "queue:email", "jobs", "firehose"]
    for channel in ("workflows", "firehose", "workflow:1"):
        found = flat(channel, run_id="1", state="completed")
        assert found.channels(with_queue=True) == ["workflow:1", "workflows", "firehose"]


@pytest.mark.parametrize("channel", ["jobs", "workflow:1", "something:new"])
def test_a_flat_event_about_nothing_goes_to_the_channel_that_it_was_sent_for(channel: str) -> None:
    assert flat(channel, note="hi").channels(with_queue=True) == [channel, "firehose"]


@pytest.mark.parametrize("channel", ["", "firehose"])
def test_a_flat_event_about_nothing_for_everybody(channel: str) -> None:
    assert flat(channel, note="hi").channels(with_queue=True) == ["firehose"]


# What cannot be read.


@pytest.mark.parametrize(
    "data",
    [
        msgspec.Raw(b"[]"),
        msgspec.Raw(b'"text"'),
        msgspec.Raw(b"7"),
        msgspec.Raw(b'{"type": 7}'),
        msgspec.Raw(b'{"type": "x", "topic": []}'),
        msgspec.Raw(b'{"type": "x", "ts": "yesterday"}'),
        msgspec.Raw(b'{"job_id": {}}'),
    ],
    ids=lambda raw: bytes(raw).decode(),
)
def test_data_that_is_no_event_is_a_decode_error(data: msgspec.Raw) -> None:
    with pytest.raises(msgspec.DecodeError):
        read_occurrence(WireFrame(type="event", data=data))


@pytest.mark.parametrize("data", [b"not json", b'{"type": "\xff"}', b"[" * 100_000])
def test_data_that_is_no_json_is_an_error_that_the_reader_knows(data: bytes) -> None:
    # msgpack carries data as bytes that nobody has looked at.
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError, RecursionError)):
        read_occurrence(WireFrame(type="event", data=msgspec.Raw(data)))


@pytest.mark.parametrize("fields", [[], "text", 7])
def test_fields_that_are_no_object_are_a_decode_error_when_they_are_asked_for(
    fields: object,
) -> None:
    found = read_occurrence(event({"type": "x", "topic": "job:1", "data": fields}))
    with pytest.raises(msgspec.DecodeError):
        found.fields()
    assert found.channels(with_queue=False) == ["job:1", "jobs", "firehose"]


@given(json_values, texts)
def test_whatever_comes_is_an_event_or_a_decode_error(data: object, channel: str) -> None:
    try:
        found = read_occurrence(event(data, channel))
        fields = found.fields()
        channels = found.channels(with_queue=True)
    except msgspec.DecodeError:
        return
    assert isinstance(fields, dict)
    assert channels[-1] == "firehose"
    assert "" not in channels
    assert len(set(channels)) == len(channels)


FIELD_NAMES = ["type", "ts", "topic", "data", "job_id", "run_id", "state", "queue"]
EVENT_KEYS = st.sampled_from(FIELD_NAMES)
OTHER_KEYS = texts.filter(lambda key: key not in FIELD_NAMES)
EVENT_VALUES = st.sampled_from(["job:1", "x", "", None, {"queue": "q"}]) | json_values


@given(st.dictionaries(EVENT_KEYS, EVENT_VALUES), st.sampled_from(["", "jobs", "job:1", "queue:q"]))
def test_whatever_fields_come_are_an_event_or_a_decode_error(
    data: dict[str, object], channel: str
) -> None:
    test_whatever_comes_is_an_event_or_a_decode_error.hypothesis.inner_test(data, channel)  # type: ignore[attr-defined]


@given(texts.filter(bool), times, st.dictionaries(OTHER_KEYS, json_values, max_size=4))
def test_no_field_is_lost_in_either_shape(
    name: str, at: datetime, fields: dict[str, object]
) -> None:
    wrapped = read_occurrence(event({"type": name, "ts": at, "topic": "job:1", "data": fields}))
    assert (wrapped.type, wrapped.ts, wrapped.fields()) == (name, at, fields)
    described = {**fields, "job_id": "1", "ts": at, "type": name, "topic": ""}
    bare = read_occurrence(event(described, "jobs"))
    assert (bare.type, bare.ts, bare.topic) == (name, at, "job:1")
    assert bare.fields() == json.loads(JSON.encode(Frame(data=described)))["data"]


# Recorded events.


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_event_is_for_the_entity_that_it_is_about(scenario: str) -> None:
    for message in messages(scenario):
        if message.format != "json":
            continue
        frame = JSON.decode(message.payload)
        if frame.type != FrameType.EVENT:
            continue
        data = json.loads(message.payload)["data"]
        found = read_occurrence(frame)
        assert (found.type, found.topic, found.fields()) == (
            data["type"],
            data["topic"],
            data["data"],
        )
        assert not found.flat
        if "job_id" in found.fields():
            own = [f"job:{found.fields()['job_id']}", f"queue:{found.fields()['queue']}", "jobs"]
        else:
            own = [f"workflow:{found.fields()['run_id']}", "workflows"]
        assert found.channels(with_queue=True) == [*own, "firehose"]


# Copies.


def test_the_same_flat_event_under_another_channel_is_a_copy() -> None:
    copies = CopyFilter()
    fields = {"job_id": "1", "state": "completed"}
    assert not copies.is_copy(flat("jobs", **fields))
    assert copies.is_copy(flat("firehose", **fields))
    assert copies.is_copy(flat("job:1", **fields))
    assert not copies.is_copy(flat("firehose", **fields))  # the next one, by another way first
    assert copies.is_copy(flat("jobs", **fields))


def test_the_same_flat_event_under_the_same_channel_happened_again() -> None:
    copies = CopyFilter()
    fields = {"job_id": "1", "state": "retrying"}
    for _ in range(3):
        assert not copies.is_copy(flat("jobs", **fields))
        assert copies.is_copy(flat("firehose", **fields))


def test_other_fields_are_another_event() -> None:
    copies = CopyFilter()
    assert not copies.is_copy(flat("jobs", job_id="1", state="started"))
    assert not copies.is_copy(flat("firehose", job_id="1", state="completed"))
    assert not copies.is_copy(flat("firehose", job_id="2", state="started"))


def test_an_envelope_is_never_a_copy_as_servers_that_send_them_send_one_in_all() -> None:
    copies = CopyFilter()
    for channel in ("job:1", "jobs", "job:1"):
        assert not copies.is_copy(envelope("job:1", channel=channel, job_id="1"))


def test_only_the_latest_events_are_remembered() -> None:
    copies = CopyFilter()
    first, second = ({"job_id": n, "state": "completed"} for n in ("first", "second"))
    assert not copies.is_copy(flat("jobs", **first))
    assert not copies.is_copy(flat("jobs", **second))
    assert not copies.is_copy(flat("jobs", **first))  # happened again: the latest now
    for n in range(CopyFilter.REMEMBERED - 1):
        assert not copies.is_copy(flat("jobs", job_id=str(n)))
    assert copies.is_copy(flat("firehose", **first))
    assert not copies.is_copy(flat("firehose", **second))


@given(st.lists(st.integers(0, 3), max_size=20), st.integers(1, 4))
def test_of_events_sent_to_several_channels_one_each_gets_through(
    happened: list[int], subscribed: int
) -> None:
    copies = CopyFilter()
    delivered = [
        n
        for n in happened
        for channel in ["jobs", "firehose", "job:1", "queue:email"][:subscribed]
        if not copies.is_copy(flat(channel, job_id=str(n)))
    ]
    assert delivered == happened
