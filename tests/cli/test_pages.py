"""The pages of the commands: made from their help, and nothing of it left out."""

from __future__ import annotations

import importlib.util
import types
from pathlib import Path

import pytest

from trio_dispatch.cli import main
from trio_dispatch.cli.exits import Exit

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def script() -> types.ModuleType:
    spec = importlib.util.spec_from_file_location("commands", DOCS / "commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_help_says(script: types.ModuleType) -> None:
    written = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert written == script.page(), "run: python docs/commands.py"


def test_every_command_has_its_help_and_every_argument_its_text(
    script: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [path for _, path in script.commands(script.app, ())]
    assert len(found) > 20
    for command, path in script.commands(script.app, ()):
        assert main([*path, "--help"]) == Exit.OK
        out = capsys.readouterr().out
        shown = "".join(out.split())
        for argument in command.assemble_argument_collection():
            if argument.show:
                assert argument.parameter.help, (path, argument.names)
                assert argument.names[0].lstrip("*") in shown, (path, argument.names)
        assert max(map(len, out.splitlines())) <= 80
