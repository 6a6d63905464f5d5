"""What commands print: lines for people, or JSON for programs."""

from __future__ import annotations

import base64
import json
import shutil
import sys
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Annotated, TypeAlias, cast

import attrs
from cyclopts import Parameter
from rich.cells import cell_len, set_cell_size

from trio_dispatch.cli.exits import readable

JsonOption: TypeAlias = Annotated[
    bool,
    Parameter(
        name="--json",
        negative=(),
        show_default=False,
        help="Print JSON, one value on each line, and nothing else.",
    ),
]


def plain(value: object) -> object:
    """What JSON has for it.

    Models become mappings (of stored bytes, what they mean), times ISO 8601, durations seconds,
    bytes text where they are, and base64 where not.
    """
    kind: type = type(value)
    if attrs.has(kind):
        names = [name for name in attrs.fields_dict(kind) if not name.startswith("_")]
        return {
            name.removesuffix("_bytes"): plain(getattr(value, name.removesuffix("_bytes")))
            for name in names
        }
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray)):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        return {str(key): plain(member) for key, member in members.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in cast("list[object]", value)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def print_json(value: object) -> None:
    """Print *value* on one line."""
    sys.stdout.write(json.dumps(plain(value), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def print_line(text: str = "", *, cut: bool = False) -> None:
    """Print one line, safe for a terminal; where that is one, *cut* to its width."""
    text = readable(text)
    if cut and sys.stdout.isatty():
        width = shutil.get_terminal_size().columns
        text = text if cell_len(text) <= width else set_cell_size(text, width - 1) + "…"
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    for line in lines:
        print_line(line)
