"""The Python in the documentation, and how it is run.

Every fenced block marked ``python`` runs. One that calls ``trio.run`` is a whole program and runs
in an interpreter of its own. The others are fragments: those of one page run one after another, as
one async function would, with `client` (connected), `trio` and `trio_dispatch` at hand. The
URL ``ws://localhost:8080/dwp`` stands for a server that knows the jobs and workflows of the
recordings, and accepts ``demo-token``.

A block marked ``output`` says what the Python before it printed; ``…`` in it stands for anything.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import attrs

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if "_build" not in path.parts
)
EXAMPLE_URL = "ws://localhost:8080/dwp"

_FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@attrs.frozen(kw_only=True)
class Snippet:
    """One block of Python."""

    page: str
    line: int
    """Where its first line is on the page."""
    source: str
    output: str | None
    """What it prints; None where the page does not say."""

    @property
    def is_program(self) -> bool:
        return "trio.run(" in self.source

    def check_output(self, printed: str) -> None:
        """Compare what was printed with what the page says."""
        if self.output is not None:
            pattern = ".*?".join(map(re.escape, self.output.strip().split("…")))
            assert re.fullmatch(pattern, printed.strip(), re.DOTALL), (
                f"{self.page}:{self.line} printed:\n{printed}"
            )

    def compile_fragment(self) -> object:
        """Compile, with ``await`` at the top, so that a traceback names the page and its line."""
        padded = "\n" * (self.line - 1) + self.source
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(padded, str(ROOT / self.page), "exec", flags=flags, dont_inherit=True)


def snippets(page: str) -> Iterator[Snippet]:
    """The blocks of Python on one page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(_FENCE.finditer(text))
    for index, block in enumerate(blocks):
        following = blocks[index + 1] if index + 1 < len(blocks) else None
        if block["language"] == "python":
            has_output = following is not None and following["language"] == "output"
            yield Snippet(
                page=page,
                line=text.count("\n", 0, block.start("text")) + 1,
                source=block["text"],
                output=following["text"] if has_output and following is not None else None,
            )
