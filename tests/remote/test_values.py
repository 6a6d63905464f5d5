"""Values: what goes out comes back, and what would not is refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf import any_pb2, struct_pb2, wrappers_pb2
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch.remote import marshal, unmarshal

TEN_THOUSAND_YEARS = timedelta(seconds=315_576_000_000)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner) | st.dictionaries(TEXT, inner),
    max_leaves=20,
)


@given(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXT
    | st.binary()
    | st.datetimes(timezones=st.just(timezone.utc))
    | st.timedeltas(-TEN_THOUSAND_YEARS, TEN_THOUSAND_YEARS)
)
def test_each_kind_comes_back(value: object) -> None:
    back = unmarshal(marshal(value))
    assert back == value
    assert type(back) is type(value)


@given(st.lists(JSON) | st.dictionaries(TEXT, JSON))
def test_lists_and_mappings_come_back(value: object) -> None:
    assert unmarshal(marshal(value)) == value


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "Empty"),
        (True, "BoolValue"),
        (-(2**63), "Int64Value"),
        (2**63 - 1, "Int64Value"),
        (2**63, "UInt64Value"),
        (2**64 - 1, "UInt64Value"),
        (1.5, "DoubleValue"),
        ("x", "StringValue"),
        (bytearray(b"x"), "BytesValue"),
        (datetime(2026, 11, 21, tzinfo=timezone(timedelta(hours=2))), "Timestamp"),
        (timedelta(seconds=-1.5), "Duration"),
        ([1], "Value"),
        ({"a": (1, 2)}, "Value"),
    ],
)
def test_the_wire_types_are_those_of_the_table(value: object, kind: str) -> None:
    assert marshal(value).type_url == f"type.googleapis.com/google.protobuf.{kind}"


def test_floats_that_are_no_numbers_travel_alone_only() -> None:
    assert math.isnan(unmarshal(marshal(math.nan)))  # type: ignore[arg-type]
    assert unmarshal(marshal(-math.inf)) == -math.inf
    for value in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"at \['a'\]\[1\]"):
            marshal({"a": [0, value]})


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (2**64, ValueError, "64 bits"),
        (-(2**63) - 1, ValueError, "64 bits"),
        (datetime(2026, 11, 21), ValueError, "time zone"),
        ("\ud800", ValueError, "surrogates"),
        ([2**53 + 1], ValueError, r"2\*\*53"),
        ({1: 2}, TypeError, "keys are strings, not int"),
        ({"a": ["\ud800"]}, ValueError, "surrogates"),
        ([b"x"], TypeError, r"type bytes at \[0\]"),
        ({"a": {"b": object()}}, TypeError, r"type object at \['a'\]\['b'\]"),
        ({1, 2}, TypeError, "type set"),
        (1j, TypeError, "type complex"),
        (timedelta.max, ValueError, "10,000 years"),
    ],
)
def test_what_cannot_be_sent_is_named(value: object, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        marshal(value)


@pytest.mark.parametrize(("wrap", "deepest"), [(lambda v: [v], 50), (lambda v: {"a": v}, 33)])
def test_what_is_nested_too_deeply_for_the_wire_is_refused(
    wrap: Callable[[object], object], deepest: int
) -> None:
    value: object = 1
    for _ in range(deepest):
        value = wrap(value)
    assert unmarshal(marshal(value)) == value
    with pytest.raises(ValueError, match="nested too deeply"):
        marshal(wrap(value))
    endless: list[object] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="nested too deeply"):
        marshal(endless)


def test_messages_travel_as_themselves() -> None:
    duration = wrappers_pb2.Int32Value(value=7)
    assert unmarshal(marshal(duration)) == 7
    listed = struct_pb2.ListValue(values=[struct_pb2.Value(number_value=1), struct_pb2.Value()])
    assert unmarshal(marshal(listed)) == [1, None]
    foreign = any_pb2.Any(type_url="type.googleapis.com/nobody.knows.This", value=b"\x01")
    assert marshal(foreign) is foreign
    assert unmarshal(foreign) == foreign
    from google.protobuf import field_mask_pb2

    mask = field_mask_pb2.FieldMask(paths=["a"])
    assert unmarshal(marshal(mask)) == mask


def test_bytes_of_another_type_are_refused() -> None:
    for name in ("StringValue", "FieldMask", "Timestamp"):
        broken = any_pb2.Any(
            type_url=f"type.googleapis.com/google.protobuf.{name}", value=b"\x0a\xff"
        )
        with pytest.raises(ValueError, match=name):
            unmarshal(broken)
    from google.protobuf import duration_pb2, timestamp_pb2

    for message in (timestamp_pb2.Timestamp(seconds=2**50), duration_pb2.Duration(seconds=2**60)):
        beyond = any_pb2.Any()
        beyond.Pack(message)
        with pytest.raises(ValueError, match="beyond"):
            unmarshal(beyond)
