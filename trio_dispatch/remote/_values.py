"""Values on their way: Python's to protobuf's well-known types, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, TypeGuard, cast

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    duration_pb2,
    empty_pb2,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.message import DecodeError, Message

_EXACT: Final = 2**53
"""Integers inside lists and mappings travel as doubles, which hold no larger ones exactly."""

_MAX_DEPTH: Final = 100
"""Messages inside messages that the strictest libraries of protobuf read. A list in another value
is two of them, and a mapping three."""
_LIST_DEPTH: Final = 2
_MAPPING_DEPTH: Final = 3

_MAX_DURATION: Final = timedelta(seconds=315_576_000_000)
"""What protobuf's Duration holds: 10,000 years."""

_BYTES: Final = (bytes, bytearray, memoryview)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)
_MICROSECOND: Final = timedelta(microseconds=1)


def marshal(value: object) -> any_pb2.Any:
    """Turn *value* into the ``Any`` that carries it.

    None, bool, int (64 bits), float (NaN and infinities included), str, bytes, aware datetimes,
    timedeltas (both in microseconds), lists, tuples and mappings of JSON's shape, and protobuf
    messages. Inside lists and mappings, integers beyond 2**53, NaN and infinities are refused, as
    they would arrive as something else. Lists may be nested 50 deep, and mappings 33.

    Raises:
        TypeError: there is no form for a value of that type; the message says where it stands.
        ValueError: the value is out of range or nested too deeply, or a datetime has no time zone.
    """
    if isinstance(value, any_pb2.Any):
        return value
    packed = any_pb2.Any()
    packed.Pack(_message_for(value))
    return packed


def _message_for(value: object) -> Message:
    if value is None:
        return empty_pb2.Empty()
    if isinstance(value, Message):
        return value
    if isinstance(value, bool):
        return wrappers_pb2.BoolValue(value=value)
    if isinstance(value, int):
        if -(2**63) <= value < 2**63:
            return wrappers_pb2.Int64Value(value=value)
        if 0 < value < 2**64:
            return wrappers_pb2.UInt64Value(value=value)
        raise ValueError(f"an integer of more than 64 bits cannot be sent: {value}")
    if isinstance(value, float):
        return wrappers_pb2.DoubleValue(value=value)
    if isinstance(value, str):
        return wrappers_pb2.StringValue(value=_checked_text(value, ""))
    if isinstance(value, _BYTES):
        return wrappers_pb2.BytesValue(value=bytes(cast("bytes", value)))
    if isinstance(value, datetime):
        return _timestamp(value)
    if isinstance(value, timedelta):
        microseconds = check_duration(value) // _MICROSECOND
        # Seconds and nanoseconds have the same sign.
        seconds, rest = divmod(abs(microseconds), 1_000_000)
        sign = -1 if microseconds < 0 else 1
        return duration_pb2.Duration(seconds=sign * seconds, nanos=sign * rest * 1_000)
    return _json_value(value, "", 0)


def check_duration(value: timedelta) -> timedelta:
    """Return *value* if a Duration can hold it. Raises `ValueError`."""
    if abs(value) > _MAX_DURATION:
        raise ValueError(f"a duration of more than 10,000 years cannot be sent: {value}")
    return value


def _timestamp(value: datetime) -> timestamp_pb2.Timestamp:
    if value.tzinfo is None:
        raise ValueError("a datetime needs a time zone: which moment it is, nobody else can tell")
    microseconds = (value - _EPOCH) // _MICROSECOND
    seconds, rest = divmod(microseconds, 1_000_000)
    return timestamp_pb2.Timestamp(seconds=seconds, nanos=rest * 1_000)


def _checked_text(value: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"text{place} with lone surrogates cannot be sent") from exc
    return value


def _json_value(value: object, place: str, depth: int) -> struct_pb2.Value:
    where = f" at {place}" if place else ""
    if depth > _MAX_DEPTH:
        raise ValueError(
            "the value is nested too deeply for the wire: lists may be nested 50 deep, mappings 33"
        )
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NullValue.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        if not math.isfinite(value):
            raise ValueError(f"{value!r}{where} has no form inside a list or a mapping")
        if isinstance(value, int) and abs(value) > _EXACT:
            raise ValueError(
                f"the integer {value}{where} is larger than 2**53, which a number inside a list "
                "or a mapping cannot hold exactly"
            )
        return struct_pb2.Value(number_value=value)
    if isinstance(value, str):
        return struct_pb2.Value(string_value=_checked_text(value, where))
    if isinstance(value, Mapping):
        struct = struct_pb2.Struct()
        for key, member in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise TypeError(f"a mapping's keys are strings, not {type(key).__name__}{where}")
            name = _checked_text(key, where)
            struct.fields[name].CopyFrom(
                _json_value(member, f"{place}[{key!r}]", depth + _MAPPING_DEPTH)
            )
        return struct_pb2.Value(struct_value=struct)
    if _is_list(value):
        listed = [
            _json_value(item, f"{place}[{index}]", depth + _LIST_DEPTH)
            for index, item in enumerate(value)
        ]
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=listed))
    raise TypeError(f"a value of type {type(value).__name__}{where} cannot be sent")


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, Sequence) and not isinstance(value, _BYTES)


def unmarshal(packed: any_pb2.Any) -> object:
    """Turn an ``Any`` back into a value: what `marshal` made it of.

    Numbers inside lists and mappings come back as integers where they are whole. A message of
    another type comes back as itself where protobuf's default pool knows it, and else in its
    ``Any``.

    Raises:
        ValueError: the bytes are not of the type that they claim.
    """
    name = packed.type_url.rpartition("/")[2]
    if not name and not packed.value:
        return None  # so some leave out what is empty
    try:
        if name not in _KNOWN:
            return _foreign(packed, name)
        message = _KNOWN[name]()
        message.ParseFromString(packed.value)
    except DecodeError as exc:
        raise ValueError(f"the bytes are no {name}: {exc}") from exc
    return _value_of(message)


_KNOWN: Final[dict[str, type[Message]]] = {
    kind.DESCRIPTOR.full_name: kind
    for kind in (
        empty_pb2.Empty,
        wrappers_pb2.BoolValue,
        wrappers_pb2.Int64Value,
        wrappers_pb2.UInt64Value,
        wrappers_pb2.Int32Value,
        wrappers_pb2.UInt32Value,
        wrappers_pb2.DoubleValue,
        wrappers_pb2.FloatValue,
        wrappers_pb2.StringValue,
        wrappers_pb2.BytesValue,
        timestamp_pb2.Timestamp,
        duration_pb2.Duration,
        struct_pb2.Value,
        struct_pb2.Struct,
        struct_pb2.ListValue,
    )
}


def _value_of(message: Any) -> object:
    if isinstance(message, empty_pb2.Empty):
        return None
    if isinstance(message, timestamp_pb2.Timestamp):
        try:
            return _EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1_000)
        except OverflowError as exc:
            raise ValueError("a timestamp beyond what a datetime can hold") from exc
    if isinstance(message, duration_pb2.Duration):
        try:
            # int() rounds towards zero, as both parts have the same sign.
            return timedelta(seconds=message.seconds, microseconds=int(message.nanos / 1_000))
        except OverflowError as exc:
            raise ValueError("a duration beyond what a timedelta can hold") from exc
    if isinstance(message, (struct_pb2.Value, struct_pb2.Struct, struct_pb2.ListValue)):
        return _json_of(message)
    return cast("object", message.value)


def _json_of(message: Any) -> object:
    if isinstance(message, struct_pb2.Struct):
        return {name: _json_of(member) for name, member in message.fields.items()}
    if isinstance(message, struct_pb2.ListValue):
        return [_json_of(item) for item in message.values]
    kind = message.WhichOneof("kind")
    if kind in {"struct_value", "list_value"}:
        return _json_of(getattr(message, kind))
    if kind == "number_value":
        number: float = message.number_value
        return int(number) if number.is_integer() and abs(number) <= _EXACT else number
    return None if kind in {None, "null_value"} else cast("object", getattr(message, kind))


def _foreign(packed: Any, name: str) -> object:
    try:
        found = descriptor_pool.Default().FindMessageTypeByName(name)
    except KeyError:
        return any_pb2.Any(type_url=packed.type_url, value=packed.value)
    message = message_factory.GetMessageClass(found)()
    message.ParseFromString(packed.value)
    return message
