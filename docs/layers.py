"""Draws the layers from the imports, and lists the modules, for the page "Architecture".

``python docs/layers.py`` writes ``pictures/layers.svg`` (`nox -s pictures` runs it). The lists are
made whenever the documentation is built.
"""

from __future__ import annotations

import ast
from html import escape
from pathlib import Path
from typing import Final

DOCS: Final = Path(__file__).parent
PACKAGE: Final = DOCS.parent / "trio_dispatch"
LAYERS: Final = ("_client", "_link", "_transport", "_wire")
"""The client's own layers, highest first."""

WIDTH: Final = 760
BAND: Final = 66
COLUMN: Final = 26


def modules() -> dict[str, Path]:
    """Every module, by its path in the package without ``.py``."""
    return {
        path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.stem != "__init__"
    }


def folder_of(module: str) -> str:
    """The folder, or the module, directly in the package."""
    return module.partition("/")[0]


def imported_folders(path: Path) -> set[str]:
    """The folders of this package that a module imports from, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "trio_dispatch":
                # What the package itself exports is the typed API.
                found.add(parts[1] if len(parts) > 1 else "_client")
    return found


def first_line(path: Path) -> str:
    """The first sentence of a module's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]


def tables() -> str:
    """A list of modules for each folder, with what each is about."""
    found = modules()
    folders = list(dict.fromkeys(folder_of(name) for name in found))
    rest = [folder for folder in folders if folder not in LAYERS]
    parts: list[str] = []
    for folder in (*LAYERS, *rest):
        own = [name for name in found if folder_of(name) == folder]
        if own == [folder]:
            parts.append(f"**`{folder}`**: {first_line(found[folder])}\n")
            continue
        parts.append(f"**`{folder}/`**: {first_line(found[folder])}\n\n| module | |\n| --- | --- |")
        rows = [f"| `{name}` | {first_line(found[name])} |" for name in own if name != folder]
        parts.append("\n".join(rows) + "\n")
    return "\n".join(parts)


def draw() -> str:
    """The layers as bands; a line for each folder leads to the bands that it imports from."""
    found = modules()
    uses: dict[str, set[str]] = {}
    for name, path in found.items():
        uses.setdefault(folder_of(name), set()).update(imported_folders(path) - {folder_of(name)})
    above = [folder for folder in uses if folder not in LAYERS]
    bands = [*above, *LAYERS]
    heights = {folder: BAND if folder in LAYERS else 34 for folder in bands}
    tops: dict[str, int] = {}
    y = 10
    for folder in bands:
        if folder == LAYERS[0]:
            y += 10
        tops[folder] = y
        y += heights[folder] + 6
    left = WIDTH - COLUMN * len(bands) - 10
    shapes: list[str] = []
    for folder in bands:
        top, height = tops[folder], heights[folder]
        kind = "layer" if folder in LAYERS else "user"
        shapes.append(f'<rect class="{kind}" x="10" y="{top}" width="{WIDTH - 20}" '
                      f'height="{height}" rx="5"/>')  # fmt: skip
        shapes.append(f'<text class="name" x="22" y="{top + 22}">{escape(folder)}</text>')
        if folder in LAYERS:
            text = first_line(found[folder]).partition(":")[0].rstrip(".")
            shapes.append(f'<text x="22" y="{top + 44}">{escape(text)}</text>')
    for number, folder in enumerate(bands):
        x = left + COLUMN * number
        middle = {name: tops[name] + heights[name] // 2 for name in bands}
        targets = sorted(middle[name] for name in uses[folder] if name in middle)
        shapes.append(f'<circle class="from" cx="{x}" cy="{middle[folder]}" r="5"/>')
        if targets:
            ends = (min(targets[0], middle[folder]), max(targets[-1], middle[folder]))
            shapes.append(f'<line x1="{x}" y1="{ends[0]}" x2="{x}" y2="{ends[1]}"/>')
        shapes += [f'<circle class="to" cx="{x}" cy="{target}" r="4"/>' for target in targets]
    body = "\n".join(shapes)
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 6}" role="img" \
aria-label="The layers: each band is a folder, each line leads from a folder to those it imports">
<style>
text {{ font: 13px sans-serif; fill: #333 }} .name {{ font: bold 15px monospace; fill: #111 }}
rect {{ stroke: #8886 }} .layer {{ fill: #dce8f5 }} .user {{ fill: #f3efe2 }}
line {{ stroke: #2b5c8a; stroke-width: 1.5 }} .from {{ fill: #2b5c8a }}
.to {{ fill: #fff; stroke: #2b5c8a; stroke-width: 1.5 }}
</style>
{body}
</svg>
"""


def write_lists() -> None:
    """Write the lists, for the page to include."""
    folder = DOCS / "_generated"
    folder.mkdir(exist_ok=True)
    folder.joinpath("modules.md").write_text(tables(), encoding="utf-8")


if __name__ == "__main__":
    DOCS.joinpath("pictures", "layers.svg").write_text(draw(), encoding="utf-8")
