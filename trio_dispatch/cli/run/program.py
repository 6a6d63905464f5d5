"""A program that runs beside us: its environment, its output, and the signals that it gets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import trio

from trio_dispatch.cli.exits import UsageError
from trio_dispatch.remote import Service

FORWARDED: Final = [
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGWINCH")
    if hasattr(signal, name)
]
_OF_THE_TERMINAL: Final = {"SIGINT", "SIGQUIT", "SIGWINCH"}
LONGEST_LINE: Final = 10_000


def free_address() -> str:
    """An address of this machine where nothing listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{held.getsockname()[1]}"


def environment(service: Service, address: str) -> dict[str, str]:
    """What tells a program where everything is."""
    return {
        "DISPATCH_API_URL": service.url,
        "DISPATCH_API_KEY": service.api_key,
        "DISPATCH_ENDPOINT_ADDR": address,
        "DISPATCH_ENDPOINT_URL": f"http://{address}",
        "DISPATCH_VERIFICATION_KEY": service.verification_key,
    }


class Program:
    """A program that was started. `run` is its life."""

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], *, piped: bool, quiet: bool
    ) -> None:
        """Describe it.

        Args:
            command: the program and its arguments.
            variables: added to its environment.
            piped: whether its output is read here, for `run`'s *show*.
            quiet: whether its standard output goes to our standard error.
        """
        self._command = command
        self._piped = piped
        self._quiet = quiet
        self._environment = os.environ | variables
        if piped:
            # Otherwise a program of Python keeps its lines back until it has many.
            self._environment = {"PYTHONUNBUFFERED": "1"} | self._environment

    async def run(self, show: Callable[[str], None]) -> int:
        """Run it to its end; return its exit code, 128 and more if a signal has ended it.

        Cancelled, the program is terminated, and killed if it does not end.

        Raises:
            UsageError: it cannot be started.
        """
        pipe = subprocess.PIPE if self._piped else None
        with trio.open_signal_receiver(*FORWARDED) as signals:
            try:
                process = await trio.lowlevel.open_process(
                    self._command,
                    stdout=sys.stderr.fileno() if self._quiet else pipe,
                    stderr=subprocess.STDOUT if self._piped else None,
                    env=self._environment,
                )
            except OSError as exc:
                name = self._command[0]
                raise UsageError(f"cannot run {name}: {exc.strerror or exc}") from exc
            try:
                async with trio.open_nursery() as nursery:

                    async def forward() -> None:
                        async for number in signals:
                            if not _came_from_terminal(signal.Signals(number)):
                                process.send_signal(number)

                    nursery.start_soon(forward)
                    if process.stdout is not None:
                        await _read_lines(process.stdout, show)
                    await process.wait()
                    nursery.cancel_scope.cancel()
            finally:
                await _end(process)
        code = process.returncode
        assert code is not None
        return code if code >= 0 else 128 - code


def _came_from_terminal(number: signal.Signals) -> bool:
    """Whether the terminal has sent the signal to the program as well, as it does with Ctrl-C."""
    if number.name not in _OF_THE_TERMINAL or not hasattr(os, "tcgetpgrp"):
        return False
    try:
        return os.tcgetpgrp(sys.__stdin__.fileno()) == os.getpgrp() if sys.__stdin__ else False
    except OSError:
        return False


async def _read_lines(stream: trio.abc.ReceiveStream, show: Callable[[str], None]) -> None:
    rest = b""
    async for data in stream:
        *lines, rest = (rest + data).split(b"\n")
        if len(rest) > LONGEST_LINE:
            lines, rest = [*lines, rest], b""
        for line in lines:
            show(line.decode("utf-8", "replace").rstrip("\r"))
    if rest:
        show(rest.decode("utf-8", "replace"))


async def _end(process: trio.Process) -> None:
    if process.returncode is not None:
        return
    with trio.CancelScope(shield=True, deadline=trio.current_time() + 2):
        process.terminate()
        await process.wait()
    if process.returncode is None:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
