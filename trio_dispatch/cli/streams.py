"""The standard streams: UTF-8 whatever the locale, and no surprise when one is closed or full."""

from __future__ import annotations

import contextlib
import io
import os
import select
import stat
import sys
from typing import BinaryIO

import trio

from trio_dispatch.cli.exits import OutputFailed, UsageError


def prepare_streams() -> None:
    r"""Make the standard streams ready for a command.

    Text that goes to a file or a pipe is UTF-8 with ``\n`` at the end of each line. A terminal
    keeps its own encoding, and shows a question mark for a character that it lacks.

    Raises:
        OutputFailed: standard output is closed. Nothing has been done yet.
    """
    _occupy_descriptors()
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            if stream.isatty():
                stream.reconfigure(errors="replace")
            else:
                stream.reconfigure(encoding="utf-8", errors="replace", newline="\n")
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
        raise OutputFailed("it is closed; send it to /dev/null if nobody reads it")


def _occupy_descriptors() -> None:
    """Open the closed ones of 0, 1 and 2, or the first socket would be taken for a stream."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # noqa: PERF203
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def read_stdin(name: str) -> bytes:
    """Read standard input to its end; *name* is the argument that asked for it.

    Raises:
        UsageError: it is closed, or cannot be read.
    """
    if sys.stdin is None:
        raise UsageError(f"{name}: standard input is closed")
    binary: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    try:
        return sys.stdin.read().encode() if binary is None else binary.read()
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{name}: cannot read standard input: {reason}") from exc


def decode(text: bytes, name: str) -> str:
    """Decode a user's file or input: UTF-8, whatever the locale; a byte order mark is skipped.

    Raises:
        UsageError: it is not UTF-8.
    """
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        hint = ""
        if text[:2] in (b"\xff\xfe", b"\xfe\xff"):
            hint = " (it looks like UTF-16)"
        raise UsageError(f"{name} is not UTF-8{hint}: {exc.reason} at byte {exc.start}") from exc


def flush_output() -> None:
    """Write what is still buffered.

    Raises:
        OSError: that is impossible.
    """
    if sys.stdout is not None and not sys.stdout.closed:
        sys.stdout.flush()


def drop_output() -> None:
    """Forget what is still buffered: nobody can take it, and Python would try again at its end."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


async def wait_reader_gone() -> None:
    """Wait until nobody reads standard output any more; for ever where that cannot be seen."""
    if sys.platform == "linux" and (pipe := _output_pipe()) is not None:
        poll = select.poll()
        poll.register(pipe, 0)  # errors are reported always
        with contextlib.suppress(OSError, trio.BusyResourceError):
            await trio.lowlevel.wait_readable(pipe)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return
    await trio.sleep_forever()


def _output_pipe() -> int | None:
    try:
        descriptor = sys.stdout.fileno()
        return descriptor if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else None
    except (OSError, ValueError, AttributeError):
        return None
