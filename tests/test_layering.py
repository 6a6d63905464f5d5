"""Which room may use which: what is pure stays pure, and the two sides of the wire stay apart."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_dispatch

PACKAGE = Path(trio_dispatch.__file__).parent
PURE_ROOMS = ["_frames", "_codecs", "_models", "_errors", "_channels", "_session"]
DATA_LIBRARIES = {"attrs", "exceptiongroup", "msgpack", "msgspec"}
INPUT_AND_OUTPUT = {
    "asyncio",
    "http",
    "multiprocessing",
    "os",
    "select",
    "selectors",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "urllib",
}
SERVER_MAY_USE = {
    "trio_dispatch._frames",
    "trio_dispatch._codecs",
    "trio_dispatch._open",
    "trio_dispatch._pipe",
}
"""What both sides of the wire share, and the way into a client of the server's own."""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it but under ``if TYPE_CHECKING``."""
    pending: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            pending += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            # `from package import module` imports the module; harmless where it is a name.
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else node.module
        pending += ast.iter_child_nodes(node)


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or path.joinpath("__init__.py").exists()


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_a_pure_room_uses_neither_trio_nor_sockets(room: str) -> None:
    allowed = {f"trio_dispatch.{name}" for name in PURE_ROOMS}
    for name in imports(PACKAGE / f"{room}.py"):
        top = name.partition(".")[0]
        if top == "trio_dispatch":
            assert name in allowed
        elif top not in DATA_LIBRARIES:
            assert top in sys.stdlib_module_names
            assert top not in INPUT_AND_OUTPUT


def test_the_server_shares_frames_and_codecs_with_the_client_and_nothing_else() -> None:
    files = sorted(PACKAGE.joinpath("server").rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            if name.partition(".")[0] == "trio_dispatch":
                own = name.startswith("trio_dispatch.server")
                assert own or name in SERVER_MAY_USE, f"{path.name} imports {name}"


def test_the_architecture_page_has_a_place_for_every_room() -> None:
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    for room in rooms - {"__init__", "__pycache__"}:
        assert f"`{room}`" in page, room


def test_the_client_needs_no_server() -> None:
    for path in sorted(PACKAGE.glob("*.py")):
        assert not any(name.startswith("trio_dispatch.server") for name in imports(path)), path.name
