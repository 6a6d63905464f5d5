"""JSON as Go reads it.

A Dispatch server reads frames with Go's ``encoding/json``, which is lenient where Python's readers
are strict: keys match without regard to case, null leaves a field as it is, broken text becomes
U+FFFD, and what follows a repeated key wins. It is strict in other places: integers have 64 bits,
and nesting has a limit. A user's test is only as true as these rules are kept.

`unmarshal` reads the usual text with msgspec, which agrees wherever it succeeds; the rest is read
here, slowly and to the letter. Errors have Go's words.
"""

from __future__ import annotations

import re
import typing
from functools import cache
from types import NoneType
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from trio_dispatch.server._go_text import TimeProblem, quote_rune, read_time

MAX_DEPTH: Final = 10_000
_PACKAGE: Final = "dwp"
"""Where a server's structs are defined."""
_INT64: Final = range(-(2**63), 2**63)


class JsonProblem(ValueError):
    """Text that Go does not read; the message is Go's."""


class GoStruct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Go struct that JSON is read into, all of whose fields have defaults.

    Its name, or its ``go_name``, and those of its fields show in error messages.

    Fields are `str`, `int` (64 bits), `msgspec.Raw` (JSON text as it came, empty where there was
    none) or another struct. Those named in ``times`` are `msgspec.Raw` and hold a time.
    """

    go_name: ClassVar[str] = ""
    times: ClassVar[frozenset[str]] = frozenset()
    go_types: ClassVar[dict[str, str]] = {}
    """The Go types of fields, where these are not the plain ones."""


S = TypeVar("S", bound=GoStruct)


def _name(type: type[GoStruct]) -> str:
    return type.go_name or type.__name__


def unmarshal(text: bytes, type: type[S]) -> S:
    """Read *text*, all of it, as ``json.Unmarshal`` does.

    Raises:
        JsonProblem: it is no JSON, or not of that type.
    """
    fast = _read_usual(text, type)
    if fast is not None:
        return fast
    latin = text.decode("latin-1")
    return _Reader(latin).struct(type, *scan(latin))


def unmarshal_first(text: bytes, type: type[S]) -> S:
    """Read the first value of *text*, as a ``json.Decoder`` does: what follows is ignored.

    Raises:
        JsonProblem: it is no JSON, or not of that type.
    """
    fast = _read_usual(text, type)
    if fast is not None:
        return fast
    latin = text.decode("latin-1")
    return _Reader(latin).struct(type, *scan(latin, whole=False))


def decode(text: bytes) -> object:
    """Read any value, in which broken text becomes U+FFFD.

    Raises:
        JsonProblem: it is no JSON, or too much of it for this machine: nested too deeply.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, UnicodeError):
        pass
    except RecursionError as exc:
        raise JsonProblem(str(exc)) from exc
    try:
        repaired = _ESCAPE.sub(_repaired_escape, _valid_text(text.decode("latin-1")))
        return _decode(repaired.encode())
    except (msgspec.DecodeError, RecursionError) as exc:
        raise JsonProblem(str(exc)) from exc


_decode: Final = msgspec.json.Decoder(object).decode
_ESCAPE: Final = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair
    r"|\\u[dD][89a-fA-F][0-9a-fA-F]{2}"  # half of one
    r"|\\.",
    re.DOTALL,
)


def _repaired_escape(found: re.Match[str]) -> str:
    alone = len(found[0]) == 6 and found[0][1] == "u"
    return "\ufffd" if alone else found[0]


# The usual text


@cache
def _decoder(type: type[S]) -> tuple[msgspec.json.Decoder[S], list[str]]:
    hints = typing.get_type_hints(type)
    integers = [name for name in type.__struct_fields__ if hints[name] is int]
    return msgspec.json.Decoder(type), integers


def _is_too_deep(text: bytes) -> bool:
    """Whether valid JSON is nested deeper than Go reads it; from Python 3.14 on msgspec does."""
    if text.count(b"[") + text.count(b"{") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    for bracket in _BRACKET.findall(_QUOTED.sub(b"", text)):
        depth += 1 if bracket in (b"[", b"{") else -1
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


_QUOTED: Final = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET: Final = re.compile(rb"[\[\]{}]")


def _read_usual(text: bytes, type: type[S]) -> S | None:
    """What msgspec reads; None where it refuses, or what it reads is not for Go to read."""
    decoder, integers = _decoder(type)
    try:
        value: S = decoder.decode(text)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None
    if _is_too_deep(text) or any(getattr(value, name) not in _INT64 for name in integers):
        return None
    for name in type.times:
        time = bytes(getattr(value, name))
        if time and (text.count(b'"%b"' % name.encode()) > 1 or not _is_time(time)):
            return None
    return value


_PLAIN_TIME: Final = re.compile(
    rb'"\d{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|1\d|2[0-8])'
    rb'T(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?Z"'
)
"""Matches nearly every time that clients send; the others are read element by element."""


def _is_time(raw: bytes) -> bool:
    if _PLAIN_TIME.fullmatch(raw):
        return True
    try:
        read_time(raw[1:-1].decode("latin-1"))
    except TimeProblem:
        return False
    return raw.startswith(b'"')


# Any text

_SPACE: Final = re.compile(r"[ \t\r\n]*")
_STRING: Final = re.compile(
    # Unrolled: a repetition inside another takes for ever on a string without an end.
    r'"[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*'
)
"""A string up to its closing quote, or to what does not belong in one."""
_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_HEX: Final = frozenset("0123456789abcdefABCDEF")
_LITERALS: Final = {"t": "true", "f": "false", "n": "null"}

_Member = tuple[tuple[int, int], tuple[int, int]]
"""Where a key and its value stand."""


def _unexpected(text: str, at: int, context: str, *, within: bool = False) -> JsonProblem:
    """The problem with the character at *at*.

    *within* says that the text may not end here, even with a space: Go tries one.
    """
    if at < len(text):
        character = text[at]
    elif within:
        character = " "
    else:
        return JsonProblem("unexpected end of JSON input")
    return JsonProblem(f"invalid character {quote_rune(character)} {context}")


class _Scanner:
    """One pass over JSON text, without recursion: it may be nested deeper than Python calls."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.members: list[_Member] = []
        """Of the outermost value, where that is an object."""

    def space(self, at: int) -> int:
        """Where the white space from *at* on ends."""
        found = _SPACE.match(self._text, at)
        return found.end() if found else at

    def value(self, at: int) -> int:
        """Check the value that begins at *at*; returns where it ends."""
        text = self._text
        holders: list[str] = []
        key = (0, 0)
        begins = 0
        while True:
            first = text[at : at + 1]
            if len(holders) == 1:
                begins = at
            if first in ("{", "["):
                if len(holders) >= MAX_DEPTH:
                    raise _unexpected(text, at, "exceeded max depth")
                holders.append(first)
                at = self.space(at + 1)
                if text[at : at + 1] != ("}" if first == "{" else "]"):
                    if first == "{":
                        key, at = self._next_key(at, key, outermost=len(holders) == 1)
                    continue
                holders.pop()
                at += 1
            else:
                at = self._scalar(at)
            # A value has ended, and perhaps what holds it.
            while holders:
                if len(holders) == 1 and holders[0] == "{":
                    self.members.append((key, (begins, at)))
                at = self.space(at)
                mark = text[at : at + 1]
                in_object = holders[-1] == "{"
                if mark == ",":
                    at = self.space(at + 1)
                    if in_object:
                        key, at = self._next_key(at, key, outermost=len(holders) == 1)
                    break
                if mark != ("}" if in_object else "]"):
                    after = "object key:value pair" if in_object else "array element"
                    raise _unexpected(text, at, f"after {after}")
                holders.pop()
                at += 1
            else:
                return at

    def _next_key(
        self, at: int, known: tuple[int, int], *, outermost: bool
    ) -> tuple[tuple[int, int], int]:
        key, at = self._key(at)
        return (key if outermost else known), at

    def _key(self, at: int) -> tuple[tuple[int, int], int]:
        """A key and its colon; returns where the key stands, and where the value begins."""
        if self._text[at : at + 1] != '"':
            raise _unexpected(self._text, at, "looking for beginning of object key string")
        end = self._string(at)
        colon = self.space(end)
        if self._text[colon : colon + 1] != ":":
            raise _unexpected(self._text, colon, "after object key")
        return (at, end), self.space(colon + 1)

    def _string(self, at: int) -> int:
        found = _STRING.match(self._text, at)
        at = found.end() if found else at
        if self._text[at : at + 1] == '"':
            return at + 1
        text = self._text
        if text[at : at + 1] != "\\":
            raise _unexpected(text, at, "in string literal")
        if text[at + 1 : at + 2] != "u":
            raise _unexpected(text, at + 1, "in string escape code", within=True)
        at += 2
        while text[at : at + 1] in _HEX:
            at += 1
        raise _unexpected(text, at, "in \\u hexadecimal character escape", within=True)

    def _scalar(self, at: int) -> int:
        text = self._text
        first = text[at : at + 1]
        if first == '"':
            return self._string(at)
        literal = _LITERALS.get(first)
        if literal is not None:
            for index, wanted in enumerate(literal):
                if text[at + index : at + index + 1] != wanted:
                    context = f"in literal {literal} (expecting '{wanted}')"
                    raise _unexpected(text, at + index, context, within=True)
            return at + len(literal)
        found = _NUMBER.match(text, at)
        if found is None:
            if first == "-":
                raise _unexpected(text, at + 1, "in numeric literal", within=True)
            raise _unexpected(text, at, "looking for beginning of value")
        at = found.end()
        has_exponent = "e" in found[0] or "E" in found[0]
        following = text[at : at + 1]
        if following == "." and not has_exponent and "." not in found[0]:
            where = "after decimal point in numeric literal"
            raise _unexpected(text, at + 1, where, within=True)
        if following in ("e", "E") and not has_exponent:
            at += 2 if text[at + 1 : at + 2] in ("+", "-") else 1
            raise _unexpected(text, at, "in exponent of numeric literal", within=True)
        return at


def scan(text: str, *, whole: bool = True) -> tuple[int, list[_Member]]:
    """Check JSON text, given as Latin-1. If it is *whole*, nothing may follow its value.

    Returns where the value begins, and the members of an object.

    Raises:
        JsonProblem: it is no JSON.
    """
    scanner = _Scanner(text)
    begin = scanner.space(0)
    end = scanner.value(begin)
    if whole and (rest := scanner.space(end)) < len(text):
        raise _unexpected(text, rest, "after top-level value")
    return begin, scanner.members


def _fold(key: str) -> str:
    """A key without its case, by Unicode's simple folding as far as it concerns ASCII names."""
    return key.replace("\u017f", "s").replace("\u212a", "k").lower()


@cache
def _fields(type: type[GoStruct]) -> dict[str, tuple[str, Any]]:
    """Field names and types, by folded name."""
    hints = typing.get_type_hints(type)
    return {_fold(name): (name, hints[name]) for name in type.__struct_fields__}


_KINDS: Final = {"{": "object", "[": "array", '"': "string", "t": "bool", "f": "bool"}


class _Reader:
    """Fills structs from text that has been checked."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._problem: JsonProblem | None = None
        """The first field of a wrong type; Go reads on, in case there is worse."""

    def struct(self, type: type[S], begin: int, members: list[_Member]) -> S:
        """The struct whose text begins at *begin*."""
        first = self._text[begin]
        if first == "n":
            return type()
        if first != "{":
            what = _KINDS.get(first, "number")
            raise JsonProblem(
                f"json: cannot unmarshal {what} into Go value of type {_PACKAGE}.{_name(type)}"
            )
        value = self._struct(type, members, "")
        if self._problem is not None:
            raise self._problem
        return value

    def _struct(self, type: type[S], members: list[_Member], path: str) -> S:
        found: dict[str, Any] = {}
        fields = _fields(type)
        for (key_begin, key_end), (begin, end) in members:
            key = unquote(self._text[key_begin:key_end])
            field = fields.get(_fold(key))
            if field is None:
                continue
            name, kind = field
            raw = self._text[begin:end]
            if name in type.times:
                if raw != "null":
                    found[name] = self._time(raw)
            elif kind is msgspec.Raw:
                found[name] = msgspec.Raw(raw.encode("latin-1"))
            elif raw == "null":
                if kind not in (str, int):
                    found.pop(name, None)
            elif kind is str:
                if raw[0] == '"':
                    found[name] = unquote(raw)
                else:
                    self._mismatch(type, path, name, raw, type.go_types.get(name, "string"))
            elif kind is int:
                self._integer(type, path, name, raw, found)
            else:
                self._nested(type, path, name, kind, (begin, end), found)
        return type(**found)

    def _time(self, raw: str) -> msgspec.Raw:
        if raw[0] != '"':
            raise JsonProblem("Time.UnmarshalJSON: input is not a JSON string")
        try:
            read_time(raw[1:-1])  # as it stands: Go does not look for escapes in a time
        except TimeProblem as exc:
            raise JsonProblem(str(exc)) from exc
        return msgspec.Raw(raw.encode("latin-1"))

    def _integer(
        self, type: type[GoStruct], path: str, name: str, raw: str, found: dict[str, Any]
    ) -> None:
        if raw[0] == "-" or raw[0].isdigit():
            digits = raw.removeprefix("-")
            # A number of so many digits is out of range; int() need not look at it.
            if digits.isdigit() and len(digits) < 20 and int(raw) in _INT64:
                found[name] = int(raw)
                return
            raw_kind = f"number {raw}"
        else:
            raw_kind = _KINDS[raw[0]]
        self._mismatch(type, path, name, raw, "int", raw_kind)

    def _nested(
        self,
        type: type[GoStruct],
        path: str,
        name: str,
        kind: Any,
        place: tuple[int, int],
        found: dict[str, Any],
    ) -> None:
        raw = self._text[place[0] : place[1]]
        inner: Any = next(part for part in typing.get_args(kind) if part is not NoneType)
        if raw[0] != "{":
            self._mismatch(type, path, name, raw, f"{_PACKAGE}.{_name(inner)}")
            return
        scanner = _Scanner(self._text)
        scanner.value(place[0])
        found[name] = self._struct(inner, scanner.members, f"{path}{name}.")

    def _mismatch(
        self,
        type: type[GoStruct],
        path: str,
        name: str,
        raw: str,
        go_type: str,
        what: str | None = None,
    ) -> None:
        if self._problem is None:
            what = what or _KINDS.get(raw[0], "number")
            field = f"{_name(type)}.{path}{name}"
            self._problem = JsonProblem(
                f"json: cannot unmarshal {what} into Go struct field {field} of type {go_type}"
            )


_ESCAPED: Final = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))")
_PLAIN_ESCAPES: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _valid_text(latin: str) -> str:
    """The text of UTF-8 bytes; each byte that is none becomes U+FFFD."""
    text = latin.encode("latin-1").decode("utf-8", "surrogateescape")
    return re.sub("[\udc80-\udcff]", "\ufffd", text)


def unquote(literal: str) -> str:
    """The text of a string literal, given as Latin-1."""
    text = _valid_text(literal[1:-1])
    if "\\" not in text:
        return text

    def plain(found: re.Match[str]) -> str:
        if found[1]:
            return chr(int(found[1], 16))
        return _PLAIN_ESCAPES.get(found[2], found[2])

    # Pairs of surrogates become one character, single ones U+FFFD.
    units = _ESCAPED.sub(plain, text)
    return units.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
