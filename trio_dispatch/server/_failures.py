"""What becomes of an exception that a user's handler raised.

A handler may raise anything, and almost anything is a failure of that handler and nothing more.
Only what is not the handler's goes on: an interrupted program, and the end of the server.
"""

from __future__ import annotations

import sys
from typing import Final

import trio

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup

CONTEXT_CANCELED: Final = "context canceled"
"""The error of a run whose request went away (recording ``http_rpc_disconnect``)."""
DEADLINE_EXCEEDED: Final = "context deadline exceeded"
"""The error of an attempt that took longer than its job's timeout."""


def holds(exc: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Whether *exc* is of one of *kinds*, or a group that holds one."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.subgroup(kinds) is not None
    return isinstance(exc, kinds)


def must_propagate(exc: BaseException) -> bool:
    """Whether *exc* is more than a handler's failure, for code that runs outside its scopes.

    A `trio.Cancelled` counts while a cancellation is under way around the caller; one that the
    handler made out of nothing is just another thing that it raised.
    """
    if holds(exc, (KeyboardInterrupt, SystemExit)):
        return True
    return holds(exc, trio.Cancelled) and trio.current_effective_deadline() == float("-inf")


def describe(exc: BaseException) -> str:
    """The error text of a failed handler: what the exception says, or its name."""
    try:
        text = str(exc)
    except Exception:  # a broken __str__ is the handler's, too
        text = ""
    return text or type(exc).__name__
