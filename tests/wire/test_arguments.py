"""Arguments: what could never work is refused at once, by an error that names the argument."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import json_values
from trio_dispatch._wire.arguments import (
    MAX_INT64,
    check_count,
    check_int,
    check_seconds,
    check_text,
    encode_payload,
)

# Text.


def test_text_is_returned() -> None:
    assert check_text("ä", "a job's name") == "ä"


@pytest.mark.parametrize("value", [None, b"name", 7, ["name"]])
def test_text_is_a_string(value: object) -> None:
    with pytest.raises(TypeError, match=f"a job's name is a string, not {type(value).__name__}"):
        check_text(value, "a job's name")


def test_text_is_not_empty() -> None:
    with pytest.raises(ValueError, match="a job's name is empty"):
        check_text("", "a job's name")


def test_text_has_no_lone_surrogates_as_they_have_no_utf_8() -> None:
    with pytest.raises(ValueError, match="a job's name is not valid text") as caught:
        check_text("a\ud800", "a job's name")
    assert type(caught.value) is ValueError


def test_errors_do_not_quote_a_text_which_may_be_a_token() -> None:
    with pytest.raises(ValueError, match="not valid") as caught:
        check_text("SECRET\ud800", "a token")
    with pytest.raises(TypeError) as caught_type:
        check_text(b"SECRET", "a token")
    assert "SECRET" not in f"{caught.value}{caught_type.value}"


# Numbers.


class Level(IntEnum):
    HIGH = 3


@pytest.mark.parametrize("value", [0, 1, -1, MAX_INT64, -MAX_INT64 - 1, Level.HIGH])
def test_an_integer_of_64_bits_is_returned(value: int) -> None:
    assert check_int(value, "priority") == value


@pytest.mark.parametrize("value", [None, "1", 1.0, True, False, Decimal(1)])
def test_an_integer_is_an_int_and_no_bool(value: object) -> None:
    with pytest.raises(TypeError, match=f"priority is an integer, not {type(value).__name__}"):
        check_int(value, "priority")


@pytest.mark.parametrize("value", [MAX_INT64 + 1, -MAX_INT64 - 2, 10**30])
def test_an_integer_has_64_bits(value: int) -> None:
    with pytest.raises(ValueError, match="priority does not fit into 64 bits"):
        check_int(value, "priority")


def test_a_count_is_at_least_one_or_what_is_said() -> None:
    assert check_count(1, "buffer") == 1
    assert check_count(0, "attempts", least=0) == 0
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"buffer is at least 1, not {value}"):
            check_count(value, "buffer")
    with pytest.raises(ValueError, match="attempts is at least 0, not -1"):
        check_count(-1, "attempts", least=0)
    with pytest.raises(TypeError, match="buffer is an integer, not float"):
        check_count(math.inf, "buffer")


@pytest.mark.parametrize("value", [1, 0.001, 1e300])
def test_seconds_are_returned_as_a_float(value: float) -> None:
    seconds = check_seconds(value, "request_timeout")
    assert seconds == value
    assert type(seconds) is float


@pytest.mark.parametrize("value", [0, 0.0, -1, -0.1, math.nan, math.inf, -math.inf, 10**400])
def test_seconds_are_positive_and_finite(value: float) -> None:
    with pytest.raises(ValueError, match="request_timeout is not a positive number of seconds"):
        check_seconds(value, "request_timeout")


def test_no_seconds_are_allowed_where_they_make_sense() -> None:
    assert check_seconds(0, "delay", zero=True) == 0
    with pytest.raises(ValueError, match="delay"):
        check_seconds(-1, "delay", zero=True)


@pytest.mark.parametrize("value", [None, "1", True, timedelta(seconds=1)])
def test_seconds_are_a_number(value: object) -> None:
    with pytest.raises(
        TypeError, match=f"delay is a number of seconds, not {type(value).__name__}"
    ):
        check_seconds(value, "delay")


# Payloads.


@dataclass
class Data:
    value: object


@attrs.define
class Attributes:
    value: object


class Struct(msgspec.Struct):
    value: object


class Tuple(NamedTuple):
    value: object


class Choice(Enum):
    NOT_A_NUMBER = math.nan


KINDS: dict[str, Callable[[Any], object]] = {
    "itself": lambda value: value,
    "list": lambda value: [1, value],
    "tuple": lambda value: (value, None),
    "set": lambda value: {value},
    "dict": lambda value: {"a": value, "b": None},
    "dict with numbers as keys": lambda value: {1: value},
    "dataclass": Data,
    "attrs": Attributes,
    "struct": Struct,
    "named tuple": Tuple,
}

WRAPPED = st.recursive(
    st.just(lambda value: value),
    lambda inner: st.builds(
        lambda kind, wrap: lambda value: KINDS[kind](wrap(value)),
        st.sampled_from([kind for kind in KINDS if kind != "set"]),
        inner,
    ),
    max_leaves=5,
)
"""Any kind of object around another, to any depth."""


def encoded(value: object) -> bytes:
    """The JSON text of a payload."""
    return bytes(encode_payload(value, "the payload"))


@given(json_values)
def test_json_is_encoded(value: object) -> None:
    assert json.loads(encoded(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, b"null"),
        ({"a": None}, b'{"a":null}'),
        (Data([1]), b'{"value":[1]}'),
        (Attributes(None), b'{"value":null}'),
        (Struct(Data("x")), b'{"value":{"value":"x"}}'),
        (Tuple(1), b"[1]"),
        (datetime(2026, 1, 2, tzinfo=timezone.utc), b'"2026-01-02T00:00:00Z"'),
        (UUID(int=1), b'"00000000-0000-0000-0000-000000000001"'),
        (b"\x00", b'"AA=="'),
        (Level.HIGH, b"3"),
        (Decimal("1.5"), b'"1.5"'),
        ({1: "a"}, b'{"1":"a"}'),
        ("ä", '"ä"'.encode()),
        (2**63, b"9223372036854775808"),
        (2**64 - 1, b"18446744073709551615"),
        (-(2**63), b"-9223372036854775808"),
        ("null", b'"null"'),
    ],
)
def test_what_else_msgspec_encodes_is_encoded(value: object, text: bytes) -> None:
    assert encoded(value) == text


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
def test_numbers_that_json_lacks_are_refused_in_every_kind_of_object(
    kind: str, number: float
) -> None:
    # msgspec would write a null, and nobody would ever know.
    with pytest.raises(ValueError, match=f"^the payload .*{number!r}"):
        encoded(KINDS[kind](number))


@given(WRAPPED, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_numbers_that_json_lacks_are_refused_at_any_depth(
    wrap: Callable[[object], object], number: float
) -> None:
    with pytest.raises(ValueError, match="the payload"):
        encoded(wrap(number))
    assert encoded(wrap(None)).count(b"null") >= 1
    assert encoded(wrap(1.5))


def test_a_number_that_json_lacks_is_no_better_as_the_value_of_an_enum() -> None:
    # Old releases of msgspec have no enums of numbers at all.
    with pytest.raises((ValueError, TypeError), match=r"^the payload "):
        encoded({"choice": Choice.NOT_A_NUMBER})


def test_the_error_says_where_the_number_is() -> None:
    with pytest.raises(ValueError, match=r"^the payload .*nan at \['items'\]\[2\]\['price'\]"):
        encoded({"name": None, "items": [{}, {}, {"price": math.nan}]})


@pytest.mark.parametrize("kind", KINDS)
def test_text_with_lone_surrogates_is_refused(kind: str) -> None:
    with pytest.raises(ValueError, match="the payload") as caught:
        encoded(KINDS[kind]("\ud800"))
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match="the payload"):
        encoded({"\ud800": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_what_has_no_json_form_is_a_type_error(kind: str) -> None:
    with pytest.raises(TypeError, match=r"^the payload .*object"):
        encoded(KINDS[kind](object()))


@pytest.mark.parametrize("value", [{None: 1}, {(1, 2): 3}, 1j, print, iter([]), Exception("x")])
def test_more_that_has_no_json_form(value: object) -> None:
    with pytest.raises(TypeError, match=r"^the payload"):
        encoded(value)


def endless_list() -> object:
    itself: list[object] = [None]
    itself.append(itself)
    return itself


def endless_dict() -> object:
    itself: dict[str, object] = {}
    itself["a"] = {"b": [itself]}
    return itself


def endless_object() -> object:
    itself = Data(None)
    itself.value = Struct(itself)
    return itself


@pytest.mark.parametrize("make", [endless_list, endless_dict, endless_object])
def test_what_holds_itself_is_refused(make: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match=r"^the payload .*contains itself") as caught:
        encoded(make())
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("depth", [10, 500, 900, 950, 960, 970, 980, 990, 1000, 5000, 100_000])
def test_what_is_nested_deeply_is_encoded_or_refused(depth: int) -> None:
    value: object = None
    for _ in range(depth):
        value = [value]
    try:
        text = encoded(value)
    except ValueError:
        assert depth > 500
    else:
        assert text == b"[" * depth + b"null" + b"]" * depth
    # What is nested too deeply cannot be taken apart by the interpreter either, on some versions.
    while isinstance(value, list):
        value = value.pop()


# JSON text that the caller has already.


@pytest.mark.parametrize("text", [b"null", b'{"a": [1, null]}', b'"\\u00e4"', b" 7 ", b"1e400"[:3]])
def test_raw_json_is_sent_as_it_is(text: bytes) -> None:
    assert encoded(msgspec.Raw(text)) == text


@pytest.mark.parametrize("text", [b"", b"{", b"nope", b"NaN", b"1 2", b'"\xff"', b"[" * 100_000])
def test_raw_that_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the payload is msgspec\.Raw, but not JSON") as caught:
        encoded(msgspec.Raw(text))
    assert type(caught.value) is ValueError


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "set"])
def test_raw_json_may_stand_inside_other_payloads(kind: str) -> None:
    assert b'{ "a": null }' in encoded(KINDS[kind](msgspec.Raw(b'{ "a": null }')))
    with pytest.raises(ValueError, match="inf"):
        encoded([KINDS[kind](msgspec.Raw(b"null")), math.inf])
