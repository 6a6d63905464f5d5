"""A bounded byte stream in memory, which can break like a TCP connection.

trio's own memory streams have no backpressure and never break, so they cannot imitate a network.
"""

from __future__ import annotations

from typing import Final

import trio

ROOM: Final = 64 * 1024
"""The most bytes on their way in one direction; then sending blocks."""


class _Direction:
    """One direction of a pipe: bytes that were sent and not yet received."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.held = bytearray()
        self.ended = False
        """The sender sends no more."""
        self.sender_closed = False
        self.receiver_closed = False
        self.broken = False
        self._waiting = trio.lowlevel.ParkingLot()

    def wake(self) -> None:
        """Wake all waiting tasks, because something has changed."""
        self._waiting.unpark_all()

    def check_sendable(self) -> None:
        if self.sender_closed or self.ended:
            raise trio.ClosedResourceError("this end was closed for sending")
        if self.broken or self.receiver_closed:
            raise trio.BrokenResourceError("the other end is gone")

    async def wait_for_room(self) -> None:
        self.check_sendable()
        while len(self.held) >= self.room:
            await self._waiting.park()
            self.check_sendable()

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        view = memoryview(data)
        self.check_sendable()
        while view:
            await self.wait_for_room()
            view = view[self.send_nowait(view) :]

    def send_nowait(self, data: memoryview) -> int:
        room = max(self.room - len(self.held), 0)
        self.held += data[:room]
        self.wake()
        return min(room, len(data))

    async def receive(self, max_bytes: int) -> bytes:
        while True:
            if self.receiver_closed:
                raise trio.ClosedResourceError("this end was closed")
            if self.broken:
                raise trio.BrokenResourceError("the connection was reset")
            if self.held:
                data = bytes(self.held[:max_bytes])
                del self.held[:max_bytes]
                self.wake()
                return data
            if self.ended:
                return b""
            await self._waiting.park()


class PipeEnd(trio.abc.HalfCloseableStream):
    """One end of a pipe. It behaves like a TCP connection of trio."""

    def __init__(self, outgoing: _Direction, incoming: _Direction) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._sending = self._receiving = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*. While the pipe is full, this waits.

        Raises:
            trio.BrokenResourceError: the other end is gone, or the connection was reset.
            trio.ClosedResourceError: this end is closed, or has sent its end.
            trio.BusyResourceError: another task is sending.
        """
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            await self._outgoing.send(data)
        finally:
            self._sending = False

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much of *data* as fits, without waiting. Returns the number of bytes.

        It raises the same errors as `send_all`.
        """
        self._begin_sending()
        try:
            self._outgoing.check_sendable()
            return self._outgoing.send_nowait(memoryview(data))
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the pipe is not full. It raises the same errors as `send_all`."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            await self._outgoing.wait_for_room()
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """Stop sending; receiving still works. Idempotent."""
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint()
            if self._outgoing.sender_closed:
                raise trio.ClosedResourceError("this end was closed")
            self._outgoing.ended = True
            self._outgoing.wake()
        finally:
            self._sending = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive the available bytes; empty bytes when the other end sends no more.

        Raises:
            trio.BrokenResourceError: the connection was reset.
            trio.ClosedResourceError: this end is closed.
            trio.BusyResourceError: another task is receiving.
        """
        if max_bytes is None:
            max_bytes = ROOM
        elif not isinstance(max_bytes, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError("max_bytes is an integer")
        elif max_bytes < 1:
            raise ValueError("max_bytes is at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            return await self._incoming.receive(max_bytes)
        finally:
            self._receiving = False

    def close(self) -> None:
        """Close this end. The other end can read what was sent, and cannot send any more."""
        self._outgoing.sender_closed = self._outgoing.ended = True
        self._incoming.receiver_closed = True
        self._incoming.held.clear()
        self._outgoing.wake()
        self._incoming.wake()

    async def aclose(self) -> None:
        """Do the same as `close`, as an async method. This is a checkpoint."""
        self.close()
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        """Break the connection for both ends. Bytes on their way are lost."""
        for direction in (self._outgoing, self._incoming):
            direction.broken = True
            direction.held.clear()
            direction.wake()

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True


def pipe(room: int = ROOM) -> tuple[PipeEnd, PipeEnd]:
    """Make a pipe: two ends, each of which receives what the other sends.

    Args:
        room: the most bytes on their way in one direction; then sending blocks.
    """
    there, back = _Direction(room), _Direction(room)
    return PipeEnd(there, back), PipeEnd(back, there)
