"""A server in a thread, for commands that run in this process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from trio_dispatch.server import Server


@contextmanager
def serving(server: Server) -> Iterator[str]:
    """Serve in a thread; gives the URL."""
    ready, urls = threading.Event(), list[str]()
    stop: list[trio.lowlevel.TrioToken] = []
    scope = trio.CancelScope()

    async def serve() -> None:
        with scope:
            async with server.serve() as url:
                urls.append(url)
                stop.append(trio.lowlevel.current_trio_token())
                ready.set()
                await trio.sleep_forever()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    assert ready.wait(10)
    try:
        yield urls[0]
    finally:
        stop[0].run_sync_soon(scope.cancel)
        thread.join(10)
