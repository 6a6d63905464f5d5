"""Closing at once, in clean-up."""

from __future__ import annotations

import trio


async def close_now(resource: trio.abc.AsyncResource) -> None:
    """Close *resource* without waiting for anything, in ``finally`` and ``except`` clauses.

    `trio.aclose_forcefully` does the same, but in a scope that is already cancelled it raises
    `trio.Cancelled`, which replaces the exception that is on its way: a Ctrl-C that ends a task
    would vanish. This one raises nothing that *resource* does not raise by itself.
    """
    with trio.CancelScope(shield=True) as scope:
        scope.cancel()
        await resource.aclose()
