"""Commands in terminals, and with readers that leave."""

from __future__ import annotations

import os
import re
import select
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import trio
from rich.cells import cell_len

from tests.cli.serving import in_terminal
from tests.shares import EVERYTHING
from trio_dispatch.cli.exits import Exit


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("size", [(80, 24), (160, 48)][: 2 if EVERYTHING else 1])
@pytest.mark.parametrize(
    "command",
    [
        ["watch", "firehose", "--count", "3"],
        ["workflow", "run", "order", '{"id": "' + "x" * 200 + '"}'],
        ["doctor"],
        ["top", "--count", "1", "--interval", "0.6"],
    ],
    ids=lambda command: command[0],
)
def test_in_a_terminal_nothing_is_wider_than_it(
    url: str, command: list[str], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    environ = {"DISPATCH_URL": url, "DISPATCH_TOKEN": "token"}
    done = threading.Event()

    async def keep_it_busy() -> None:
        from trio_dispatch import open_client

        async with open_client(url, token="token") as client:
            while not done.is_set():
                await client.enqueue("echo", "x" * 300, queue="a-queue-of-a-long-name-" + "y" * 60)
                await trio.sleep(0.03)

    thread = threading.Thread(target=trio.run, args=(keep_it_busy,))
    thread.start()
    try:
        code, text = in_terminal(command, size, environ)
    finally:
        done.set()
        thread.join(10)
    assert code == Exit.OK, text
    frames = text.replace("\x1b[H", "\n")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames)
    shown = [line for line in plain.replace("\r", "").split("\n") if not line.startswith("input ")]
    assert max(map(cell_len, shown)) <= size[0]
    if command[0] == "top":
        assert "\x1b[?1049h" in text
        assert "\x1b[?1049l" in text
    else:
        assert len(plain.splitlines()) >= 3


@pytest.mark.skipif(sys.platform != "linux", reason="it is seen on Linux alone")
def test_a_reader_that_leaves_ends_a_command_that_has_nothing_to_print(url: str) -> None:
    environ = {**os.environ, "DISPATCH_URL": url, "DISPATCH_TOKEN": "token"}
    environ["PYTHONPATH"] = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch", "watch", "--name", "nobody"],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait(20) == Exit.READER_GONE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
def test_q_leaves_top_and_the_terminal_as_it_was(url: str) -> None:
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    # The terminal belongs to the command, as it does in a shell's foreground.
    code = (
        "import fcntl, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from trio_dispatch.cli import main; sys.exit(main(['top']))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "DISPATCH_URL": url,
            "DISPATCH_TOKEN": "token",
            "TERM": "xterm-256color",
            "PYTHONPATH": str(Path(__file__).parents[2]),
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    shown = b""
    while b"jobs seen" not in shown:
        ready, _, _ = select.select([ours], [], [], 20)
        assert ready, shown
        shown += os.read(ours, 65536)
    os.write(ours, b"xq")
    assert process.wait(20) == Exit.OK
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)
