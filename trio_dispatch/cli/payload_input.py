"""JSON that users give: as an argument, from a file, or from standard input."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, NoReturn, TypeAlias

from cyclopts import Parameter

from trio_dispatch.cli.exits import UsageError

PayloadArgument: TypeAlias = Annotated[
    str | None,
    Parameter(
        help="The payload as JSON; @FILE reads a file, - standard input.",
        allow_leading_hyphen=True,
    ),
]


def read_text(given: str, name: str) -> str:
    """The text itself; that of a file for ``@path``; that of standard input for ``-``.

    Raises:
        UsageError: the file cannot be read, or is no UTF-8.
    """
    try:
        if given == "-":
            return sys.stdin.read()
        if given.startswith("@"):
            return Path(given[1:]).read_text(encoding="utf-8")
    except OSError as exc:
        raise UsageError(f"{name}: cannot read {given[1:]}: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UsageError(f"{name}: {given} is no UTF-8: {exc.reason}") from exc
    return given


def read_json(given: str, name: str) -> object:
    """The value that *given* means; see `read_text`.

    Raises:
        UsageError: it cannot be read, or is no JSON; the message says where.
    """
    return parse_json(read_text(given, name), name)


def parse_json(text: str, name: str) -> object:
    """Read *text* as JSON, by the letter: ``NaN`` and ``Infinity`` are none.

    Raises:
        UsageError: it is no JSON.
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
