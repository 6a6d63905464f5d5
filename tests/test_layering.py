"""Which layer may use which: imports run downwards only, and what is pure stays pure.

All imports count: those for types (under ``if TYPE_CHECKING``) and those inside functions too.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import trio_dispatch

PACKAGE = Path(trio_dispatch.__file__).parent
LAYERS = ["_wire", "_transport", "_link", "_client"]
"""The client's layers, lowest first; whatever stands beside them in the package is above."""
PURE = [
    "_wire",
    "_link.http.overlap",
    "_transport.websocket.header",
    "_transport.websocket.splitter",
]
DATA_LIBRARIES = {"attrs", "exceptiongroup", "msgpack", "msgspec", "typing_extensions"}
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
SERVER_MAY_USE = {"_wire", "_transport"}
"""What both sides of the wire share."""
WAYS_TO_A_CLIENT = {
    "server._app": {"_client.client"},
    "server._cluster": {"_client.client"},
    "server._cluster_node": {"_client.client"},
    "server._opening": {"_client.client", "_client.opening"},
}
"""Servers open clients of their own."""


def modules() -> dict[str, Path]:
    """Every module by its name without ``trio_dispatch.``; the package itself is ``""``."""
    found: dict[str, Path] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(text: str) -> Iterator[str]:
    """What a module imports, anywhere in it, by full names."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module is not None
            for alias in node.names:
                # `from package import module` imports the module; harmless where it is a name.
                inner = f"{node.module}.{alias.name}"
                yield inner if own_name(inner) in MODULES else node.module


def own_name(module: str) -> str | None:
    """The name within the package; None for other packages."""
    top, _, rest = module.partition(".")
    return rest if top == "trio_dispatch" else None


def own_imports(name: str, text: str | None = None) -> set[str]:
    """The package's own modules that *name* imports."""
    text = MODULES[name].read_text(encoding="utf-8") if text is None else text
    found = {own_name(module) for module in imports_of(text)}
    return {module for module in found if module is not None and module != name}


def layer(name: str) -> str:
    """The folder or module directly in the package that *name* belongs to."""
    return name.partition(".")[0]


def rank(name: str) -> int:
    """How high a module's layer is."""
    return LAYERS.index(layer(name)) if layer(name) in LAYERS else len(LAYERS)


def upward_imports(graph: dict[str, set[str]]) -> list[str]:
    """The imports that lead to a higher layer."""
    return [
        f"{name} imports {used}"
        for name, names in graph.items()
        for used in sorted(names)
        if name and rank(used) > rank(name)
    ]


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import one another (Tarjan's strongly connected components)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for used in graph.get(name, ()):
            if used not in index:
                visit(used)
                low[name] = min(low[name], low[used])
            elif used in stack:
                low[name] = min(low[name], index[used])
        if low[name] == index[name]:
            group = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in index:
            visit(name)
    return found


def graph_with(extra: dict[str, str] | None = None) -> dict[str, set[str]]:
    """The import graph of the package, with *extra* lines added to modules."""
    return {
        name: own_imports(name, path.read_text(encoding="utf-8") + (extra or {}).get(name, ""))
        for name, path in MODULES.items()
    }


def test_no_module_imports_itself_through_others() -> None:
    assert circles(graph_with()) == []


def test_imports_run_downwards_only() -> None:
    assert upward_imports(graph_with()) == []


@pytest.mark.parametrize(
    "line",
    [
        "from trio_dispatch._link.link import Link",
        "if TYPE_CHECKING:\n    from trio_dispatch._link.link import Link",
        "def f():\n    from trio_dispatch._link import link",
        "import trio_dispatch._link.link",
    ],
)
def test_an_upward_import_and_a_circle_are_found_wherever_they_stand(line: str) -> None:
    graph = graph_with({"_wire.frames": "\n" + line})
    assert upward_imports(graph) == ["_wire.frames imports _link.link"]
    assert any("_wire.frames" in circle and "_link.link" in circle for circle in circles(graph))


@pytest.mark.parametrize("pure", PURE)
def test_pure_modules_use_neither_trio_nor_sockets(pure: str) -> None:
    names = [name for name in MODULES if name == pure or name.startswith(f"{pure}.")]
    assert names
    for name in names:
        for module in imports_of(MODULES[name].read_text(encoding="utf-8")):
            top = module.partition(".")[0]
            if top == "trio_dispatch":
                own = own_name(module) or ""
                assert any(own == p or own.startswith(f"{p}.") for p in PURE), f"{name}: {module}"
            elif top not in DATA_LIBRARIES:
                assert top in sys.stdlib_module_names, f"{name}: {module}"
                pure_parts = ("urllib.parse", "http")  # the latter is status codes
                assert top not in INPUT_AND_OUTPUT or module in pure_parts, f"{name}: {module}"


def test_the_server_shares_the_two_lowest_layers_with_the_client_and_nothing_else() -> None:
    for name, names in graph_with().items():
        if layer(name) == "server":
            for used in names - WAYS_TO_A_CLIENT.get(name, set()):
                assert layer(used) in {"server", *SERVER_MAY_USE}, f"{name} imports {used}"


def test_nothing_of_the_client_needs_a_server() -> None:
    for name, names in graph_with().items():
        if layer(name) in LAYERS:
            assert not any(layer(used) == "server" for used in names), name


def test_every_module_can_be_read_in_one_sitting() -> None:
    lines = {name: path.read_text(encoding="utf-8").count("\n") for name, path in MODULES.items()}
    assert [name for name, count in lines.items() if count > 500] == []
    assert lines["_client.client"] < 400  # it only composes
