"""Ids of jobs, runs and events: a prefix, ``_`` and a UUIDv7 in 26 characters.

The characters are Crockford's base 32 in lower case, so ids sort by the time they were made.
"""

from __future__ import annotations

import random
from typing import Final

JOB_PREFIX: Final = "job"
RUN_PREFIX: Final = "wfrun"
EVENT_PREFIX: Final = "evt"

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_SUFFIX_LENGTH: Final = 26
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
    if separator and not found:
        raise InvalidId(f'id: parse "{text}": typeid: prefix cannot be empty when it is separated')
    if len(suffix) != _SUFFIX_LENGTH:
        raise InvalidId(f'id: parse "{text}": typeid: suffix length must be 26, got {len(suffix)}')
    if suffix[0] > "7" or any(character not in _ALPHABET for character in suffix):
        raise InvalidId(f'id: parse "{text}": typeid: invalid suffix')
    if found != prefix:
        raise InvalidId(f'id: expected prefix "{prefix}", got "{found}"')
    return text
