"""WebSockets by the sans-I/O core of websockets.

One read gives all frames that have arrived, one write takes all that wait: that is what makes this
the fast one. The library never touches the stream; it says what to write, and the rules for that
are these:

- Only the writer writes. Pongs are left for it (`pending`), and `flush` writes them.
- The one exception is the answer to a peer's close frame, as nobody writes after that: the reader
  sends it, unless a write is under way, and for half a second at most.
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
"""Bytes of pongs that may wait to be written; a peer that sends more pings is not read."""

CLOSE_REPLY_TIME: Final = 0.5
"""Seconds for the answer to a peer's close frame."""

_DATA: Final = frozenset({Opcode.TEXT, Opcode.BINARY, Opcode.CONT})

# The library writes headers and frames to its log, the token with them. This logger is in no
# registry, so that nobody's configuration turns that on; what is worse still comes through.
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
        """Messages that came, and were not fetched yet."""
        self._partial = bytearray()
        """What has come of a message in fragments."""
        self._is_text = False
        """Whether the message that is coming is text."""
        self._to_write: list[bytes] = []
        self._writing = False
        self._closing = False
        self._drained = trio.Event()
        self._ending: str | None = None
        """How the connection ended, once it has."""
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
                # The library gets the response, and no byte more.
                self._protocol.receive_data(data[:end] if end >= 0 else data)
            self._protocol.events_received()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise head.broken() from exc
        failure = self._protocol.handshake_exc
        if failure is not None:
            cause = failure.__cause__ or failure
            raise TransportClosed(f"the WebSocket handshake failed: {cause}") from failure
        self._stream.upgraded = True
        # A server may send frames right behind its response.
        self._feed(data[end:])

    async def send(self, messages: Sequence[Message]) -> None:
        """Write *messages*, and what is pending before them, at once."""
        if self._protocol.state is not State.OPEN:
            raise TransportClosed(self._how_it_ended())
        self._put(messages)
        await self.flush()

    @property
    def can_send_now(self) -> bool:
        """Whether the connection is open, and nothing waits to be written."""
        return not self._to_write and not self._writing and self._protocol.state is State.OPEN

    def send_now(self, messages: Sequence[Message]) -> None:
        """Write *messages*, or what goes of them, on the spot."""
        self._put(messages)
        data = b"".join(self._to_write)
        rest = data[self._stream.send_nowait(data) :]
        self._to_write = [rest] if rest else []

    def _put(self, messages: Sequence[Message]) -> None:
        self._collect()
        self._to_write.append(join_messages(messages))

    async def flush(self) -> None:
        """Write what is pending."""
        try:
            await self._write()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise TransportClosed(self._how_it_ended()) from exc

    async def receive(self) -> Sequence[bytes | str]:
        """Read once, and return the messages in it: none, if there were only parts or pings."""
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

    # What was read.

    def _feed(self, data: bytes | bytearray) -> None:
        while self._ending is None:
            messages, others = self._splitter.split(data)
            if not self._closing:
                # What comes after our close frame may be garbage (protocol, "WebSocket").
                self._received += messages
            if not others:
                return
            self._protocol.receive_data(others)
            self._see_what_the_library_says()
            data = b""

    def _see_what_the_library_says(self) -> None:
        """Put fragments together, and see how it ends."""
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
        # The core raises nothing: it stops reading, and says why if one asks.
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

    # What is written.

    def _collect(self) -> None:
        # An empty entry asks for the end of the stream, which `abort` brings about.
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
