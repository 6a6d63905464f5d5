"""What commands print: lines for people, or JSON or YAML for programs."""

from __future__ import annotations

import base64
import json
import math
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Literal, TypeAlias, cast

import attrs
import yaml
from cyclopts import Parameter
from rich.cells import cell_len

from trio_dispatch.cli.text import cut, readable

Format: TypeAlias = Literal["table", "json", "yaml"]


@Parameter(name="*")
@dataclass(frozen=True)
class OutputOptions:
    """How to print."""

    output: Annotated[
        Format | None,
        Parameter(
            name=("--output", "-o"),
            help="`table`, lines for people (the default); `json`, one value on each line; "
            "`yaml`, one document for each value.",
            show_default=False,
            show_choices=False,
        ),
    ] = None
    json: Annotated[
        bool,
        Parameter(name="--json", negative=(), show_default=False, help="Short for --output json."),
    ] = False

    @property
    def format(self) -> Format:
        """The format asked for."""
        return self.output or ("json" if self.json else "table")

    @property
    def for_programs(self) -> bool:
        """Whether values are printed and not lines for people."""
        return self.format != "table"

    def show(self, value: object, lines: Callable[[], Iterable[str]]) -> None:
        """Print *value* for programs, or *lines* for people."""
        if self.for_programs:
            self.value(value)
        else:
            print_lines(lines())

    def value(self, value: object) -> None:
        """Print *value* for a program."""
        write(as_json(value) + "\n" if self.format == "json" else as_yaml(value))


def chosen(options: OutputOptions | None) -> OutputOptions:
    """The options, or what is the case without any."""
    return options or OutputOptions()


def plain(value: object) -> object:
    """Convert *value* to what JSON has.

    Models become mappings (stored bytes become what they mean), times ISO 8601, durations seconds,
    bytes ``{"base64": "…"}``, and numbers that JSON lacks their names.
    """
    kind: type = type(value)
    if attrs.has(kind):
        names = [name for name in attrs.fields_dict(kind) if not name.startswith("_")]
        return {
            name.removesuffix("_bytes"): plain(getattr(value, name.removesuffix("_bytes")))
            for name in names
        }
    if isinstance(value, Mapping):
        members = cast("Mapping[object, object]", value)
        return {str(key): plain(member) for key, member in members.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in cast("list[object]", value)]
    return _plain_scalar(value)


def _plain_scalar(value: object) -> object:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, (str, int, float)):
        return value
    return str(value)


def as_json(value: object) -> str:
    """Write *value* on one line of ASCII: it survives every encoding and every terminal."""
    # DEL is ASCII and a control character; it can only stand inside a string.
    return json.dumps(plain(value)).replace("\x7f", "\\u007f")


def as_yaml(value: object) -> str:
    """Write *value* as a YAML document, in ASCII."""
    text: str = yaml.safe_dump(plain(value), explicit_start=True, sort_keys=False)
    return text


def write(text: str) -> None:
    """Write *text* to standard output at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_line(text: str = "") -> None:
    """Print one line, safe for a terminal."""
    write(readable(text) + "\n")


def print_lines(lines: Iterable[str]) -> None:
    """Print lines."""
    write("".join(readable(line) + "\n" for line in lines))


def line_width() -> int | None:
    """The width of the terminal that standard output is; None when it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_cut(text: str) -> None:
    """Print one line, cut to the terminal's width."""
    width = line_width()
    print_line(text if width is None else cut(readable(text), width))


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """Align *rows* below their headings."""
    shown = [headings, *(tuple(map(readable, row)) for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in shown
    ]
