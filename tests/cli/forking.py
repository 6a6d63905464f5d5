"""Commands in processes of their own, many of them: each is forked from one that has imported all.

`Nursery` starts that process. A command that it forks gets its variables, streams, terminal and
signals as asked for, and standard streams like those that Python makes at its start.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

ROOT: Final = Path(__file__).parents[2]
SECONDS: Final = 30.0
"""How long a command may take."""

CRASHED: Final = 99
"""The exit code of a command that raised."""


@attrs.frozen(kw_only=True)
class Surroundings:
    """What a command finds.

    Attributes:
        variables: its environment, besides what is always there.
        stdin: text, ``"closed"``, ``"terminal"``, or None for nothing.
        stdout: ``"pipe"``, ``"closed"``, ``"full"``, ``"left"`` (its reader has gone), or
            ``"terminal"``.
        stderr: the same.
        size: the terminal's columns and lines.
        encoding: of the locale; ``PYTHONIOENCODING`` counts as well.
        ignored: signals that the parent ignores.
        signal: sent when something is printed, and after half a second at the latest.
    """

    variables: dict[str, str] = attrs.field(factory=dict[str, str])
    stdin: str | None = None
    stdout: str = "pipe"
    stderr: str = "pipe"
    size: tuple[int, int] = (80, 24)
    encoding: str = "utf-8"
    ignored: tuple[int, ...] = ()
    signal: int | None = None


@attrs.frozen
class Ended:
    """What came of a command."""

    code: int
    out: str
    errors: str


class Nursery:
    """The process that commands are forked from."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.cli.forking"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def run(self, arguments: Sequence[str], surroundings: Surroundings) -> Ended:
        """Run a command to its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"arguments": list(arguments), **attrs.asdict(surroundings)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve_requests() -> None:
    """Fork a command for each line of standard input."""
    import trio_dispatch.cli.app
    import trio_dispatch.cli.demo.server
    import trio_dispatch.remote  # noqa: F401

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for line in sys.stdin:
        request = json.loads(line)
        arguments = request.pop("arguments")
        ended = _run(arguments, Surroundings(**request))
        sys.stdout.write(json.dumps(attrs.asdict(ended)) + "\n")
        sys.stdout.flush()


def _run(arguments: list[str], surroundings: Surroundings) -> Ended:
    terminal: tuple[int, int] | None = None
    if "terminal" in (surroundings.stdin, surroundings.stdout, surroundings.stderr):
        terminal = _open_terminal(surroundings.size)
    ours: dict[str, int] = {}
    theirs: dict[int, int | None] = {0: _open_stdin(surroundings.stdin, terminal)}
    for number, name in ((1, "stdout"), (2, "stderr")):
        theirs[number] = _open_output(getattr(surroundings, name), name, terminal, ours)
    pid = os.fork()
    if pid == 0:
        _be_the_command(arguments, surroundings, theirs, [*ours.values(), *(terminal or ())[:1]])
    for descriptor in {d for d in theirs.values() if d is not None}:
        os.close(descriptor)
    if terminal is not None:
        os.close(terminal[1])
        ours["stdout" if surroundings.stdout == "terminal" else "stderr"] = terminal[0]
    return _watch(pid, ours, surroundings.signal)


def _open_terminal(size: tuple[int, int]) -> tuple[int, int]:
    import fcntl
    import pty
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    return ours, theirs


def _open_stdin(kind: str | None, terminal: tuple[int, int] | None) -> int | None:
    if kind == "closed":
        return None
    if kind == "terminal":
        assert terminal is not None
        return os.dup(terminal[1])
    if kind is None:
        return os.open(os.devnull, os.O_RDONLY)
    reading, writing = os.pipe()
    os.write(writing, kind.encode("utf-8", "surrogateescape"))
    os.close(writing)
    return reading


def _open_output(
    kind: str, name: str, terminal: tuple[int, int] | None, ours: dict[str, int]
) -> int | None:
    if kind == "closed":
        return None
    if kind == "full":
        return os.open("/dev/full", os.O_WRONLY)
    if kind == "terminal":
        assert terminal is not None
        return os.dup(terminal[1])
    reading, writing = os.pipe()
    if kind == "left":
        os.close(reading)
    else:
        ours[name] = reading
    return writing


def _be_the_command(
    arguments: list[str],
    surroundings: Surroundings,
    streams: dict[int, int | None],
    not_ours: list[int],
) -> None:
    code = CRASHED
    try:
        os.setsid()
        for descriptor in not_ours:
            os.close(descriptor)
        for number, wanted in streams.items():
            if wanted is None:
                os.close(number)
            else:
                os.dup2(wanted, number)
        os.closerange(3, 64)
        for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGPIPE"):
            number = getattr(signal, name)
            if number in surroundings.ignored:
                signal.signal(number, signal.SIG_IGN)
        kept = {key: os.environ[key] for key in ("PATH", "PYTHONPATH", "HOME") if key in os.environ}
        os.environ.clear()
        os.environ.update(kept | surroundings.variables)
        _open_streams(surroundings.encoding, streams)
        from trio_dispatch.cli import main

        # As they are on a command line in that locale.
        encoding = surroundings.encoding
        arguments = [a.encode().decode(encoding, "surrogateescape") for a in arguments]
        code = main(arguments)
        try:
            if sys.stdout is not None:
                sys.stdout.flush()
        except OSError:
            code = 120  # what Python does at its end
    except BaseException:  # noqa: BLE001
        code = CRASHED
        with contextlib.suppress(BaseException):
            traceback.print_exc()
            sys.stderr.flush()
    finally:
        os._exit(code)


def _open_streams(encoding: str, streams: dict[int, int | None]) -> None:
    """Make the standard streams as Python does at its start."""
    encoding = os.environ.get("PYTHONIOENCODING", encoding)
    errors = "surrogateescape" if encoding == "ascii" else "strict"

    def opened(number: int, how: str, errors: str) -> Any:
        if streams[number] is None:
            return None
        raw = io.FileIO(number, how, closefd=False)
        buffer: Any = io.BufferedReader(raw) if how == "r" else io.BufferedWriter(raw)
        return io.TextIOWrapper(
            buffer, encoding, errors, line_buffering=number == 2 or os.isatty(number)
        )

    sys.stdin = opened(0, "r", errors)
    sys.stdout = opened(1, "w", errors)
    sys.stderr = opened(2, "w", "backslashreplace")


def _watch(pid: int, streams: dict[str, int], number: int | None) -> Ended:
    found = {"stdout": b"", "stderr": b""}
    deadline = time.monotonic() + SECONDS
    open_ones = {descriptor: name for name, descriptor in streams.items()}
    status: int | None = None
    while open_ones and time.monotonic() < deadline:
        ready, _, _ = select.select(list(open_ones), [], [], 0.5)
        if number is not None:
            # It has printed something, or has had half a second.
            os.kill(pid, number)
            number = None
        for descriptor in ready:
            try:
                chunk = os.read(descriptor, 65536)
            except OSError:  # a terminal whose other end is closed
                chunk = b""
            found[open_ones[descriptor]] += chunk
            if not chunk:
                os.close(descriptor)
                del open_ones[descriptor]
    if number is not None:
        time.sleep(0.5)
        os.kill(pid, number)
    while status is None:
        done, wait_status = os.waitpid(pid, os.WNOHANG)
        if done:
            status = wait_status
        elif time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            deadline += 5
        else:
            time.sleep(0.002)
    for descriptor in open_ones:
        os.close(descriptor)
    code = os.waitstatus_to_exitcode(status)
    return Ended(code, *(found[name].decode(errors="replace") for name in ("stdout", "stderr")))


if __name__ == "__main__":
    serve_requests()
