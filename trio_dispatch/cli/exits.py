"""How a command ends: exit codes, errors as one line, Ctrl-C.

==== ==============================================================
code what happened
==== ==============================================================
0    everything ended as it should
1    something did not
2    the command was used wrongly, or is not installed whole
3    no connection to the server, or it was lost
4    the server refused the token, or the token may not do that
130  Ctrl-C
==== ==============================================================
"""

from __future__ import annotations

import enum
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable

import trio

from trio_dispatch import (
    AuthError,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    PermissionDenied,
)
from trio_dispatch._transport.groups import leaves


class Exit(enum.IntEnum):
    """The exit codes of all commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    REFUSED = 4
    INTERRUPTED = 130


class UsageError(Exception):
    """The command was used wrongly; the message says how."""


def readable(text: str) -> str:
    """Make text from elsewhere safe for a terminal: one line, no control characters."""
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text)


def complain(text: str) -> None:
    """Write one line to stderr."""
    sys.stderr.write(f"trio-dispatch: {readable(text)}\n")


def run_async(command: Callable[[], Awaitable[Exit]]) -> Exit:
    """Run an async command to its exit code. Errors become a line, and so does Ctrl-C."""
    try:
        return trio.run(_interruptible, command)
    except BaseException as exc:
        code = _explain(list(leaves(exc)))
        if code is None:
            raise
        return code


async def _interruptible(command: Callable[[], Awaitable[Exit]]) -> Exit:
    """Ctrl-C cancels the command, which then leaves its blocks in good order."""
    if threading.current_thread() is not threading.main_thread():
        return await command()
    with trio.open_signal_receiver(signal.SIGINT) as signals:
        code = Exit.INTERRUPTED
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            code = await command()
            nursery.cancel_scope.cancel()
    if code is Exit.INTERRUPTED:
        complain("interrupted")
    return code


def _explain(errors: list[BaseException]) -> Exit | None:
    """Tell what ended the command; None for what only a traceback tells: a bug."""
    for error in errors:
        if isinstance(error, KeyboardInterrupt):
            complain("interrupted")
            return Exit.INTERRUPTED
        if isinstance(error, BrokenPipeError):
            # Whoever read the output has left. What is still buffered has nowhere to go.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return Exit.FAILED
    told = [error for error in errors if not isinstance(error, trio.Cancelled)]
    for error in told:
        if isinstance(error, UsageError):
            complain(str(error))
            return Exit.USAGE
        if isinstance(error, AuthError):
            complain(
                f"the server refused the token ({error.message}); see --token and DISPATCH_TOKEN"
            )
            return Exit.REFUSED
        if isinstance(error, PermissionDenied):
            complain(f"the token may not do that: {error}")
            return Exit.REFUSED
    for error in told:
        if isinstance(error, (ConnectFailed, ConnectionLost, ClientClosed)):
            complain(
                str(error.__cause__ or error) if isinstance(error, ClientClosed) else str(error)
            )
            return Exit.NO_CONNECTION
    if told and all(isinstance(error, (DispatchError, OSError)) for error in told):
        complain(str(told[0]))
        return Exit.FAILED
    return None
