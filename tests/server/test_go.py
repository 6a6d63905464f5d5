"""Reading as Go does: JSON, msgpack, times, quotes. Expectations are Go's own answers."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch.server import _go_json
from trio_dispatch.server._go_json import (
    MAX_DEPTH,
    GoStruct,
    JsonProblem,
    decode,
    unmarshal,
    unmarshal_first,
    unquote,
)
from trio_dispatch.server._go_msgpack import MsgpackProblem, NilTime, encode_text, encode_time
from trio_dispatch.server._go_msgpack import unmarshal as unpack
from trio_dispatch.server._go_text import TimeProblem, quote, quote_rune, read_time
from trio_dispatch.server._wire import Incoming


class Inner(GoStruct, frozen=True):
    code: int = 0


class Thing(GoStruct, frozen=True):
    name: str = ""
    count: int = 0
    raw: msgspec.Raw = msgspec.Raw()
    inner: Inner | None = None


def read(text: str | bytes) -> Thing:
    return unmarshal(text if isinstance(text, bytes) else text.encode(), Thing)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ('{"name":"a"}', Thing(name="a")),
        ('{"NAME":"a","cOUNT":2}', Thing(name="a", count=2)),
        ('{"name":"a","Name":"b"}', Thing(name="b")),
        ('{"na\\u006de":"a"}', Thing(name="a")),
        ('{"name":"a","name":null,"count":1,"count":null}', Thing(name="a", count=1)),
        ('{"inner":{"code":1},"inner":null}', Thing()),
        ('{"inner":{"CODE":1,"x":[{}]}}', Thing(inner=Inner(code=1))),
        ("null", Thing()),
        (" {} ", Thing()),
        ('{"name":"\\ud800"}', Thing(name="\ufffd")),
        ('{"name":"\\ud83d\\ude00"}', Thing(name="😀")),
        (b'{"name":"\xff\xe2\x82"}', Thing(name="\ufffd\ufffd\ufffd")),
        ('{"count":-0}', Thing()),
        ('{"count":-9223372036854775808}', Thing(count=-(2**63))),
        ('{"other":{"name":"x"},"name":"a"}', Thing(name="a")),
        ('{"name":"a","xs":[{"name":"b"},[]],"COUNT":3}', Thing(name="a", count=3)),
    ],
)
def test_json_is_read_as_go_reads_it(text: str | bytes, wanted: Thing) -> None:
    assert read(text) == wanted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected end of JSON input"),
        ("{", "unexpected end of JSON input"),
        ('{"name"', "unexpected end of JSON input"),
        ('{"name":"a', "unexpected end of JSON input"),
        ("x", "invalid character 'x' looking for beginning of value"),
        ("{x", "invalid character 'x' looking for beginning of object key string"),
        ('{"a":1,}', "invalid character '}' looking for beginning of object key string"),
        ('{"a" 1}', "invalid character '1' after object key"),
        ('{"a":1 "b"}', "invalid character '\"' after object key:value pair"),
        ("[1 2]", "invalid character '2' after array element"),
        ("{} x", "invalid character 'x' after top-level value"),
        ("[01]", "invalid character '1' after array element"),
        ("[1.]", "invalid character ']' after decimal point in numeric literal"),
        ("[1e]", "invalid character ']' in exponent of numeric literal"),
        ("[-]", "invalid character ']' in numeric literal"),
        ("tru", "invalid character ' ' in literal true (expecting 'e')"),
        ("nulL", "invalid character 'L' in literal null (expecting 'l')"),
        ('"\\q"', "invalid character 'q' in string escape code"),
        ('"\\u12G4"', "invalid character 'G' in \\u hexadecimal character escape"),
        ('"a\tb"', "invalid character '\\t' in string literal"),
        ("'", "invalid character '\\'' looking for beginning of value"),
        (b"\xff", "invalid character 'ÿ' looking for beginning of value"),
        ("7", "json: cannot unmarshal number into Go value of type dwp.Thing"),
        ("[]", "json: cannot unmarshal array into Go value of type dwp.Thing"),
        ('"x"', "json: cannot unmarshal string into Go value of type dwp.Thing"),
        ("true", "json: cannot unmarshal bool into Go value of type dwp.Thing"),
        (
            '{"name":7,"count":"x"}',
            "json: cannot unmarshal number into Go struct field Thing.name of type string",
        ),
        (
            '{"count":1.5}',
            "json: cannot unmarshal number 1.5 into Go struct field Thing.count of type int",
        ),
        (
            '{"count":9223372036854775808}',
            (
                "json: cannot unmarshal number 9223372036854775808 into Go struct field "
                "Thing.count of type int"
            ),
        ),
        (
            '{"inner":[]}',
            "json: cannot unmarshal array into Go struct field Thing.inner of type dwp.Inner",
        ),
    ],
)
def test_what_go_does_not_read_is_refused_in_its_words(text: str | bytes, message: str) -> None:
    with pytest.raises(JsonProblem) as caught:
        read(text)
    assert str(caught.value) == message


def test_nesting_ends_where_gos_does() -> None:
    deep = b'{"raw":' + b"[" * (MAX_DEPTH - 1) + b"]" * (MAX_DEPTH - 1) + b"}"
    assert len(bytes(read(deep).raw)) == 2 * (MAX_DEPTH - 1)
    deeper = b'{"raw":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}"
    with pytest.raises(JsonProblem, match="exceeded max depth"):
        read(deeper)


@pytest.mark.parametrize(
    "text", ['"' + "a" * 200_000, '{"a":"' + "\\n" * 100_000, "[" + "0," * 100_000 + "x"]
)
def test_text_that_breaks_off_late_is_refused_in_linear_time(text: str) -> None:
    # A reader that tries again from every character would not end in this life.
    with pytest.raises(JsonProblem):
        read(text)


def test_raw_text_is_kept_byte_for_byte() -> None:
    text = b'{"NAME":"x","raw": {"a" : "\xff\\ud800",\n"b":null } ,"count":1}'
    assert bytes(read(text).raw) == b'{"a" : "\xff\\ud800",\n"b":null }'


@pytest.mark.parametrize("rest", ["", " x", "{", "]", '"'])
def test_a_decoder_ignores_what_follows_the_first_value(rest: str) -> None:
    assert unmarshal_first(f'{{"name":"a"}}{rest}'.encode(), Thing) == Thing(name="a")


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(name=st.text(), count=st.integers(-(2**63), 2**63 - 1), raw=JSON, escaped=st.booleans())
def test_both_ways_of_reading_agree(name: str, count: int, raw: Any, escaped: bool) -> None:
    fields = {"name": name, "count": count, "raw": raw}
    text = json.dumps(fields, ensure_ascii=escaped).encode("utf-8", "surrogatepass")
    latin = text.decode("latin-1")
    slow = _go_json._Reader(latin).struct(Thing, *_go_json.scan(latin))
    assert slow == read(text)
    assert json.loads(bytes(slow.raw)) == raw


@given(
    st.binary(max_size=60) | st.text('{}[]",:\\u0nameNAM tfl-.e19 ', max_size=40).map(str.encode)
)
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    for type in (Thing, Incoming):
        with suppress(JsonProblem):
            unmarshal(data, type)
        with suppress(JsonProblem):
            unmarshal_first(data, type)
    with suppress(JsonProblem):
        decode(data)


def test_any_value_is_decoded_with_broken_text_mended() -> None:
    assert decode(b'["\\ud800\\u0041", "\xff", "\\ud83d\\ude00", "\\\\ud800"]') == [
        "\ufffdA",
        "\ufffd",
        "😀",
        "\\ud800",
    ]
    with pytest.raises(JsonProblem):
        decode(b"[" * 100_000)


def test_literals_are_unquoted() -> None:
    assert unquote('"a\\u0000\\/\\b"') == "a\0/\b"


# Text


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\', '"a\\"b\\\\"'),
        ("\n\t\x00\x7f", '"\\n\\t\\x00\\x7f"'),
        ("é😀", '"é😀"'),
        ("\u200b\ue000", '"\\u200b\\ue000"'),
    ],
)
def test_text_is_quoted_as_go_does(text: str, quoted: str) -> None:
    assert quote(text) == quoted


def test_characters_are_quoted_as_go_does() -> None:
    assert [quote_rune(c) for c in "a'\"\n"] == ["'a'", "'\\''", "'\"'", "'\\n'"]


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-01-02T03:04:05Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05.120Z", "2026-01-02T03:04:05.12Z"),
        ("2026-01-02T03:04:05.000Z", "2026-01-02T03:04:05Z"),
        ("2026-01-02T03:04:05,5Z", "2026-01-02T03:04:05.5Z"),
        ("2026-01-02T03:04:05.0123456789Z", "2026-01-02T03:04:05.012345678Z"),
        ("2026-01-02T3:04:05Z", "2026-01-02T03:04:05Z"),
        ("2024-02-29T03:04:05+00:00", "2024-02-29T03:04:05Z"),
        ("2026-01-02T03:04:05.5-02:30", "2026-01-02T03:04:05.5-02:30"),
    ],
)
def test_times_are_read_as_go_does(text: str, written: str) -> None:
    assert read_time(text) == written


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", ' as "2006-01-02T15:04:05Z07:00": cannot parse "" as "2006"'),
        ("abc", ' as "2006-01-02T15:04:05Z07:00": cannot parse "abc" as "2006"'),
        ("2026", ' as "2006-01-02T15:04:05Z07:00": cannot parse "" as "-"'),
        ("2026-13-02T03:04:05Z", ": month out of range"),
        ("2026-02-29T03:04:05Z", ": day out of range"),
        ("2026-01-02T24:04:05Z", ": hour out of range"),
        ("2026-01-02T03:04:05z", ' as "2006-01-02T15:04:05Z07:00": cannot parse "z" as "Z07:00"'),
        ("2026-01-02T03:04:05Zx", ': extra text: "x"'),
        ("2026-01-02T03:04:05+25:00", ": time zone offset hour out of range"),
    ],
)
def test_what_is_no_time_is_refused_in_gos_words(text: str, problem: str) -> None:
    with pytest.raises(TimeProblem) as caught:
        read_time(text)
    assert str(caught.value) == f'parsing time "{text}"{problem}'


# msgpack

FIELDS = {"id": "text", "data": "bytes", "error": {"code": "int"}, "credits": "int", "ts": "time"}


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (b"\x81\xa2id\xa1x", {"id": "x"}),
        (b"\x81\xa2id\xc4\x01x", {"id": "x"}),
        (b"\x81\xc4\x02id\xc0", {"id": ""}),
        (b"\x81\xa2id\xa1\xff", {"id": "\udcff"}),
        (b"\x81\xa1z\x92\x81\x01\x02\xd4\x05x", {}),
        (b"\x81\xa4data\xc0", {"data": None}),
        (b"\x81\xa7credits\xcf" + b"\xff" * 8, {"credits": -1}),
        (b"\x81\xa7credits\xff", {"credits": -1}),
        (b"\x81\xa5error\x81\xa4code\xcc\x80", {"error": {"code": 128}}),
        (b"\x82\xa5error\x81\xa4code\x01\xa5error\xc0", {}),
        (b"\xc0", {}),
        (b"\x90", {}),
        (
            b"\x95\xa1x\xc0\xc0\x05\xd6\xff\x00\x00\x00\x01",
            {"id": "x", "data": None, "credits": 5, "ts": (1, 0)},
        ),
        (b"\x81\xa2id\xa1x and more", {"id": "x"}),
    ],
)
def test_msgpack_is_read_as_the_servers_library_does(data: bytes, wanted: dict[str, Any]) -> None:
    assert unpack(data, FIELDS) == wanted


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "EOF"),
        (b"\x81", "EOF"),
        (b"\x81\xa2i", "unexpected EOF"),
        (b"\x07", "msgpack: unexpected code=7 decoding map length"),
        (b"\x91\x01", "msgpack: number of fields in array-encoded struct has changed"),
        (b"\x81\xa2id\x80", "msgpack: invalid code=80 decoding string/bytes length"),
        (b"\x81\xa7credits\xca\x00\x00\x00\x00", "msgpack: invalid code=ca decoding int64"),
        (b"\x81\xa2ts\xa1x", "msgpack: invalid code=a1 decoding ext len"),
        (b"\x81\xa2ts\xd4\x05x", "msgpack: got ext type=5, wanted -1"),
        (b"\x81\xa1z\xc1", "msgpack: unknown code c1"),
        (b"\x81\xa1z" + b"\x91" * 5000, "msgpack: nested too deeply"),
    ],
)
def test_msgpack_that_the_library_does_not_read_is_refused(data: bytes, message: str) -> None:
    with pytest.raises(MsgpackProblem) as caught:
        unpack(data, FIELDS)
    assert str(caught.value) == message


@given(st.binary(max_size=300))
def test_text_goes_back_as_it_came_utf8_or_not(content: bytes) -> None:
    sent = b"\x81\xa2id\xc5" + len(content).to_bytes(2, "big") + content
    packed = msgspec.msgpack.encode(encode_text(unpack(sent, FIELDS)["id"]))
    assert packed.endswith(content)
    read: Any = msgpack.unpackb(packed, unicode_errors="surrogateescape")
    assert read.encode("utf-8", "surrogateescape") == content


def test_a_nil_time_is_a_problem_of_its_own() -> None:
    with pytest.raises(NilTime):
        unpack(b"\x81\xa2ts\xc0", FIELDS)


@given(seconds=st.integers(-(2**62), 2**62), nanoseconds=st.integers(0, 10**9 - 1))
def test_times_go_there_and_back(seconds: int, nanoseconds: int) -> None:
    content = encode_time(seconds, nanoseconds)
    packed = b"\x81\xa2ts\xc7" + bytes((len(content), 0xFF)) + content
    assert unpack(packed, FIELDS) == {"ts": (seconds, nanoseconds)}


@given(st.binary(max_size=60))
def test_any_bytes_are_unpacked_or_refused(data: bytes) -> None:
    for prefix in (b"", b"\x83\xa2id", b"\x82\xa2ts", b"\x9d"):
        with suppress(MsgpackProblem):
            unpack(prefix + data, FIELDS)
