"""The WebSocket transport on the sans-I/O core of websockets.

It is the fast transport, because one read returns all frames that have arrived and one write sends
all that wait. The library never touches the stream; it only returns what to write. The rules for
writing are:

- Only the writer writes. Pongs wait for it (`pending`), and `flush` writes them.
- The only exception is the answer to a peer's close frame, because nobody writes after that: the
  reader sends it, unless a write is under way, and waits for at most half a second.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Final

import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.websocket.base import TransportClosed
from trio_dispatch._transport.websocket.joiner import join_messages
from trio_dispatch._transport.websocket.refusal import ResponseHead
from trio_dispatch._transport.websocket.splitter import FrameSplitter
from trio_dispatch._transport.websocket.stream import WireStream
from trio_dispatch._wire.frames import Message
from trio_dispatch._wire.headers import split_host
from trio_dispatch._wire.url import Address

READ_SIZE: Final = 64 * 1024

MAX_PENDING: Final = 64 * 1024
"""The most bytes of pongs that wait to be written; beyond that, the peer is not read."""

CLOSE_REPLY_TIME: Final = 0.5
"""The most seconds for sending the answer to a peer's close frame."""

_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})

# The library logs headers and frames, including the token. This logger is not in the registry of
# loggers, so no configuration can turn that on. Warnings and errors are still logged.
_logger: Final = logging.Logger(  # noqa: LOG001
    "trio_dispatch.transport.websockets", level=logging.WARNING
)
_logger.parent = logging.getLogger("trio_dispatch.transport")


async def upgrade(
    stream: WireStream,
    address: Address,
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    subprotocols: Sequence[str] = (),
    *,
    text_is_utf8: bool,
) -> WebsocketsTransport:
    """Do the handshake on *stream*."""
    scheme = "wss" if address.secure else "ws"
    uri = parse_uri(f"{scheme}://{address.host_header}{address.resource}")
    # No extensions: a Dispatch server agrees to none.
    protocol = ClientProtocol(
        uri,
        max_size=max_message_size,
        logger=_logger,
        subprotocols=[Subprotocol(name) for name in subprotocols] or None,
    )
    request = protocol.connect()
    host, others = split_host(address, tuple(headers))
    del request.headers["Host"]
    for name, value in (("Host", host), *others):
        request.headers[name] = value
    protocol.send_request(request)
    splitter = FrameSplitter(max_message_size, text_is_utf8=text_is_utf8)
    transport = WebsocketsTransport(stream, protocol, splitter)
    await transport.shake_hands()
    return transport


class WebsocketsTransport:
    """A `Transport` on websockets' `ClientProtocol`."""

    def __init__(
        self,
        stream: WireStream,
        protocol: ClientProtocol,
        splitter: FrameSplitter,
    ) -> None:
        self._stream = stream
        self._splitter = splitter
        self._protocol = protocol
        self._received: list[bytes | str] = []
        """Messages that arrived and were not fetched yet."""
        self._partial = bytearray()
        """The fragments of an incomplete message."""
        self._is_text = False
        """Whether the incomplete message is text."""
        self._to_write: list[bytes] = []
        self._writing = False
        self._closing = False
        self._drained = trio.Event()
        self._ending: str | None = None
        """How the connection ended, once it has ended."""
        self._over = trio.Event()
        self._pong = trio.Event()

    @property
    def stuck_since(self) -> float | None:
        """Since when a write makes no progress."""
        return self._stream.stuck_since

    @property
    def pending(self) -> bool:
        """Whether there are pongs to write."""
        return bool(self._to_write)

    async def shake_hands(self) -> None:
        """Send the request and read the response."""
        head, end, data = ResponseHead(), -1, b""
        try:
            await self._write()
            while end < 0 and self._protocol.handshake_exc is None:
                data = bytes(await self._stream.receive_some(READ_SIZE))
                end = head.find_end(data)
                if end >= 0 and not head.accepts:
                    raise await head.read_refusal(self._stream)
                # The library gets the response, and nothing after it.
                self._protocol.receive_data(data[:end] if end >= 0 else data)
            self._protocol.events_received()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise head.broken() from exc
        failure = self._protocol.handshake_exc
        if failure is not None:
            cause = failure.__cause__ or failure
            raise TransportClosed(f"the WebSocket handshake failed: {cause}") from failure
        self._stream.upgraded = True
        # A server may send frames directly after its response.
        self._feed(data[end:])

    async def send(self, messages: Sequence[Message]) -> None:
        """Write pending bytes and *messages*, in one write."""
        if self._protocol.state is not State.OPEN:
            raise TransportClosed(self._how_it_ended())
        self._put(messages)
        await self.flush()

    @property
    def can_send_now(self) -> bool:
        """Whether the connection is open and nothing waits to be written."""
        return not self._to_write and not self._writing and self._protocol.state is State.OPEN

    def send_now(self, messages: Sequence[Message]) -> None:
        """Write as much of *messages* as possible, without waiting."""
        self._put(messages)
        data = b"".join(self._to_write)
        rest = data[self._stream.send_nowait(data) :]
        self._to_write = [rest] if rest else []

    def _put(self, messages: Sequence[Message]) -> None:
        self._collect()
        self._to_write.append(join_messages(messages))

    async def flush(self) -> None:
        """Write the pending bytes."""
        try:
            await self._write()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise TransportClosed(self._how_it_ended()) from exc

    async def receive(self) -> Sequence[bytes | str]:
        """Read once, and return the messages; none if there were only fragments or pings."""
        if self._received:
            messages, self._received = self._received, []
            return messages
        if self._ending is not None:
            await self._finish()
        while self.pending and sum(map(len, self._to_write)) > MAX_PENDING:
            self._drained = trio.Event()
            await self._drained.wait()
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._end(self._how_it_ended())
            raise TransportClosed(self._how_it_ended()) from exc
        if data:
            self._feed(data)
        else:
            self._protocol.receive_eof()
            self._see_what_the_library_says()
        if self._ending is not None and not self._received:
            await self._finish()
        messages, self._received = self._received, []
        return messages

    async def ping(self, wake: Callable[[], None]) -> None:
        """Queue a ping for the task that sends, and wait for a pong."""
        if self._protocol.state is State.OPEN:
            self._pong = trio.Event()
            self._protocol.send_ping(b"")
            self._collect()
            wake()
            await self._pong.wait()

    async def aclose(self) -> None:
        """Close politely. `receive`, in its own task, sees the peer's close frame."""
        try:
            self._closing = True
            if self._protocol.state is State.OPEN:
                self._protocol.send_close(1000)
                await self.flush()
            await self._over.wait()
        except TransportClosed:
            pass
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close the socket."""
        await close_now(self._stream)

    # Reading.

    def _feed(self, data: bytes | bytearray) -> None:
        while self._ending is None:
            messages, others = self._splitter.split(data)
            if not self._closing:
                # Bytes after our close frame may be garbage (protocol, "WebSocket").
                self._received += messages
            if not others:
                return
            self._protocol.receive_data(others)
            self._see_what_the_library_says()
            data = b""

    def _see_what_the_library_says(self) -> None:
        """Join fragments into messages, and note how the connection ends."""
        self._collect()
        for frame in self._protocol.events_received():
            if not isinstance(frame, Frame) or self._ending is not None:
                continue
            if frame.opcode is Opcode.PONG:
                self._pong.set()
            elif frame.opcode is Opcode.CLOSE:
                self._end(self._how_it_ended())
            elif frame.opcode in _DATA:
                if frame.opcode is not Opcode.CONT:
                    self._is_text = frame.opcode is Opcode.TEXT
                self._partial += frame.data
                if frame.fin:
                    whole = bytes(self._partial)
                    self._partial.clear()
                    self._on_fragmented(whole)
        # The core does not raise: it stops reading, and reports the reason on request.
        if self._protocol.parser_exc is not None or self._protocol.state is State.CLOSED:
            self._end(self._how_it_ended())

    def _on_fragmented(self, data: bytes) -> None:
        if self._closing:
            return
        if self._is_text:
            try:
                data.decode()
            except UnicodeDecodeError as exc:
                self._protocol.fail(1007, "text is not UTF-8")
                self._collect()
                self._end(f"the server sent text that is not UTF-8: {exc.reason}")
                return
        self._received.append(data)

    # Writing.

    def _collect(self) -> None:
        # An empty entry asks for the end of the stream, which `abort` does.
        self._to_write += filter(None, self._protocol.data_to_send())

    async def _write(self) -> None:
        self._collect()
        if not self._to_write:
            await trio.lowlevel.checkpoint()
            return
        data = b"".join(self._to_write)
        self._to_write.clear()
        self._drained.set()
        self._writing = True
        try:
            await self._stream.send_all(data)
        finally:
            self._writing = False

    # The end.

    def _end(self, how: str) -> None:
        if self._ending is None:
            self._ending = how
            self._over.set()
            self._drained.set()

    async def _finish(self) -> None:
        """Answer the peer's close frame, and raise."""
        if self._to_write and not self._writing:
            with trio.move_on_after(CLOSE_REPLY_TIME):
                with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._write()
        else:
            await trio.lowlevel.checkpoint()
        raise TransportClosed(self._how_it_ended())

    def _how_it_ended(self) -> str:
        if self._ending is not None:
            return self._ending
        failure = self._protocol.parser_exc
        if failure is not None and not isinstance(failure, EOFError):
            return f"the server broke the WebSocket protocol: {failure}"
        close = self._protocol.close_rcvd
        if close is None:
            return "the connection broke without a close frame"
        text = f": {close.reason}" if close.reason else ""
        return f"the WebSocket was closed with code {int(close.code)}{text}"
