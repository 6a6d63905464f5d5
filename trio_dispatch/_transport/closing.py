"""Closing at once, in clean-up."""

from __future__ import annotations

import trio


async def close_now(resource: trio.abc.AsyncResource) -> None:
    """Close *resource* without waiting for anything, in ``finally`` and ``except`` clauses.

    `trio.aclose_forcefully` does the same, but in a scope that is already cancelled it raises
    `trio.Cancelled`. That replaces the current exception: a Ctrl-C that ends a task would vanish.
    This function raises only the exceptions of *resource* itself.
    """
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        await resource.aclose()
