"""Checks of arguments, before anything is sent.

Servers accept some of the values that this module refuses, and then do nothing useful with them: a
job without a name runs forever, and a NaN arrives as null (protocol, "Jobs").
"""

from __future__ import annotations

import math
from typing import Final, cast

import msgspec

from trio_dispatch._wire.codecs import encode_data
from trio_dispatch._wire.values import refuse_equal_keys

MAX_INT64: Final = 2**63 - 1


def check_text(value: object, what: str) -> str:
    """Return *value* if it is a non-empty string.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, or cannot be encoded as UTF-8.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} is a string, not {type(value).__name__}")
    if not value:
        raise ValueError(f"{what} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as exc:
            raise ValueError(f"{what} is not valid text: {exc}") from None
    return value


def check_int(value: object, what: str) -> int:
    """Return *value* if it is an integer of 64 bits. Raises `TypeError` or `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{what} is an integer, not {type(value).__name__}")
    if not -MAX_INT64 - 1 <= value <= MAX_INT64:
        raise ValueError(f"{what} does not fit into 64 bits: {value}")
    return value


def check_count(value: object, what: str, *, least: int = 1) -> int:
    """Return *value* if it is an integer, and at least *least*.

    Raises `TypeError` or `ValueError`.
    """
    if check_int(value, what) < least:
        raise ValueError(f"{what} is at least {least}, not {value}")
    return cast("int", value)


def check_seconds(value: object, what: str, *, zero: bool = False) -> float:
    """Return *value* if it is a finite number of seconds above zero (or zero, if allowed)."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{what} is a number of seconds, not {type(value).__name__}")
    try:
        seconds = float(value)
    except OverflowError:
        seconds = math.inf
    if not math.isfinite(seconds) or seconds < 0 or (seconds == 0 and not zero):
        raise ValueError(f"{what} is not a positive number of seconds: {seconds}")
    return seconds


def encode_payload(value: object, what: str, name: str | None = None) -> msgspec.Raw:
    """Encode *value* as JSON text, which is sent unchanged.

    Args:
        value: anything.
        what: what it is, in errors.
        name: what it belongs to, if errors should name that as well.

    Raises:
        TypeError: it holds something that has no JSON form.
        ValueError: it holds a NaN or an infinity, two keys that are the same in JSON, text that is
            not Unicode, or itself.
    """
    try:
        if not isinstance(value, msgspec.Raw):
            text = encode_data(value)
            refuse_equal_keys(value, text)
            return text
    except (TypeError, ValueError) as exc:
        error = TypeError if isinstance(exc, TypeError) else ValueError
        raise error(f"{_about(what, name)} cannot be encoded as JSON: {exc}") from None
    try:
        msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise ValueError(f"{_about(what, name)} is msgspec.Raw, but not JSON: {exc}") from None
    return value


def _about(what: str, name: str | None) -> str:
    return what if name is None else f"{what} of {name!r}"
