"""``serve``: what it serves, and how it starts again and ends."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from trio_dispatch.cli import main
from trio_dispatch.cli.exits import Exit

APP = """
from trio_dispatch.server import Identity, Server

server = Server(tokens={"token": Identity(subject="demo", scopes={"*"})})


def make():
    return server
"""


@pytest.mark.parametrize("target", ["app:server", "app:make"])
def test_serve_serves_until_ctrl_c(tmp_path: Path, target: str) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    with serve(tmp_path, target, "--port", "0") as process:
        line = read_line(process)
        found = re.fullmatch(
            r"Serving at (ws://127\.0\.0\.1:\d+/dwp), for development: nothing is kept. "
            r"Ctrl-C ends it\.\n",
            line,
        )
        assert found is not None
        assert main(["stats", "--url", found[1], "--token", "token"]) == Exit.OK
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert errors == "trio-dispatch: interrupted\n"
        assert process.returncode == Exit.INTERRUPTED


def test_a_syntax_error_does_not_end_reloading(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP, encoding="utf-8")
    with serve(tmp_path, "app:server", "--port", "0", "--reload", "--nodes", "2") as process:
        assert read_line(process).startswith("Server 1 of 2: ws://")
        assert read_line(process).startswith("Server 2 of 2: ws://")
        assert read_line(process).startswith("Serving at ")
        app.write_text("server = (", encoding="utf-8")
        assert read_line(process) == "app.py has changed; starting again.\n"
        assert read_line(process) == "Waiting until a file changes. Ctrl-C ends it.\n"
        app.write_text(APP.replace('"token"', '"another"'), encoding="utf-8")
        assert read_line(process) == "app.py has changed; starting again.\n"
        read_line(process)
        url = read_line(process).split()[4]
        assert main(["stats", "--url", url, "--token", "another"]) == Exit.OK
        read_line(process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
    complaint, end = errors.splitlines()
    assert complaint.startswith("trio-dispatch: app cannot be imported: SyntaxError: '(' was never")
    assert end == "trio-dispatch: terminated"


def test_serve_starts_again_when_a_file_changes(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP, encoding="utf-8")
    with serve(tmp_path, "app:server", "--port", "0", "--reload") as process:
        assert read_line(process).startswith("Serving at ")
        app.write_text(APP.replace('"token"', '"another"'), encoding="utf-8")
        assert read_line(process) == "app.py has changed; starting again.\n"
        url = read_line(process).split()[2].rstrip(",")
        assert main(["stats", "--url", url, "--token", "another"]) == Exit.OK
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app_taken.py").write_text(APP, encoding="utf-8")
    (tmp_path / "app_broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        assert main(["serve", "app_taken:server", "--port", port]) == Exit.USAGE
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["serve", "app_broken:server"]) == Exit.USAGE
    assert "cannot be imported: ZeroDivisionError" in capsys.readouterr().err


@contextmanager
def serve(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch.cli", "serve", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = b""
    while not line.endswith(b"\n"):
        # Byte by byte: what a buffer holds, select does not see.
        ready, _, _ = select.select([process.stdout], [], [], 20)
        assert ready, "nothing was printed"
        chunk = os.read(process.stdout.fileno(), 1)
        assert chunk, "it has ended"
        line += chunk
    return line.decode()


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_sigterm_ends_serve_as_process_1(tmp_path: Path) -> None:
    """As in a container: the kernel has no default for process 1, and would ignore it."""
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    program = [sys.executable, "-m", "trio_dispatch", "serve", "app:server", "--port", "0"]
    with subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", *program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            read_line(process)
        except AssertionError:
            process.kill()
            pytest.skip("there are no namespaces here")
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGTERM)
        assert process.wait(20) == Exit.TERMINATED
        assert process.stderr is not None
        assert process.stderr.read() == "trio-dispatch: terminated\n"
