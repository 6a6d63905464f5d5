"""What becomes of each kind of value: the table of docs/guides/payloads.md, row by row."""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import enum
import math
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple, TypedDict

import attrs
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch import Job
from trio_dispatch._wire.arguments import encode_payload


class SafeText(str):
    """As Django's SafeString, markupsafe's Markup, bs4's NavigableString, numpy's str_."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not this"


class Count(int):
    def __index__(self) -> int:
        return 99


class Ratio(float):
    """As numpy's float64."""


class Blob(bytes):
    pass


class Row(dict[str, int]):
    pass


class Color(enum.Enum):
    RED = "red"


class Odd(enum.Enum):
    PAIR = (1, 2)


class Level(enum.IntEnum):
    HIGH = 3


class Bits(enum.Flag):
    A = 1
    B = 2


class Point(NamedTuple):
    x: int
    y: int


class Struct(msgspec.Struct):
    n: int


@attrs.define
class Attrs:
    n: int


@dataclasses.dataclass
class Data:
    n: int


class Typed(TypedDict):
    n: int


UUID = uuid.UUID(int=1)
UTC = dt.timezone.utc

ROWS: list[tuple[Any, str, Any, Any]] = [
    # value, JSON, job.payload, the type for payload_as (which gives the value back)
    (None, "null", None, type(None)),
    (True, "true", True, bool),
    (5, "5", 5, int),
    (2**70, str(2**70), 2**70, int),
    (1.5, "1.5", 1.5, float),
    ("é\u2028", '"é\u2028"', "é\u2028", str),
    ([1, "a"], '[1,"a"]', [1, "a"], list[int | str]),
    ((1, 2), "[1,2]", [1, 2], tuple[int, int]),
    ({1}, "[1]", [1], set[int]),
    (frozenset({1}), "[1]", [1], frozenset[int]),
    ({"a": 1}, '{"a":1}', {"a": 1}, dict[str, int]),
    ({1: "a"}, '{"1":"a"}', {"1": "a"}, dict[int, str]),
    ({1.5: "a"}, '{"1.5":"a"}', {"1.5": "a"}, dict[float, str]),
    ({UUID: 1}, f'{{"{UUID}":1}}', {str(UUID): 1}, dict[uuid.UUID, int]),
    ({Level.HIGH: 1}, '{"3":1}', {"3": 1}, dict[Level, int]),
    (b"\xff", '"/w=="', "/w==", bytes),
    (bytearray(b"a"), '"YQ=="', "YQ==", bytearray),
    (Decimal("1.10"), '"1.10"', "1.10", Decimal),
    (Color.RED, '"red"', "red", Color),
    (Level.HIGH, "3", 3, Level),
    (UUID, f'"{UUID}"', str(UUID), uuid.UUID),
    (
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        '"2026-01-02T03:04:05Z"',
        "2026-01-02T03:04:05Z",
        dt.datetime,
    ),
    (dt.date(2026, 1, 2), '"2026-01-02"', "2026-01-02", dt.date),
    (dt.time(1, 2), '"01:02:00"', "01:02:00", dt.time),
    (dt.timedelta(seconds=90), '"PT90S"', "PT90S", dt.timedelta),
    (Point(1, 2), "[1,2]", [1, 2], Point),
    (Struct(1), '{"n":1}', {"n": 1}, Struct),
    (Attrs(1), '{"n":1}', {"n": 1}, Attrs),
    (Data(1), '{"n":1}', {"n": 1}, Data),
    ({"n": 1}, '{"n":1}', {"n": 1}, Typed),
    (collections.OrderedDict(a=1), '{"a":1}', {"a": 1}, dict[str, int]),
    (Row(a=1), '{"a":1}', {"a": 1}, dict[str, int]),
]


@pytest.mark.parametrize(("value", "json", "plain", "type"), ROWS, ids=lambda v: str(v)[:20])
def test_a_value_becomes_json_and_is_read_back(
    value: object, json: str, plain: object, type: type[Any]
) -> None:
    text = bytes(encode_payload(value, "the payload"))
    assert text.decode() == json
    job = Job(id="job_1", name="j", payload=text)
    assert job.payload == plain
    assert job.payload_as(type) == value


@pytest.mark.parametrize(
    ("value", "json"),
    [
        (SafeText("x"), '"x"'),
        ({"html": SafeText("x")}, '{"html":"x"}'),
        ({SafeText("k"): 1}, '{"k":1}'),
        ([SafeText("x")], '["x"]'),
        (Struct(SafeText("x")), '{"n":"x"}'),  # type: ignore[arg-type]
        (Count(7), "7"),
        ({Count(7): 1}, '{"7":1}'),
        (Ratio(1.5), "1.5"),
        (Blob(b"\xff"), '"/w=="'),
        (Odd.PAIR, "[1,2]"),
        (Bits.A | Bits.B, "3"),
        (dt.datetime(2026, 1, 2), '"2026-01-02T00:00:00"'),
        (Decimal("NaN"), '"NaN"'),
        (memoryview(b"a"), '"YQ=="'),
        (msgspec.Raw(b'{ "a":1}'), '{ "a":1}'),
    ],
    ids=lambda v: str(type(v).__name__),
)
def test_what_becomes_its_plain_kind(value: object, json: str) -> None:
    assert bytes(encode_payload(value, "the payload")).decode() == json


@pytest.mark.parametrize(
    "value",
    [
        {1: "a", "1": "b"},
        {"a": [{"b": {1: "a", "1": "b"}}]},
        {"x": Struct({1: 1, "1": 2})},  # type: ignore[arg-type]
        {1: "a", 1.5: "b", "1.5": "c"},
        {Color.RED: 1, "red": 2},
        {UUID: 1, str(UUID): 2},
        {b"\xff": 1, "/w==": 2},
        {Decimal("1.10"): 1, "1.10": 2},
    ],
    ids=str,
)
def test_keys_that_are_the_same_in_json_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="are the same in JSON"):
        encode_payload(value, "the payload", "j")


@pytest.mark.parametrize("value", [math.nan, math.inf, Ratio("nan"), [Ratio("inf")]])
def test_what_would_become_null_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="has no JSON form"):
        encode_payload(value, "the payload")


@pytest.mark.parametrize(
    "value",
    [
        object(),
        1j,
        range(3),
        iter([1]),
        {"a": 1}.keys(),
        collections.deque([1]),
        collections.UserDict(a=1),
        int,
        {None: 1},
        {True: 1},
        {(1, 2): 1},
    ],
    ids=lambda v: type(v).__name__,
)
def test_what_has_no_json_is_a_type_error_that_names_the_type(value: object) -> None:
    with pytest.raises(TypeError, match=r"the payload of 'j' cannot be encoded as JSON: .*no JSON"):
        encode_payload(value, "the payload", "j")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner),
    )
)
def test_nothing_is_lost_in_silence(value: Any) -> None:
    try:
        text = bytes(encode_payload(value, "the payload"))
    except ValueError:
        return

    def count(item: Any) -> int:
        members = (
            item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()
        )
        return 1 + sum(map(count, members))

    assert count(msgspec.json.decode(text)) == count(value)


def test_what_dumps_itself_is_asked_for_its_json() -> None:
    class Dumps:
        def __init__(self, text: str) -> None:
            self.text = text

        def model_dump_json(self) -> str:
            return self.text

    for text in ('{"a":1}', '{"a":null}'):
        assert bytes(encode_payload([Dumps(text)], "the payload")).decode() == f"[{text}]"


def test_pydantic_models_write_their_own_json() -> None:
    pydantic = pytest.importorskip("pydantic")

    class Order(pydantic.BaseModel):  # type: ignore[name-defined,misc]
        order_id: str
        price: float
        note: str | None = None

    order = Order(order_id="1", price=1.5)
    text = bytes(encode_payload({"order": order, "orders": [order]}, "the payload"))
    one = '{"order_id":"1","price":1.5,"note":null}'
    assert text.decode() == f'{{"order":{one},"orders":[{one}]}}'
    read: Callable[[bytes], object] = Order.model_validate_json
    assert read(bytes(encode_payload(order, "the payload"))) == order
    with pytest.raises(ValueError, match="nan at"):
        encode_payload(Order(order_id="1", price=math.nan), "the payload")
