"""Ids of jobs, runs and events: a prefix, ``_`` and a UUIDv7 in 26 characters.

The characters are Crockford's base 32 in lower case, so ids sort by the time they were made.
"""

from __future__ import annotations

import random
from typing import Final

from trio_dispatch.server._go_text import quote, quote_rune

JOB_PREFIX: Final = "job"
RUN_PREFIX: Final = "wfrun"
EVENT_PREFIX: Final = "evt"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_SUFFIX_LENGTH: Final = 26
_LONGEST_PREFIX: Final = 63
_NS_PER_MS: Final = 1_000_000


class InvalidId(ValueError):
    """Text that is no id of the wanted kind, in the words of a Dispatch server."""


def make_id(prefix: str, now_ns: int, rng: random.Random) -> str:
    """Make the id of something created at *now_ns*."""
    number = (now_ns // _NS_PER_MS) & ((1 << 48) - 1)
    number = number << 4 | 7  # the version
    number = number << 12 | rng.getrandbits(12)
    number = number << 2 | 2  # the variant
    number = number << 62 | rng.getrandbits(62)
    digits: list[str] = []
    for _ in range(_SUFFIX_LENGTH):
        number, digit = divmod(number, 32)
        digits.append(_ALPHABET[digit])
    return f"{prefix}_{''.join(reversed(digits))}"


def check_id(text: str, prefix: str) -> str:
    """Return *text* when it is an id with *prefix*.

    Raises:
        InvalidId: it is not; the message is what a Dispatch server says (recording ``job_errors``).
    """
    if not text:
        raise InvalidId('id: parse "": empty string')
    found, separator, suffix = text.rpartition("_")
    problem = _prefix_problem(found, bool(separator)) or _suffix_problem(suffix)
    if problem:
        raise InvalidId(f"id: parse {quote(text)}: typeid: {problem}")
    if found != prefix:
        raise InvalidId(f"id: expected prefix {quote(prefix)}, got {quote(found)}")
    return text


def _prefix_problem(prefix: str, separated: bool) -> str:
    if separated and not prefix:
        return 'prefix cannot be empty when separator "_" is present'
    length = len(prefix.encode())
    if length > _LONGEST_PREFIX:
        return f"prefix length must be <= {_LONGEST_PREFIX}, got {length} for {quote(prefix)}"
    if prefix.startswith("_"):
        return f"prefix cannot start with underscore, got {quote(prefix)}"
    if prefix.endswith("_"):
        return f"prefix cannot end with underscore, got {quote(prefix)}"
    wrong = next((c for c in prefix if not "a" <= c <= "z" and c != "_"), None)
    if wrong is not None:
        return f"prefix must contain only [a-z_], found {quote_rune(wrong)} in {quote(prefix)}"
    return ""


def _suffix_problem(suffix: str) -> str:
    if not suffix:
        return "suffix cannot be empty"
    content = suffix.encode()
    if len(content) != _SUFFIX_LENGTH:
        return f"suffix length must be {_SUFFIX_LENGTH}, got {len(content)}"
    if suffix[0] > "7":
        return f"suffix must start with 0-7, got {quote_rune(chr(content[0]))}"
    for at, byte in enumerate(content):
        if chr(byte) not in _ALPHABET:
            return f"invalid suffix encoding: illegal base32 data at offset {at}"
    return ""
