"""Makes the pages of the commands from their help: `nox -s pictures`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cyclopts import App

from trio_dispatch.cli import exits
from trio_dispatch.cli.app import app
from trio_dispatch.cli.connect import ServerOptions
from trio_dispatch.cli.output import OutputOptions

PAGE: Final = Path(__file__).with_name("commands.md")
WIDTH: Final = 78
SHARED: Final = {ServerOptions: "CONNECTION", OutputOptions: "OUTPUT"}
"""Options that several commands have: they stand once, below."""

INTRODUCTION: Final = """\
# Commands

<!-- Made by docs/commands.py from the commands' own help. -->

Every command with every argument, as `--help` shows them. The
[guide](guides/command-line.md) explains how they work together.
"""

ENVIRONMENT: Final = {
    "DISPATCH_URL": "The server, or several, separated by spaces or commas.",
    "DISPATCH_TOKEN": "The token.",
    "DISPATCH_PROFILE": "The profile, where neither --profile nor --url is given.",
    "TRIO_DISPATCH_CONFIG": "The configuration file.",
    "TRIO_DISPATCH_TRACEBACK": "If set, a bug is printed with its traceback.",
}


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    shared: dict[str, list[Any]] = {}
    for command, path in commands(app, ()):
        name = " ".join(path)
        parts += [f"## {name}", block(manual(command, name, shared))]
    parts += ["## What they share", block(common(shared))]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def commands(group: App, path: tuple[str, ...]) -> Iterator[tuple[App, tuple[str, ...]]]:
    """All commands, those of groups after one another."""
    for name in group:
        if not name.startswith("-"):
            command = group[name]
            inner = [n for n in command if not n.startswith("-")]
            if inner:
                yield from commands(command, (*path, name))
            else:
                yield command, (*path, name)


def manual(command: App, name: str, shared: dict[str, list[Any]]) -> list[str]:
    """The lines of a command's page."""
    paragraphs = [clean(text) for text in re.split(r"\n\s*\n", command.help or "")]
    positional: list[Any] = []
    options: list[Any] = []
    groups: list[str] = []
    for argument in command.assemble_argument_collection():
        owner = next((kind for kind in SHARED if kind.__name__ in str(argument.hint)), None)
        if owner is not None:
            groups.append(SHARED[owner])
            shared.setdefault(SHARED[owner], list(argument.children))
        elif any(argument in children for children in shared.values()) or not argument.show:
            continue
        elif argument.field_info.kind in (
            argument.field_info.POSITIONAL_ONLY,
            argument.field_info.VAR_POSITIONAL,
        ):
            positional.append(argument)
        elif not any(argument.names == other.names for found in shared.values() for other in found):
            options.append(argument)
    words = [f"trio-dispatch {name}", *map(usage, positional)]
    if options or groups:
        words.append("[OPTIONS]")
    lines = ["NAME", *indented(f"trio-dispatch {name} - {paragraphs[0].rstrip('.')}"), ""]
    lines += ["SYNOPSIS", f"    {' '.join(words)}"]
    if paragraphs[1:]:
        lines += ["", "DESCRIPTION"]
        for text in paragraphs[1:]:
            lines += [*indented(text), ""]
        lines.pop()
    if positional:
        lines += ["", "ARGUMENTS", *described(positional)]
    if options or groups:
        lines += ["", "OPTIONS", *described(options)]
    if groups:
        lines += indented(f"And those under {' and '.join(groups)}, below.")
    return lines


def usage(argument: Any) -> str:
    """A positional argument in a synopsis."""
    name = argument.names[0].lstrip("-").upper()
    if argument.field_info.kind is argument.field_info.VAR_POSITIONAL:
        return f"[{name}...]"
    return str(name if argument.required else f"[{name}]")


def described(arguments: list[Any]) -> list[str]:
    """Arguments, each with what it is for."""
    lines: list[str] = []
    for argument in arguments:
        names = ", ".join(argument.names)
        if argument.field_info.kind is argument.field_info.KEYWORD_ONLY:
            names += value(str(argument.hint))
        text = clean(argument.parameter.help or "")
        default = argument.field_info.default
        if default not in (None, False, "") and isinstance(default, (int, float, str)):
            text += f" (default: {default})"
        if variable := argument.parameter.env_var:
            text += f" ({', '.join(variable)} in the environment)"
        lines += [f"    {names}", *indented(text, 8)]
    return lines


def value(hint: str) -> str:
    """What an option takes."""
    if "bool" in hint:
        return ""
    for kind, name in (
        ("Literal", "FORMAT"),
        ("int", "N"),
        ("float", "NUMBER"),
        ("Path", "FILE"),
    ):
        if kind in hint:
            return f" {name}"
    return " TEXT"


def common(shared: dict[str, list[Any]]) -> list[str]:
    """What several commands have in common."""
    lines: list[str] = []
    for heading in SHARED.values():
        lines += [heading, *described(shared[heading]), ""]
    lines += ["EXIT STATUS"]
    table = (exits.__doc__ or "").split("====\n")[-2] if exits.__doc__ else ""
    for row in re.findall(r"^(\d+)\s+(.*)$", table, re.MULTILINE):
        lines.append(f"    {row[0]:<4} {row[1].replace('``', '')}")
    lines += ["", "ENVIRONMENT"]
    for name, text in ENVIRONMENT.items():
        lines += [f"    {name}", *indented(text, 8)]
    return lines


def clean(text: str) -> str:
    """Text without the marks of Markdown, on one line; lists keep theirs."""
    parts = re.split(r"\n(?=\s*- )", text.strip().replace("`", ""))
    return "\n".join(" ".join(part.split()) for part in parts)


def indented(text: str, by: int = 4) -> list[str]:
    """Text of one page's width, its paragraphs as a list."""
    found: list[str] = []
    for part in text.split("\n"):
        found += textwrap.wrap(
            part,
            WIDTH,
            initial_indent=" " * by,
            subsequent_indent=" " * (by + 2 * part.startswith("- ")),
            break_on_hyphens=False,
            break_long_words=False,
        )
    return found


def block(lines: list[str]) -> str:
    """Lines as they are."""
    return "\n".join(["```text", *lines, "```"])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
