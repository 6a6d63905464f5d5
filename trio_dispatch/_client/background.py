"""The nursery of a client's own tasks, which runs as long as the client's link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio


class Background:
    """Starts tasks that end with the client.

    Args:
        why_ended: makes the error for a task that is started after the client has ended.
    """

    def __init__(self, why_ended: Callable[[], Exception]) -> None:
        self._why_ended = why_ended
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Keep the nursery open until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await trio.sleep_forever()

    def spawn(self, function: Callable[..., Awaitable[None]], *args: object) -> None:
        """Start a task that ends with the client.

        Raises:
            DispatchError: the client has ended, or is just ending.
        """
        try:
            if self._nursery is None:
                raise self._why_ended()
            self._nursery.start_soon(function, *args)
        except RuntimeError:  # the client is just ending, and its nursery is closed
            raise self._why_ended() from None
