"""The public API, as it was promised: a changed signature is noticed here, and accepted on purpose.

``python -m tests.test_api`` writes down what there is now.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import re
from pathlib import Path
from typing import Final

FILE: Final = Path(__file__).with_name("api.txt")
PACKAGES: Final = (
    "trio_dispatch",
    "trio_dispatch.server",
    "trio_dispatch.testing",
    "trio_dispatch.remote",
    "trio_dispatch.opentelemetry",
)


def parameters(function: object) -> str:
    """The names, kinds and defaults of parameters. Types are the type checkers' business."""
    try:
        found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    shown: list[str] = []
    for parameter in found:
        stars = {parameter.VAR_POSITIONAL.name: "*", parameter.VAR_KEYWORD.name: "**"}
        text = stars.get(parameter.kind.name, "") + parameter.name
        if parameter.kind is parameter.KEYWORD_ONLY:
            text += " (keyword)"
        elif parameter.kind is parameter.POSITIONAL_ONLY:
            text += " (positional)"
        if parameter.default is not parameter.empty:
            default = parameter.default
            plain = default is None or isinstance(default, (bool, int, float, str, tuple))
            text += f"={default!r}" if plain else "=…"
        shown.append(text)
    return f"({', '.join(shown)})"


def documented() -> tuple[dict[str, frozenset[str]], set[str]]:
    """The members that the reference names, of the classes of which it does not name all.

    And the classes that users do not make, of which it shows no parameters.
    """
    entry = re.compile(r"^\.\. auto\w+:: (\S+?)(\(\))?\n((?:   :.*\n)*)", re.MULTILINE)
    found: dict[str, frozenset[str]] = {}
    given: set[str] = set()
    for page in sorted((FILE.parents[1] / "docs").glob("*reference.md")):
        for name, brackets, options in entry.findall(page.read_text(encoding="utf-8")):
            if brackets:
                given.add(name)
            if listed := re.search(r":members: (.+)", options):
                found[name] = frozenset(listed[1].replace(" ", "").split(","))
    return found, given


def members(found: type, named: frozenset[str] | None) -> list[str]:
    """What of a class is ours and public."""
    shown: list[str] = []
    for owner in reversed(found.__mro__):
        if not owner.__module__.startswith("trio_dispatch"):
            continue
        for name, member in vars(owner).items():
            if name.startswith("_") or (named is not None and name not in named):
                continue
            function = inspect.unwrap(getattr(member, "__func__", member))
            if callable(function):
                shown.append(f"{name}{parameters(function)}")
            else:
                shown.append(name)
    return sorted(set(shown))


def describe() -> str:
    """All of it, one thing on each line."""
    lines: list[str] = []
    named, given = documented()
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in sorted(module.__all__):
            found = getattr(module, name)
            if hasattr(found, "__supertype__"):  # a type of its own that is a string
                lines.append(f"{package}.{name}: {found.__supertype__.__name__}")
            elif inspect.isclass(found):
                full = f"{package}.{name}"
                made = full not in given and not issubclass(found, enum.Enum)
                lines.append(full + (parameters(found) if made else ""))
                lines += [f"{full}.{member}" for member in members(found, named.get(full))]
            elif inspect.isroutine(found):
                lines.append(f"{package}.{name}{parameters(found)}")
            else:
                lines.append(f"{package}.{name}")
    return "\n".join(lines) + "\n"


def test_no_public_signature_changes_unnoticed() -> None:
    assert describe() == FILE.read_text(encoding="utf-8"), (
        "the public API has changed; python -m tests.test_api accepts it, and CHANGELOG.md names it"
    )


if __name__ == "__main__":
    FILE.write_text(describe(), encoding="utf-8")
