"""How a command ends: exit codes, and errors as one line.

==== ==================================================================
code what happened
==== ==================================================================
0    everything ended as it should
1    something did not
2    the command was used wrongly, or an extra is not installed
3    no connection to the server, or it was lost
4    the server refused the token, or the token may not do that
70   a bug in trio-dispatch
124  the time of ``--timeout`` was up
129  the terminal was closed (SIGHUP)
130  Ctrl-C (SIGINT)
141  whoever read the output has left, as ``head`` does (SIGPIPE)
143  the command was told to end (SIGTERM)
==== ==================================================================
"""

from __future__ import annotations

import contextlib
import enum
import os
import sys
import traceback
from collections.abc import Sequence

import trio

from trio_dispatch import (
    AuthError,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    PermissionDenied,
)
from trio_dispatch.cli.extras import explain_missing
from trio_dispatch.cli.text import readable


class Exit(enum.IntEnum):
    """The exit codes of all commands."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NO_CONNECTION = 3
    REFUSED = 4
    BUG = 70
    TIMED_OUT = 124
    HANGUP = 129
    INTERRUPTED = 130
    READER_GONE = 141
    TERMINATED = 143


class UsageError(Exception):
    """The command was used wrongly; the message says how."""


class OutputFailed(Exception):
    """Standard output takes nothing; the message says why."""


class Ended(Exception):
    """The command ends here with *code*; *message*, if any, says why."""

    def __init__(self, code: Exit, message: str = "") -> None:
        super().__init__(message)
        self.code = code


def complain(text: str) -> None:
    """Write one line to standard error, if that takes any."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stderr.write(f"trio-dispatch: {readable(text)}\n")
        sys.stderr.flush()


def explain(errors: Sequence[BaseException]) -> Exit:
    """Say in one line what ended the command, and return its exit code.

    *errors* are the exceptions that came out of it, groups taken apart.
    """
    told = [error for error in errors if not isinstance(error, trio.Cancelled)]
    for error in told:
        if isinstance(error, KeyboardInterrupt):
            complain("interrupted")
            return Exit.INTERRUPTED
        if isinstance(error, BrokenPipeError):
            return Exit.READER_GONE
    for error in told:
        if (code := _explain_expected(error)) is not None:
            return code
    for error in told:
        if isinstance(error, (ConnectFailed, ConnectionLost, ClientClosed)):
            cause = error.__cause__ if isinstance(error, ClientClosed) else None
            complain(str(cause or error))
            return Exit.NO_CONNECTION
    if told and all(
        isinstance(error, (DispatchError, OSError)) and not isinstance(error, InternalError)
        for error in told
    ):
        complain(str(told[0]))
        return Exit.FAILED
    return _report_bug(told or errors)


def _explain_expected(error: BaseException) -> Exit | None:
    if isinstance(error, Ended):
        if str(error):
            complain(str(error))
        return error.code
    if isinstance(error, UsageError):
        complain(str(error))
        return Exit.USAGE
    if isinstance(error, ModuleNotFoundError) and (text := explain_missing(error)):
        complain(text)
        return Exit.USAGE
    if isinstance(error, OutputFailed):
        complain(f"cannot write to standard output: {error}")
        return Exit.FAILED
    if isinstance(error, AuthError):
        complain(f"the server refused the token ({error.message}); see --token and DISPATCH_TOKEN")
        return Exit.REFUSED
    if isinstance(error, PermissionDenied):
        complain(f"the token may not do that: {error}")
        return Exit.REFUSED
    return None


def _report_bug(errors: Sequence[BaseException]) -> Exit:
    """Name a bug in one line; its traceback is for those who ask for it."""
    first = errors[0]
    complain(
        f"this is a bug in trio-dispatch: {type(first).__name__}: {first}. Please report it; "
        "with TRIO_DISPATCH_TRACEBACK=1 in the environment you see where it happened"
    )
    if os.environ.get("TRIO_DISPATCH_TRACEBACK"):
        for error in errors:
            traceback.print_exception(type(error), error, error.__traceback__)
    return Exit.BUG
