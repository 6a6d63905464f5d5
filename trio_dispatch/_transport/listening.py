"""Serve listeners without losing an interrupt."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


async def serve_listeners(
    handle: Callable[[trio.SocketStream], Awaitable[None]],
    listeners: list[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run *handle* for every connection, forever, like `trio.serve_listeners`.

    trio closes a connection before it propagates the exception of its handler. The other end sees
    that, and may end the program's block first: a cancellation would then replace a pending
    interrupt. This function always raises KeyboardInterrupt and SystemExit.
    """
    interrupts: list[BaseException] = []

    async def guarded(stream: trio.SocketStream) -> None:
        try:
            await handle(stream)
        except (KeyboardInterrupt, SystemExit) as exc:
            interrupts.append(exc)
            raise

    try:
        await trio.serve_listeners(guarded, listeners, task_status=task_status)
    finally:
        if interrupts:
            raise interrupts[0]
