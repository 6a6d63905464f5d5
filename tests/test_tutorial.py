"""The tutorial works when it is typed as it is printed: its files, its commands, their output."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.snippets import ROOT

PAGE = ROOT / "docs" / "tutorial.md"
PORT = "8080"
"""The port that the page names; the test takes a free one."""


class Block(NamedTuple):
    """One block of the page."""

    language: str
    caption: str
    text: str


def blocks() -> list[Block]:
    fence = re.compile(
        r"^```\{code-block\} (\w+)\n(?::class: setup\n)?(?::caption: ([^\n]*)\n)?(.*?)^```$",
        re.MULTILINE | re.DOTALL,
    )
    return [Block(*map(str, found)) for found in fence.findall(PAGE.read_text(encoding="utf-8"))]


def pattern(text: str) -> str:
    return ".*?".join(map(re.escape, text.strip().split("…")))


class Terminal:
    """A shell in the tutorial's folder."""

    def __init__(self, folder: Path, port: str) -> None:
        self.folder = folder
        self.port = port
        self.env = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(folder)]),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        for name in ("DISPATCH_URL", "DISPATCH_TOKEN", "PYTEST_XDIST_WORKER", "COV_CORE_SOURCE"):
            self.env.pop(name, None)
        self.running: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            command.replace(PORT, self.port), shell=True, cwd=self.folder, env=self.env, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self.running.append(process)
        return process

    def run(self, command: str) -> str:
        process = self.start(command)
        printed, _ = process.communicate(timeout=60)
        assert process.returncode == 0, printed
        return printed

    def stop(self) -> None:
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, 9)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    terminal = Terminal(tmp_path, port)
    yield terminal
    terminal.stop()


def read_lines(stream: IO[str] | None, count: int) -> str:
    assert stream is not None
    return "".join(stream.readline() for _ in range(count))


def wait_until_it_serves(stream: IO[str] | None) -> None:
    assert stream is not None
    while "ws://" not in (line := stream.readline()):
        assert line, "the server has ended"


def test_the_tutorial_works_as_it_is_printed(terminal: Terminal) -> None:
    going_on: subprocess.Popen[str] | None = None
    for block in blocks():
        if block.language == "python":
            text = block.text.replace(PORT, terminal.port)
            (terminal.folder / block.caption).write_text(text, encoding="utf-8")
            continue
        command, _, output = block.text.partition("\n")
        if block.caption == "first terminal":
            wait_until_it_serves(terminal.start(command.removeprefix("$ ")).stdout)
        elif block.caption == "second terminal":
            printed = terminal.run(command.removeprefix("$ "))
            assert re.fullmatch(pattern(output), printed.strip(), re.DOTALL), printed
        elif block.caption == "third terminal":
            going_on = terminal.start(command.removeprefix("$ "))
            printed = read_lines(going_on.stdout, len(output.strip().splitlines()))
            assert re.fullmatch(pattern(output), printed.strip().replace(" \n", "\n"), re.DOTALL), (
                printed
            )
        elif block.caption == "third terminal, continued":
            assert going_on is not None
            printed, _ = going_on.communicate(timeout=60)
            assert printed.replace(" \n", "\n").strip() == block.text.strip()
        else:
            assert "pip install" in block.text  # the only thing that a test does not type
    assert going_on is not None
    assert going_on.returncode == 0
