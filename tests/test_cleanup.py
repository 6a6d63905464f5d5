"""Clean-up never replaces what is raised: a Ctrl-C that ends a task is not lost on its way out.

An ``await`` in ``finally``, in an ``except`` that catches everything, or in ``__aexit__`` raises
`trio.Cancelled` where the scope around it is cancelled, and that takes the place of the exception
that is on its way. So what is awaited there is shielded, and ends at once.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trio_dispatch"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if "cli" not in path.parts)
"""Commands are programs of their own: what they clean up may take its time."""

HARMLESS = {"close_now", "abort", "cancel_shielded_checkpoint", "leave", "__aexit__"}
"""What lets no `trio.Cancelled` out in place of what is raised. `leave` is the rule for blocks."""

ASKS_FOR_IT = {"checkpoint_if_cancelled"}
"""What is there to be cancelled, in place of an error of ours."""

CATCH_ALL = {"BaseException", "Cancelled", "KeyboardInterrupt", "SystemExit", "BaseExceptionGroup"}


def is_shielded(node: ast.AST) -> bool:
    return isinstance(node, ast.With) and any(
        "shield=True" in ast.unparse(item.context_expr) for item in node.items
    )


def awaits(nodes: list[ast.stmt]) -> Iterator[ast.expr | ast.stmt]:
    """What is awaited in *nodes* without a shield."""
    pending: list[ast.AST] = list(nodes)
    while pending:
        node = pending.pop()
        if is_shielded(node) or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if isinstance(node, (ast.AsyncWith, ast.AsyncFor)):
            yield node
        if isinstance(node, ast.Await):
            called = node.value.func if isinstance(node.value, ast.Call) else node.value
            if ast.unparse(called).rpartition(".")[2] not in HARMLESS | ASKS_FOR_IT:
                yield node
        pending += ast.iter_child_nodes(node)


def catches_all(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    names = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(ast.unparse(name).rpartition(".")[2] in CATCH_ALL for name in names)


def clean_up(tree: ast.AST) -> Iterator[list[ast.stmt]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Try):
            yield node.finalbody
            yield from (handler.body for handler in node.handlers if catches_all(handler))
        if isinstance(node, ast.AsyncFunctionDef) and node.name == "__aexit__":
            yield node.body


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_awaited_in_clean_up_without_a_shield(module: Path) -> None:
    found = [
        f"{module.name}:{node.lineno}: {ast.unparse(node).splitlines()[0]}"
        for body in clean_up(ast.parse(module.read_text()))
        for node in awaits(body)
    ]
    assert found == []
