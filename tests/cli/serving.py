"""A server in a thread, for commands that run in this process."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Protocol

import trio


class Served(Protocol):
    """A server of any kind."""

    def serve(self) -> AbstractAsyncContextManager[str]: ...


@contextmanager
def serving(server: Served) -> Iterator[str]:
    """Serve in a thread; gives the URL."""
    ready, urls = threading.Event(), list[str]()
    stop: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def serve() -> None:
        with scope:
            async with server.serve() as url:
                urls.append(url)
                stop.append(trio.lowlevel.current_trio_token())
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        stop[0].run_sync_soon(scope.cancel)
        thread.join(10)


def in_terminal(
    arguments: list[str], size: tuple[int, int], environ: dict[str, str] | None = None
) -> tuple[int, str]:
    """Run the command in a pseudo-terminal of *size* (columns, lines): exit code and output."""
    import fcntl
    import pty
    import struct
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
    kept = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**kept, **(environ or {}), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"},
    )
    os.close(theirs)
    output = b""
    deadline = time.monotonic() + 30
    try:
        while time.monotonic() < deadline:
            if not select.select([ours], [], [], 1)[0]:
                continue
            try:
                chunk = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            output += chunk
    finally:
        os.close(ours)
        if process.poll() is None and time.monotonic() >= deadline:
            process.kill()
        code = process.wait(10)
    return code, output.decode()
