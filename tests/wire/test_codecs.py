"""Codecs: frames to bytes and back, lenient with what servers leave out, strict with the rest."""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, cast
from uuid import UUID

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import frames, json_values, texts, times
from trio_dispatch._wire.codecs import (
    JSON,
    MSGPACK,
    Codec,
    MsgpackCodec,
    NilTimestamp,
    UndecodableFrame,
    aware,
    decode_data,
    decode_leniently,
    encode_data,
    object_text,
    thaw,
)
from trio_dispatch._wire.frames import ErrorBody, Frame, WireFrame

STRICT = MsgpackCodec(strict=True)
"""The codec that reads as servers do."""

BOTH = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)
ALL = pytest.mark.parametrize("codec", [JSON, MSGPACK, STRICT], ids=["json", "msgpack", "strict"])


# What is sent.


@ALL
@given(frame=frames)
def test_a_frame_survives_the_wire(codec: Codec, frame: Frame) -> None:
    assert thaw(codec.decode(codec.encode(frame))) == frame


@given(frames)
def test_json_frames_are_json_and_leave_out_what_is_empty(frame: Frame) -> None:
    sent = json.loads(JSON.encode(frame))
    # An empty text in `data` is data, and a null there is none.
    assert {name for name, value in sent.items() if value in ("", None, 0)} <= {"data"}
    assert set(sent) == {
        name
        for name in frame.__struct_fields__
        if (frame.data is not None if name == "data" else getattr(frame, name))
    }


@given(frames)
def test_msgpack_frames_are_maps_with_json_text_for_data(frame: Frame) -> None:
    encoded = MSGPACK.encode(frame)
    assert not encoded.startswith(b"{"), "a server could take it for JSON"
    sent = msgpack.unpackb(encoded, timestamp=3)
    assert sent.get("ts") == frame.ts
    assert isinstance(sent.get("data", b""), bytes)
    assert json.loads(sent.get("data", "null")) == frame.data


def test_formats_have_the_names_and_the_kinds_of_message_that_auth_agrees_on() -> None:
    assert (JSON.name, JSON.binary) == ("json", False)
    assert (MSGPACK.name, MSGPACK.binary) == ("msgpack", True)


@ALL
def test_json_text_passes_through_to_the_byte(codec: Codec) -> None:
    text = b'{"a" :\t[1.10,\n "\\u00e9"] }'
    payload = codec.encode(Frame(data=msgspec.Raw(text)))
    assert text in payload
    assert bytes(codec.decode(payload).data) == text


@ALL
@pytest.mark.parametrize("frame", [Frame(id="1"), WireFrame(id="1")])
def test_empty_json_text_is_no_data(codec: Codec, frame: Frame) -> None:
    emptied = msgspec.structs.replace(frame, data=msgspec.Raw())
    assert codec.encode(emptied) == codec.encode(Frame(id="1"))
    assert bytes(codec.decode(codec.encode(emptied)).data) == b""


def test_a_null_is_sent_only_as_json_text() -> None:
    assert JSON.encode(Frame(data=None)) == b"{}"
    assert JSON.encode(Frame(data=msgspec.Raw(b"null"))) == b'{"data":null}'


@dataclass
class Order:
    id: UUID
    placed: datetime
    items: list[str]


@BOTH
def test_data_may_be_anything_that_msgspec_encodes(codec: Codec) -> None:
    order = Order(UUID(int=1), datetime(2026, 1, 2, tzinfo=timezone.utc), ["a"])
    assert decode_data(codec.decode(codec.encode(Frame(data={"order": order}))).data) == {
        "order": {
            "id": "00000000-0000-0000-0000-000000000001",
            "placed": "2026-01-02T00:00:00Z",
            "items": ["a"],
        }
    }


def wrapped(value: object) -> list[object]:
    """*value* at various depths of something that is sent."""
    return [
        value,
        [value],
        {"a": {"b": [None, value]}},
        ({"a": (1, value)},),
        Order(UUID(int=1), datetime(2026, 1, 2, tzinfo=timezone.utc), [value]),  # type: ignore[list-item]
    ]


@BOTH
@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_lacks_are_refused_wherever_they_are(codec: Codec, number: float) -> None:
    for data in wrapped(number):
        with pytest.raises(ValueError, match="no JSON form"):
            codec.encode(Frame(data=data))
        with pytest.raises(ValueError, match="no JSON form"):
            encode_data(data)


def test_a_refused_number_is_named_with_its_place() -> None:
    with pytest.raises(ValueError, match=r"^nan at \['a'\]\[1\]\['b'\] has"):
        encode_data({"a": [None, {"b": math.nan}]})
    with pytest.raises(ValueError, match=r"^inf has"):
        encode_data(math.inf)


@BOTH
def test_nulls_and_the_word_null_are_not_refused(codec: Codec) -> None:
    for data in [*wrapped("null"), *wrapped(None), {"raw": msgspec.Raw(b"[null]"), "f": 1.5}]:
        assert decode_data(codec.decode(codec.encode(Frame(data=data))).data) is not None or (
            data is None
        )


def endless() -> list[Any]:
    itself: list[Any] = []
    itself.append(itself)
    return itself


@BOTH
@pytest.mark.parametrize(
    ("data", "error"),
    [(object(), TypeError), ({1, object()}, TypeError), ("\ud800", ValueError)],
    ids=["object", "nested", "surrogate"],
)
def test_data_with_no_json_form_is_a_type_or_a_value_error(
    codec: Codec, data: object, error: type[Exception]
) -> None:
    with pytest.raises(error):
        codec.encode(Frame(data=data))
    with pytest.raises(error):
        encode_data(data)


@BOTH
def test_data_that_holds_itself_is_a_value_error(codec: Codec) -> None:
    with pytest.raises(ValueError, match="no JSON form"):
        codec.encode(Frame(data=endless()))


@BOTH
def test_a_time_without_a_zone_is_refused(codec: Codec) -> None:
    # Servers answer it with an error that does not say which request it is for.
    with pytest.raises(ValueError, match="time zone"):
        codec.encode(Frame(ts=datetime(2026, 1, 2)))


# What is received.


@ALL
@given(payload=st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_undecodable(codec: Codec, payload: bytes) -> None:
    try:
        frame = codec.decode(payload)
    except UndecodableFrame:
        return
    assert isinstance(frame, WireFrame)


@ALL
@given(frame=frames, data=st.data())
def test_a_damaged_frame_is_a_frame_or_undecodable(
    codec: Codec, frame: Frame, data: st.DataObject
) -> None:
    payload = bytearray(codec.encode(frame))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(payload[: data.draw(st.integers(0, len(payload)))])
    try:
        decoded = codec.decode(cut)
        decode_data(decoded.data)
    except UndecodableFrame:
        pass


@pytest.mark.parametrize(
    "payload",
    [
        "",
        "garbage",
        "null",
        "[]",
        "7",
        '"text"',
        '{"id": 7}',
        '{"id": "1"',
        '{"id": "1"} {}',
        '{"ts": "yesterday"}',
        '{"ts": "2026-13-01T00:00:00Z"}',
        '{"error": "text"}',
        '{"error": null, "credits": "7"}',
        '{"id": "\ud800"}',
        b'{"id": "\xff"}',
    ],
)
def test_what_is_no_frame_is_undecodable_json(payload: bytes | str) -> None:
    with pytest.raises(UndecodableFrame):
        JSON.decode(payload)


def test_what_nests_deeply_is_read_or_undecodable() -> None:
    """How deep it may be is the interpreter's: from 3.15 on, as deep as there is room."""
    for codec in (JSON, MSGPACK):
        with contextlib.suppress(UndecodableFrame):
            codec.decode('{"data": ' + "[" * 100_000 + "]" * 100_000 + "}")


def packed(**fields: object) -> bytes:
    return cast("bytes", msgpack.packb(fields, datetime=True))


@pytest.mark.parametrize("codec", [MSGPACK, STRICT], ids=["msgpack", "strict"])
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\xc0",
        b"\x90",
        packed(id=7),
        packed(id="1") + b"\xc0",
        packed(id=b"1"),
        packed(data={"a": 1}),
        packed(data=7),
        packed(ts="2026-01-02T03:04:05Z"),
        packed(ts=7),
        packed(ts=msgpack.ExtType(5, b"1234")),
        packed(id=None, credits="7"),
        packed(error=[]),
        packed(id="1")[:-1],
    ],
)
def test_what_is_no_frame_is_undecodable_msgpack(codec: MsgpackCodec, payload: bytes) -> None:
    with pytest.raises(UndecodableFrame):
        codec.decode(payload)


@BOTH
def test_messages_may_come_as_text(codec: Codec) -> None:
    assert codec.decode('{"id": "1"}').id == "1"


def test_json_among_msgpack_is_told_by_its_first_byte() -> None:
    # A refused token is answered in JSON, whatever format was asked for.
    refusal = b'{"id":"1","type":"error","error":{"code":401,"message":"authentication failed"}}'
    assert MSGPACK.decode(refusal).error == ErrorBody(401, "authentication failed")


def test_servers_read_no_json_among_msgpack() -> None:
    with pytest.raises(UndecodableFrame):
        STRICT.decode(b'{"id":"1"}')


@BOTH
@given(unknown=st.dictionaries(texts.map("x-{}".format), json_values, max_size=3))
def test_unknown_fields_are_ignored(codec: Codec, unknown: dict[str, object]) -> None:
    fields = {"id": "1", **unknown, "type": "pong", "error": {"code": 1, **unknown}}
    payload = json.dumps(fields).encode() if codec is JSON else packed(**fields)
    assert codec.decode(payload) == WireFrame(id="1", type="pong", error=ErrorBody(1))


FIELDS = [name for name in Frame.__struct_fields__ if name != "data"]


@given(st.sets(st.sampled_from(FIELDS), min_size=1))
def test_a_null_counts_as_an_absent_field(nulls: set[str]) -> None:
    fields = dict.fromkeys(nulls) | {"data": {"kept": None}}
    for payload in (json.dumps(fields), json.dumps(fields).encode()):
        frame = JSON.decode(payload)
        assert thaw(frame) == Frame(data={"kept": None})
        assert bytes(frame.data) == b'{"kept": null}'
    nils = packed(**dict.fromkeys(nulls), data=b'{"kept": null}')
    assert thaw(MSGPACK.decode(nils)) == Frame(data={"kept": None})


def test_a_null_counts_as_an_absent_field_inside_an_error_too() -> None:
    # … but not inside what the server says in its own way.
    payload = b' {"error": {"code": 400, "message": null, "details": {"why": null}}}'
    assert JSON.decode(payload).error == ErrorBody(400, "", {"why": None})


@BOTH
def test_a_null_for_data_reads_as_none(codec: Codec) -> None:
    payload = b'{"data": null}' if codec is JSON else packed(data=None)
    assert decode_data(codec.decode(payload).data) is None
    assert thaw(codec.decode(payload)) == Frame()


def test_leniency_goes_no_further_than_nulls() -> None:
    decoder = msgspec.json.Decoder(ErrorBody)
    assert decode_leniently(b'{"code": null}', decoder) == ErrorBody()
    for text in (b'{"code": "4"}', b'{"code": null, "message": 4}', b"null", b"[null]"):
        with pytest.raises(msgspec.ValidationError):
            decode_leniently(text, decoder)


@given(times)
def test_times_are_aware_and_exact_to_the_microsecond(time: datetime) -> None:
    for codec in (JSON, MSGPACK, STRICT):
        ts = codec.decode(codec.encode(Frame(ts=time))).ts
        assert ts == time
        assert ts is not None
        assert ts.tzinfo is not None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-21T00:00:45.489442996Z", datetime(2026, 11, 21, 0, 0, 45, 489443)),
        ("2026-11-21T00:00:45.1Z", datetime(2026, 11, 21, 0, 0, 45, 100000)),
        ("2026-11-21T02:00:45+02:00", datetime(2026, 11, 21, 0, 0, 45)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1)),
    ],
)
def test_times_have_any_number_of_digits_and_any_offset(text: str, expected: datetime) -> None:
    ts = JSON.decode(json.dumps({"ts": text})).ts
    assert ts == expected.replace(tzinfo=timezone.utc)


def test_a_time_that_came_without_a_zone_is_utc() -> None:
    ts = JSON.decode('{"ts": "2026-11-21T00:00:45"}').ts
    assert ts == datetime(2026, 11, 21, 0, 0, 45, tzinfo=timezone.utc)
    assert aware(None) is None


def test_a_number_too_big_for_msgpack_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="no msgpack form"):
        MSGPACK.encode(Frame(credits=2**70))


def test_the_zero_time_survives_msgpack() -> None:
    zero = datetime(1, 1, 1, tzinfo=timezone.utc)
    assert MSGPACK.decode(MSGPACK.encode(Frame(ts=zero))).ts == zero


@pytest.mark.parametrize("other", [{}, {"id": None}], ids=["alone", "among other nils"])
def test_servers_drop_the_connection_for_a_nil_ts_which_clients_take_for_absent(
    other: dict[str, object],
) -> None:
    payload = packed(type="pong", ts=None, **other)
    assert MSGPACK.decode(payload) == WireFrame(type="pong")
    with pytest.raises(NilTimestamp):
        STRICT.decode(payload)


def test_msgpack_data_may_be_text_as_well_as_bytes() -> None:
    for data in ('{"a":1}', b'{"a":1}'):
        assert bytes(MSGPACK.decode(packed(data=data)).data) == b'{"a":1}'


# Data on its own.


@given(json_values)
def test_data_decodes_to_what_was_encoded(value: object) -> None:
    assert decode_data(encode_data(value)) == value


@pytest.mark.parametrize(
    ("text", "expected"), [(b"", b"{}"), (b"null", b"{}"), (b"{}", b"{}"), (b'{"a":1}', b'{"a":1}')]
)
def test_no_data_and_a_null_read_as_an_empty_object(text: bytes, expected: bytes) -> None:
    assert object_text(msgspec.Raw(text)) == expected


@pytest.mark.parametrize("text", [b"{", b'"\xff"', b"[" * 100_000 + b"]" * 100_000])
def test_data_that_is_not_json_is_undecodable(text: bytes) -> None:
    with pytest.raises(UndecodableFrame):
        decode_data(msgspec.Raw(text))
