"""Text as Go reads and writes it: quoted strings and times.

A Dispatch server is written in Go, and what it answers to a strange frame is what Go's libraries
make of it. The messages are in their words.
"""

from __future__ import annotations

import re
from typing import Final

_ESCAPES: Final = {
    "\a": "\\a",
    "\b": "\\b",
    "\f": "\\f",
    "\n": "\\n",
    "\r": "\\r",
    "\t": "\\t",
    "\v": "\\v",
    "\\": "\\\\",
    '"': '\\"',
}


def quote(text: str) -> str:
    """Quote *text* as the verb ``%q`` does."""
    if text.isascii() and text.isprintable() and '"' not in text and "\\" not in text:
        return f'"{text}"'
    return f'"{"".join(map(_quoted, text))}"'


def quote_rune(character: str) -> str:
    """Quote one character as the verb ``%q`` does: in single quotes."""
    if character == "'":
        return "'\\''"
    return "'\"'" if character == '"' else f"'{_quoted(character)}'"


def _quoted(character: str) -> str:
    escape = _ESCAPES.get(character)
    if escape is not None:
        return escape
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


# Times

_LAYOUT: Final = "2006-01-02T15:04:05Z07:00"
_USUAL: Final = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)(?:\.(\d{1,9}))?Z", re.ASCII
)
_DAYS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FRACTION_DIGITS: Final = 9


class TimeProblem(ValueError):
    """Text that is no time, with Go's message."""


def read_time(text: str) -> str:
    """Read a time of RFC 3339 as Go does; returns it as Go would write it.

    Args:
        text: its bytes as Latin-1 text.

    Raises:
        TimeProblem: it is none.
    """
    usual = _USUAL.fullmatch(text)
    if usual is not None:
        year, month, day = int(usual[1]), int(usual[2]), int(usual[3])
        if 1 <= month <= 12 and 1 <= day <= _days_in(year, month):
            return text if usual[7] is None or not text.endswith("0Z") else _trimmed(text)
    return _TimeReader(text).read()


def is_writable(time: str) -> bool:
    """Whether Go can write *time*, which `read_time` returned, as JSON.

    It reads offsets of a day, and cannot write them.
    """
    return time.endswith("Z") or int(time[-5:-3]) < 24


def _trimmed(text: str) -> str:
    return text[:-1].rstrip("0").rstrip(".") + "Z"


def _days_in(year: int, month: int) -> int:
    leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 29 if month == 2 and leap else _DAYS[month - 1]


class _TimeReader:
    """Go's ``time.Parse`` with the layout of RFC 3339, element by element."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._rest = text

    def read(self) -> str:
        year = self._digits(4, "2006")
        self._skip("-")
        month = self._digits(2, "01")
        if not 1 <= month <= 12:
            raise self._out_of_range("month")
        self._skip("-")
        day = self._digits(2, "02")
        self._skip("T")
        hour = self._hour()
        self._skip(":")
        minute = self._digits(2, "04")
        if minute >= 60:
            raise self._out_of_range("minute")
        self._skip(":")
        second = self._digits(2, "05")
        if second >= 60:
            raise self._out_of_range("second")
        fraction = self._fraction()
        zone = self._zone()
        if self._rest:
            raise self._problem(f": extra text: {_quote_bytes(self._rest)}")
        if not 1 <= day <= _days_in(year, month):
            raise self._problem(": day out of range")
        date = f"{year:04}-{month:02}-{day:02}"
        return f"{date}T{hour:02}:{minute:02}:{second:02}{fraction}{zone}"

    def _problem(self, message: str) -> TimeProblem:
        return TimeProblem(f"parsing time {_quote_bytes(self._text)}{message}")

    def _mismatch(self, rest: str, element: str) -> TimeProblem:
        wanted = f"{_quote_bytes(rest)} as {_quote_bytes(element)}"
        return self._problem(f" as {_quote_bytes(_LAYOUT)}: cannot parse {wanted}")

    def _out_of_range(self, what: str) -> TimeProblem:
        return self._problem(f": {what} out of range")

    def _skip(self, mark: str) -> None:
        if not self._rest.startswith(mark):
            raise self._mismatch(self._rest, mark)
        self._rest = self._rest[1:]

    def _digits(self, count: int, element: str) -> int:
        digits = self._rest[:count]
        if len(digits) < count or not _is_number(digits):
            raise self._mismatch(self._rest, element)
        self._rest = self._rest[count:]
        return int(digits)

    def _hour(self) -> int:
        """Here one digit will do."""
        count = 2 if _is_number(self._rest[1:2]) else 1
        hour = self._digits(count, "15")
        if hour >= 24:
            raise self._out_of_range("hour")
        return hour

    def _fraction(self) -> str:
        found = re.match(r"[.,](\d+)", self._rest, re.ASCII)
        if found is None:
            return ""
        self._rest = self._rest[found.end() :]
        digits = found[1][:_FRACTION_DIGITS].rstrip("0")
        return f".{digits}" if digits else ""

    def _zone(self) -> str:
        if self._rest.startswith("Z"):
            self._rest = self._rest[1:]
            return "Z"
        text = self._rest[:6]
        if len(text) < 6 or text[3] != ":" or not _is_number(text[1:3] + text[4:]):
            raise self._mismatch(self._rest, "Z07:00")
        hours, minutes = int(text[1:3]), int(text[4:])
        self._rest = self._rest[6:]
        if hours > 24:
            raise self._out_of_range("time zone offset hour")
        if minutes > 60:
            raise self._out_of_range("time zone offset minute")
        if text[0] not in "+-":
            raise self._mismatch(text + self._rest, "Z07:00")
        offset = hours * 60 + minutes
        if not offset:
            return "Z"
        return f"{text[0]}{offset // 60:02}:{offset % 60:02}"


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit()


def _quote_bytes(text: str) -> str:
    """Quote as Go's package ``time`` does: whatever is not printable ASCII is a byte."""
    shown: list[str] = []
    for character in text:
        if not " " <= character < "\x80":
            shown.append(f"\\x{ord(character):02x}")
        else:
            shown.append(f"\\{character}" if character in '"\\' else character)
    return f'"{"".join(shown)}"'
