"""What becomes of an exception that a user's handler raised.

A handler may raise anything, and almost anything is a failure of that handler and nothing more.
Only what is not the handler's goes on: an interrupted program, and the end of the server.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Final, cast

import trio

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup

CONTEXT_CANCELED: Final = "context canceled"
"""The error of a run whose request went away (recording ``http_rpc_disconnect``)."""
DEADLINE_EXCEEDED: Final = "context deadline exceeded"
"""The error of an attempt that took longer than its job's timeout."""


def holds(exc: BaseException, kinds: type[BaseException] | tuple[type[BaseException], ...]) -> bool:
    """Whether *exc* is of one of *kinds*, or a group that holds one."""
    return any(isinstance(leaf, kinds) for leaf in _leaves(exc))


def only_cancelled(exc: BaseException) -> bool:
    """Whether *exc* is a cancellation and nothing else."""
    return all(isinstance(leaf, trio.Cancelled) for leaf in _leaves(exc))


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        for inner in group.exceptions:
            yield from _leaves(inner)
    else:
        yield exc


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
    except Exception:  # noqa: BLE001 - a broken __str__ is the handler's, too
        text = ""
    return text or type(exc).__name__
