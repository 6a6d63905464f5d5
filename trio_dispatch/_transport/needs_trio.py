"""Saying so when there is no trio: everything here runs inside ``trio.run``."""

from __future__ import annotations

import asyncio

import trio


def check_trio(what: str = "trio_dispatch") -> None:
    """Raise RuntimeError unless this is called in a task of trio.

    Args:
        what: what needs it.
    """
    try:
        trio.lowlevel.current_task()
    except RuntimeError:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            where = "nothing runs here"
        else:
            where = "asyncio runs here"
        raise RuntimeError(
            f"{what} needs trio.run(...), and {where}: put it into an async function main, and "
            "call trio.run(main)"
        ) from None
