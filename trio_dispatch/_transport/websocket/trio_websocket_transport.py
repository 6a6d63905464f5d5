"""The WebSocket transport on trio-websocket."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import trio
import trio_websocket

from trio_dispatch._transport.block import interrupt_in
from trio_dispatch._transport.closing import close_now
from trio_dispatch._transport.groups import leaves
from trio_dispatch._transport.websocket.base import TransportClosed, UpgradeRefused
from trio_dispatch._transport.websocket.refusal import ResponseHead
from trio_dispatch._transport.websocket.splitter import FrameSplitter
from trio_dispatch._transport.websocket.stream import WireStream
from trio_dispatch._wire.frames import Message
from trio_dispatch._wire.headers import split_host
from trio_dispatch._wire.url import Address

_log = logging.getLogger("trio_dispatch.transport")

QUEUED_MESSAGES: Final = 256
"""How many messages the library's reader may be ahead of ours."""

READ_SIZE: Final = 64 * 1024


async def upgrade(
    nursery: trio.Nursery,
    stream: WireStream,
    address: Address,
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
    subprotocols: Sequence[str] = (),
    *,
    text_is_utf8: bool,
) -> TrioWebSocketTransport:
    """Do the handshake on *stream*; the library's tasks run in *nursery*."""
    host_header, others = split_host(address, tuple(headers))
    inbox = Inbox()
    splitting = SplittingStream(
        stream, inbox, FrameSplitter(max_message_size, text_is_utf8=text_is_utf8)
    )

    async def host(
        task_status: trio.TaskStatus[trio_websocket.WebSocketConnection],
    ) -> None:
        # A nursery around the library's reader task catches its errors: a refusal before `started`,
        # and after that a dropped connection, which `get_message` also reports.
        started = False
        try:
            async with trio.open_nursery() as inner:
                async with trio.open_nursery() as handshake:
                    handshake.start_soon(splitting.raise_when_broken)
                    connection = await trio_websocket.wrap_client_stream(
                        _Guarding(inner),  # type: ignore[arg-type]  # it starts one task
                        splitting,  # type: ignore[arg-type]  # any Stream will do, says its docstring
                        host_header,
                        address.resource,
                        extra_headers=[(name.encode(), value.encode()) for name, value in others],
                        subprotocols=list(subprotocols),
                        message_queue_size=QUEUED_MESSAGES,
                        max_message_size=max_message_size,
                        receive_buffer_size=READ_SIZE,
                    )
                    handshake.cancel_scope.cancel()
                stream.upgraded = started = True
                inner.start_soon(inbox.fetch_from, connection)
                task_status.started(connection)
        except Exception as exc:  # noqa: BLE001 - told apart below
            if started:
                _log.debug("the WebSocket library failed", exc_info=True)
                return
            causes = list(leaves(exc))
            for cause in causes:
                if isinstance(cause, (UpgradeRefused, TransportClosed)):
                    raise cause from None
            cause = causes[0]
            raise TransportClosed(f"the WebSocket handshake failed: {cause}") from cause

    return TrioWebSocketTransport(stream, inbox, await nursery.start(host))


class _Guarding:
    """A nursery for the library's reader task, which lets no interrupt vanish.

    When that task ends it closes a channel, which is a checkpoint: in a scope that is cancelled
    already, `trio.Cancelled` replaces a KeyboardInterrupt or SystemExit on its way out.
    """

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, function: Callable[[], Awaitable[None]]) -> None:
        """Run the task."""
        self._nursery.start_soon(self._run, function)

    async def _run(self, function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except trio.Cancelled as exc:
            replaced: BaseException | None = exc.__context__
            while replaced is not None:
                interrupt = interrupt_in(replaced)
                if interrupt is not None:
                    raise interrupt from None
                replaced = replaced.__context__
            raise


class Inbox:
    """Messages that arrived, from the splitter or from the library, for one reader."""

    def __init__(self) -> None:
        self._messages: list[bytes | str] = []
        self._ended = False
        self._changed = trio.lowlevel.ParkingLot()

    def put(self, messages: Sequence[bytes | str]) -> None:
        """Add *messages*."""
        if messages:
            self._messages += messages
            self._changed.unpark_all()

    async def wait_empty(self) -> None:
        """Wait until the reader has taken everything."""
        while self._messages:
            await self._changed.park()

    async def take(self) -> list[bytes | str]:
        """Wait for messages and take all of them; none at the end."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while not self._messages and not self._ended:
            await self._changed.park()
        messages, self._messages = self._messages, []
        self._changed.unpark_all()
        return messages

    async def fetch_from(self, ws: trio_websocket.WebSocketConnection) -> None:
        """Fetch the messages that the library has assembled, until the connection ends."""
        try:
            while True:
                self.put((await ws.get_message(),))
        except trio_websocket.ConnectionClosed:
            self._ended = True
            self._changed.unpark_all()


class SplittingStream(trio.abc.Stream):
    """The stream that the library reads: everything except messages that are whole in one frame.

    Those messages go to *inbox*, and nothing more is read until they have been taken.
    """

    def __init__(self, stream: WireStream, inbox: Inbox, splitter: FrameSplitter) -> None:
        self._stream = stream
        self._inbox = inbox
        self._splitter = splitter
        self._head: ResponseHead | None = ResponseHead()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Read until there is something for the library."""
        while True:
            if self._head is None:
                messages, others = self._splitter.split(b"")
                self._inbox.put(messages)
                if others:
                    return others
            await self._inbox.wait_empty()
            data = await self._stream.receive_some(max_bytes)
            if not data:
                return data
            if self._head is not None:
                return await self._end_of_head(self._head, data)
            self._splitter.put_back(data)

    async def raise_when_broken(self) -> None:
        """Wait until the connection fails during the handshake, and raise the error."""
        await self._stream.broken.wait()
        raise (self._head or ResponseHead()).broken()

    async def _end_of_head(self, head: ResponseHead, data: bytes | bytearray) -> bytes | bytearray:
        end = head.find_end(data)
        if end < 0:
            return data
        if not head.accepts:
            raise await head.read_refusal(self._stream)
        self._head = None
        # A server may send frames directly after its response; they wait in the splitter.
        self._splitter.put_back(data[end:])
        return data[:end]

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """As the stream below."""
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """As the stream below."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """As the stream below."""
        await self._stream.aclose()


class TrioWebSocketTransport:
    """A `Transport` on trio-websocket."""

    def __init__(
        self, stream: WireStream, inbox: Inbox, ws: trio_websocket.WebSocketConnection
    ) -> None:
        self._stream = stream
        self._inbox = inbox
        self._ws = ws

    @property
    def stuck_since(self) -> float | None:
        """Since when a write makes no progress."""
        return self._stream.stuck_since

    @property
    def pending(self) -> bool:
        """Always False: the library's own task answers control frames."""
        return False

    @property
    def can_send_now(self) -> bool:
        """Always False: the library does not write at once."""
        return False

    def send_now(self, messages: Sequence[Message]) -> None:
        """Not here."""
        raise NotImplementedError

    async def flush(self) -> None:
        """Do nothing: nothing is ever pending."""
        await trio.lowlevel.checkpoint()

    async def send(self, messages: Sequence[Message]) -> None:
        """Write *messages* together: all except the last are held back and sent with it."""
        *most, last = messages
        try:
            if most:
                self._stream.cork()
                try:
                    for message in most:
                        await self._ws.send_message(_for_library(message))
                finally:
                    self._stream.uncork()
            await self._ws.send_message(_for_library(last))
        except trio_websocket.ConnectionClosed as exc:
            raise TransportClosed(self._how_it_ended()) from exc

    async def receive(self) -> Sequence[bytes | str]:
        """Wait for messages."""
        messages = await self._inbox.take()
        if not messages:
            raise TransportClosed(self._how_it_ended())
        return messages

    async def ping(self, wake: Callable[[], None]) -> None:  # noqa: ARG002
        """The library sends it by itself."""
        with contextlib.suppress(trio_websocket.ConnectionClosed):
            await self._ws.ping()

    async def aclose(self) -> None:
        """Close politely."""
        try:
            await self._ws.aclose()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close the socket, which the library leaves open after a close by the peer."""
        with contextlib.suppress(trio.BrokenResourceError):
            await close_now(self._stream)

    def _how_it_ended(self) -> str:
        reason = self._ws.closed
        if reason is None or reason.code == 1006:
            return "the connection broke without a close frame"
        text = f": {reason.reason}" if reason.reason else ""
        return f"the WebSocket was closed with code {reason.code}{text}"


def _for_library(message: Message) -> str | bytes:
    return message.data if message.binary else message.data.decode()
