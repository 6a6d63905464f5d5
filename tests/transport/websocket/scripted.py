"""A peer that answers the upgrade and then says what it was told to, in chunks of any size."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import asynccontextmanager
from itertools import chain, repeat

import trio
from websockets.frames import Frame, Opcode
from websockets.server import ServerProtocol

from trio_dispatch._transport.websocket import Library, Transport, open_transport
from trio_dispatch._wire.url import parse_url

ADDRESS = parse_url("ws://localhost/dwp", "ws")
LIBRARIES: tuple[Library, ...] = ("trio-websocket", "websockets")


def frame(opcode: Opcode, payload: bytes = b"", *, fin: bool = True) -> bytes:
    """One frame as a server sends it."""
    return Frame(opcode, payload, fin).serialize(mask=False)


def text(payload: bytes) -> bytes:
    """One text message."""
    return frame(Opcode.TEXT, payload)


def binary(payload: bytes) -> bytes:
    """One binary message."""
    return frame(Opcode.BINARY, payload)


class ScriptedStream(trio.abc.Stream):
    """The client's end of a connection to a peer that says *script* right behind its 101.

    Args:
        script: bytes.
        chunks: how many bytes each read gets; the last size is used for all further ones.
        ends: whether the peer then ends the connection; it is silent otherwise.
    """

    def __init__(self, script: bytes, chunks: Iterable[int] = (65536,), *, ends: bool = True):
        sizes = list(chunks)
        self._sizes: Iterator[int] = chain(sizes, repeat(sizes[-1]))
        self._script = script
        self._ends = ends
        self._unread = bytearray()
        self._upgraded = False
        self._spoke = trio.Event()
        self._closed = trio.Event()
        self._peer = ServerProtocol(max_size=None)

    @property
    def read(self) -> bool:
        """Whether the client has read everything."""
        return not self._unread

    def say(self, data: bytes) -> None:
        """Say *data* as well."""
        self._unread += data
        self._spoke.set()

    def received(self) -> list[Frame]:
        """The frames that the client has sent since this was called last."""
        return [event for event in self._peer.events_received() if isinstance(event, Frame)]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint()
        if self._closed.is_set():
            raise trio.ClosedResourceError
        self._peer.receive_data(bytes(data))
        if not self._upgraded:
            self._upgraded = True
            (request,) = self._peer.events_received()
            self._peer.send_response(self._peer.accept(request))  # type: ignore[arg-type]
            self.say(b"".join(self._peer.data_to_send()) + self._script)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while not self._unread and not self._closed.is_set():
            if self._ends and self._upgraded:
                return b""
            self._spoke = trio.Event()
            await self._spoke.wait()
        if self._closed.is_set():
            raise trio.ClosedResourceError
        size = min(next(self._sizes), max_bytes or 65536)
        data = bytes(self._unread[:size])
        del self._unread[:size]
        return data

    async def aclose(self) -> None:
        self._closed.set()
        self._spoke.set()
        await trio.lowlevel.checkpoint()


@asynccontextmanager
async def open_scripted(
    stream: ScriptedStream,
    library: Library,
    *,
    text_is_utf8: bool = True,
    max_message_size: int = 2**24,
) -> AsyncGenerator[Transport, None]:
    """A transport to what *stream* says."""

    async def connect(address: object) -> trio.abc.Stream:
        return stream

    async with trio.open_nursery() as nursery:
        transport = await open_transport(
            nursery,
            ADDRESS,
            headers=(),
            max_message_size=max_message_size,
            library=library,
            text_is_utf8=text_is_utf8,
            connector=connect,
        )
        try:
            yield transport
        finally:
            await transport.abort()
            nursery.cancel_scope.cancel()
