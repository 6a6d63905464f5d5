"""JSON that users give: as an argument, from a file, or from standard input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias

from cyclopts import Parameter

from trio_dispatch.cli.exits import UsageError
from trio_dispatch.cli.streams import decode, read_stdin

PayloadArgument: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="The payload as JSON; @FILE reads a file, - standard input.",
        allow_leading_hyphen=True,
    ),
]


def read_text(given: str, name: str) -> str:
    """Return the text itself; for ``@path`` that of a file; for ``-`` that of standard input.

    Files and standard input are UTF-8, whatever the locale; a byte order mark is skipped.

    Raises:
        UsageError: it cannot be read, or is not UTF-8.
    """
    if given == "-":
        return decode(read_stdin(name), f"{name}: standard input")
    if not given.startswith("@"):
        return given
    try:
        text = Path(given[1:]).read_bytes()
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{name}: cannot read {given[1:]}: {reason}") from exc
    return decode(text, f"{name}: {given[1:]}")


def read_json(given: str, name: str) -> object:
    """Return the value that *given* means; see `read_text`.

    Raises:
        UsageError: it cannot be read, or is not JSON; the message says where.
    """
    return parse_json(read_text(given, name), name)


def parse_json(text: str, name: str) -> object:
    """Read *text* as JSON, to the letter: ``NaN`` and ``Infinity`` are refused.

    Raises:
        UsageError: it is not JSON.
    """

    def refuse(constant: str) -> NoReturn:
        raise UsageError(f"{name} is not JSON: {constant} is no value")

    try:
        value: object = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as exc:
        hint = ""
        if text.strip() and text.strip()[0] not in '{["':
            hint = """; a string needs its quotes: '"text"'"""
        raise UsageError(f"{name} is not JSON: {exc}{hint}") from exc
    return value
