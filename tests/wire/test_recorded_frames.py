"""Every frame that a real server was recorded to send decodes, with no field lost.

The recordings are compared with the models generically, so a field that a model lacks fails here,
as does one whose value differs (times to the microsecond).
"""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import msgpack
import msgspec
import pytest

from tests.recorded import RECORDINGS, SCENARIOS, Message, event_stream_texts, messages
from trio_dispatch._wire.channels import read_occurrence
from trio_dispatch._wire.codecs import JSON, MSGPACK, decode_data
from trio_dispatch._wire.errors import RequestError, request_error
from trio_dispatch._wire.frames import FrameType, Method, WireFrame
from trio_dispatch._wire.models import (
    Enqueued,
    Event,
    Published,
    Started,
    read_job,
    read_run,
    read_stats,
    read_timeline,
)

READERS: dict[str, Callable[[bytes], object]] = {
    Method.JOB_GET: read_job,
    Method.JOB_ENQUEUE: msgspec.json.Decoder(Enqueued).decode,
    Method.WORKFLOW_START: msgspec.json.Decoder(Started).decode,
    Method.WORKFLOW_GET: read_run,
    Method.WORKFLOW_TIMELINE: read_timeline,
    Method.WORKFLOW_EVENT: msgspec.json.Decoder(Published).decode,
    Method.STATS: read_stats,
    Method.FEDERATION_ENQUEUE: msgspec.json.Decoder(Enqueued).decode,
}
"""How the answers with a model of their own are read."""


def decoded(message: Message) -> WireFrame:
    return (JSON if message.format == "json" else MSGPACK).decode(message.payload)


def as_recorded(message: Message) -> dict[str, Any]:
    """A frame as other libraries read it: plain JSON, with a time for ``ts`` in msgpack."""
    if message.format == "json":
        recorded: dict[str, Any] = json.loads(message.payload)
        return recorded
    recorded = msgpack.unpackb(message.payload, timestamp=0)
    if "data" in recorded:
        recorded["data"] = json.loads(recorded["data"])
    return recorded


def assert_equal(actual: object, recorded: object, where: str) -> None:
    """Compare a value of ours with a recorded one, which is plain JSON."""
    if isinstance(actual, datetime):
        assert actual.tzinfo is not None, where
        assert abs(actual - read_time(recorded)) <= timedelta(microseconds=1), where
    elif isinstance(actual, bytes):
        assert isinstance(recorded, str)
        assert actual == base64.b64decode(recorded), where
    elif isinstance(recorded, dict):
        members = {name.lstrip("_"): value for name, value in fields(actual).items()}
        assert recorded.keys() <= members.keys(), where
        for name, value in recorded.items():
            assert_equal(members[name], value, f"{where}.{name}")
    elif isinstance(recorded, list):
        assert isinstance(actual, list), where
        assert len(actual) == len(recorded), where
        for index, (one, other) in enumerate(zip(actual, recorded, strict=True)):
            assert_equal(one, other, f"{where}[{index}]")
    else:
        assert actual == recorded, where
        assert type(actual) is type(recorded), where


def fields(value: object) -> dict[str, object]:
    """The fields of a model under their names on the wire."""
    if isinstance(value, msgspec.Struct):
        return msgspec.structs.asdict(value)
    cls: Any = type(value)
    if attrs.has(cls):
        return {a.alias: getattr(value, a.name) for a in attrs.fields(cls)}
    assert isinstance(value, dict)
    return value


def read_time(text: object) -> datetime:
    """Read RFC 3339 (or a msgpack timestamp) by other means than the codec's."""
    if isinstance(text, msgpack.Timestamp):
        epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
        return epoch + timedelta(seconds=text.seconds, microseconds=text.nanoseconds // 1000)
    assert isinstance(text, str)
    whole, _, fraction = text.removesuffix("Z").partition(".")
    time = datetime.strptime(whole, "%Y-%m-%dT%H:%M:%S").replace(tzinfo=timezone.utc)
    return time + timedelta(microseconds=int(fraction.ljust(9, "0")) // 1000)


def every_message() -> list[Message]:
    return [message for scenario in SCENARIOS for message in messages(scenario)]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_frame_decodes_with_no_field_lost(scenario: str) -> None:
    for message in messages(scenario):
        frame, recorded = decoded(message), as_recorded(message)
        data = decode_data(frame.data)
        assert ("data" in recorded) == bool(bytes(frame.data))
        assert_equal(fields(frame) | {"data": data}, recorded, "frame")


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_answer_with_a_model_is_read_with_no_field_lost(scenario: str) -> None:
    for message in messages(scenario):
        frame = decoded(message)
        if frame.type == FrameType.RESPONSE and message.method in READERS:
            model = READERS[message.method](bytes(frame.data))
            assert_equal(model, as_recorded(message)["data"], message.method)


def assert_event(frame: WireFrame, recorded: dict[str, Any]) -> None:
    occurrence = read_occurrence(frame)
    event = Event(
        type=occurrence.type,
        ts=occurrence.ts,
        topic=occurrence.topic,
        data=occurrence.fields(),
    )
    assert_equal(event, recorded, "event")
    assert not occurrence.flat
    kind, _, id = event.topic.partition(":")
    assert (event.job_id if kind == "job" else event.run_id) == id


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_event_is_read_with_no_field_lost(scenario: str) -> None:
    for message in messages(scenario):
        frame = decoded(message)
        if frame.type == FrameType.EVENT:
            assert_event(frame, as_recorded(message)["data"])
    for text in event_stream_texts(scenario):
        assert_event(WireFrame(data=msgspec.Raw(text)), json.loads(text))


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_recorded_error_becomes_the_error_of_its_code(scenario: str) -> None:
    for message in messages(scenario):
        frame = decoded(message)
        assert (frame.type == FrameType.ERROR) == (frame.error is not None)
        if frame.error is not None:
            error = request_error(frame.error, message.method)
            assert type(error) is not RequestError, "a class of its own"
            recorded = as_recorded(message)["error"]
            assert (error.code, error.message) == (recorded["code"], recorded["message"])
            assert set(recorded) <= {"code", "message"}


def test_the_recordings_hold_every_kind_of_frame_and_answer() -> None:
    everything = every_message()
    recordings = "".join(path.read_text("utf-8") for path in RECORDINGS.glob("*.jsonl"))
    drops = recordings.count('"sender": "server", "closed": true')
    assert len(everything) == (
        recordings.count('"sender": "server"') - drops + recordings.count('"response": ')
    )
    types = Counter(decoded(message).type for message in everything)
    assert set(types) == {"response", "error", "event", "pong"}
    assert {message.method for message in everything} >= READERS.keys()
    assert {message.format for message in everything} == {"json", "msgpack"}
    codes = {frame.error.code for frame in map(decoded, everything) if frame.error is not None}
    assert codes == {400, 401, 403, 404, 405, 500}
    assert sum(1 for scenario in SCENARIOS for _ in event_stream_texts(scenario)) >= 5
