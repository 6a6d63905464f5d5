"""Assertions about what a server holds, whose messages show what differs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, Final, cast

import msgspec

from trio_dispatch.server._go_json import decode


class Anything:
    """Matches every payload."""

    def __repr__(self) -> str:
        return "anything"


ANYTHING: Final = Anything()


def decoded(text: bytes | None) -> object:
    """The value of a payload or an input; None where there is none."""
    return None if text is None else decode(text)


def plain(value: object) -> object:
    """*value* as it comes back from the wire: a dataclass as a mapping, a tuple as a list."""
    return cast("object", msgspec.json.decode(msgspec.json.encode(value)))


def check_found(
    what: str, wanted: object, count: int | None, found: Iterable[tuple[str, bytes | None]]
) -> list[str]:
    """The ids of those in *found* whose value is *wanted*.

    Raises:
        AssertionError: there are not *count* of them; not one, where *count* is None.
    """
    values = [(id, decoded(text)) for id, text in found]
    expected = wanted if isinstance(wanted, Anything) else plain(wanted)
    matching = [id for id, value in values if isinstance(expected, Anything) or value == expected]
    if (count is None and matching) or len(matching) == count:
        return matching
    number = "at least one" if count is None else str(count)
    lines = [f"{what} with {expected!r}: expected {number}, found {len(matching)} of {len(values)}"]
    others = [(id, value) for id, value in values if id not in matching]
    for id, value in others[:5]:
        lines.append(f"  {id}: {value!r}")
        lines += _difference(expected, value)
    if len(others) > 5:
        lines.append(f"  and {len(others) - 5} more")
    raise AssertionError("\n".join(lines))


def _difference(expected: object, value: object) -> list[str]:
    if isinstance(expected, Anything):
        return []
    texts: list[list[str]] = [_lines(side) for side in (expected, value)]
    diff = difflib.unified_diff(texts[0], texts[1], "expected", "found", lineterm="", n=1)
    return [f"    {line}" for line in diff if not line.startswith("@@")]


def _lines(value: Any) -> list[str]:
    return msgspec.json.format(msgspec.json.encode(value, order="sorted")).decode().splitlines()
