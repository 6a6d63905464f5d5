"""What waits to be written to a connection, and the one task that writes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

import trio

WRITE_SIZE: Final = 64 * 1024
ROOM: Final = 1024 * 1024
"""Bytes that may wait before the handling of frames is held up."""


class MessageWriter:
    """Whole messages in the order in which they were put, for one writer task.

    Args:
        events_sent: called with the number of events that have left.
    """

    def __init__(self, events_sent: Callable[[int], None]) -> None:
        self._items: deque[tuple[bytes, bool]] = deque()
        self._size = 0
        self._writing = False
        self._dead = False
        self._changed = trio.Event()
        self._events_sent = events_sent

    def put(self, data: bytes, *, event: bool = False) -> None:
        """Queue *data*; thrown away when the peer has stopped listening."""
        if not data:
            return
        if self._dead:
            if event:
                self._events_sent(1)
            return
        self._items.append((data, event))
        self._size += len(data)
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def wait_room(self) -> None:
        """Wait until little enough is queued."""
        while self._size > ROOM and not self._dead:
            await self._changed.wait()

    async def flushed(self) -> None:
        """Wait until everything is written, or cannot be."""
        while (self._items or self._writing) and not self._dead:
            await self._changed.wait()

    async def write_to(self, stream: trio.abc.SendStream) -> None:
        """Write for ever; return when the peer cannot be written to any more."""
        try:
            while True:
                while not self._items:
                    await self._changed.wait()
                await self._write_batch(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._dead = True
            self._items.clear()
            self._notify()

    async def _write_batch(self, stream: trio.abc.SendStream) -> None:
        batch = bytearray()
        events = 0
        while self._items and len(batch) < WRITE_SIZE:
            data, event = self._items.popleft()
            batch += data
            events += event
        self._writing = True
        await stream.send_all(batch)
        self._writing = False
        self._size -= len(batch)
        if events:
            # Only now: what is being written counts as unsent (protocol, "Credits").
            self._events_sent(events)
        self._notify()
