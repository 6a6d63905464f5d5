"""A WebSocket session: one frame after another.

Three tasks share a connection. The reader takes bytes off the stream, so that it notices when the
client leaves; the writer writes what is queued; and the handler carries out one frame after the
other, so that a ``workflow.start`` holds up everything behind it, pings and the closing handshake
included, but no event (protocol, "Session"). The session lives as long as its handler: a client
that leaves has its queued requests carried out all the same.
"""

from __future__ import annotations

import logging
from typing import Final

import trio
from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame as WebSocketFrame
from websockets.protocol import State
from websockets.server import ServerProtocol

from trio_dispatch._transport.websocket.header import Opcode
from trio_dispatch._wire.codecs import NilTimestamp, UndecodableFrame
from trio_dispatch._wire.frames import ErrorCode, FrameType, Method
from trio_dispatch.server import _wire
from trio_dispatch.server._broker import PublishedEvent, Subscriber
from trio_dispatch.server._closing import close_reply
from trio_dispatch.server._framing import BrokenFrame, FrameBuffer, opcode_of
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._methods import Caller
from trio_dispatch.server._requests import AuthRequest, InvalidRequest, read_request
from trio_dispatch.server._views import ConnectionView
from trio_dispatch.server._writer import MessageWriter

_READ_SIZE: Final = 64 * 1024
_INPUT_ROOM: Final = 1024 * 1024
"""Bytes that may wait to be handled, besides the message that is being received."""
_FLUSH_S: Final = 5.0
_LINGER_S: Final = 1.0
"""How long the client may take to see the last frame before the connection is torn down."""


class _Drop(Exception):
    """The connection is to be dropped, without a close frame."""


def _quiet(parent: logging.Logger) -> logging.Logger:
    """A logger that is in no registry: the library's log shows frames, and in them tokens."""
    logger = logging.Logger(f"{parent.name}.websocket", level=logging.WARNING)  # noqa: LOG001
    logger.parent = parent
    return logger


class WebSocketSession:
    """One upgraded connection. `run` is its life."""

    def __init__(self, hub: Hub, stream: trio.abc.Stream) -> None:
        self._hub = hub
        self._stream = stream
        self._protocol = ServerProtocol(
            state=State.OPEN,
            max_size=hub.max_message_size,
            logger=_quiet(hub.logger),
        )
        self._input = FrameBuffer(hub.max_message_size)
        self._input_changed = trio.Event()
        self._handling_ended = False
        self._peer_gone = False
        self._opcode = Opcode.TEXT
        self._fragments: list[bytes] = []
        self._subscriber = Subscriber(self._deliver, hub.quirks)
        self._writer = MessageWriter(self._subscriber.sent)
        self._caller: Caller | None = None
        self._session_id = ""
        self._format = _wire.JSON_FORMAT
        self._frames = 0

    def view(self) -> ConnectionView:
        """A frozen copy of the session's state."""
        caller = self._caller
        return ConnectionView(
            session_id=self._session_id,
            transport="websocket",
            format=self._format,
            subject=caller.identity.subject if caller is not None else "",
            channels=frozenset(self._subscriber.topics),
            credits=self._subscriber.credits,
            frames=self._frames,
            events_delivered=self._subscriber.delivered,
            events_dropped=self._subscriber.dropped,
            blocked=caller is not None and caller.blocked,
            peer_gone=self._peer_gone,
        )

    async def run(self) -> None:
        """Serve the session. Leaves the stream to be closed by the caller."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read)
            nursery.start_soon(self._writer.write_to, self._stream)
            try:
                await self._handle()
            except (_Drop, BrokenFrame) as exc:
                self._hub.logger.debug("connection dropped: %s", exc)
            finally:
                self._hub.broker.detach(self._subscriber)
                self._hub.connections.pop(self, None)
            await self._part()
            nursery.cancel_scope.cancel()

    # Reading

    async def _read(self) -> None:
        try:
            while True:
                while self._is_input_full() and not self._handling_ended:
                    await self._input_changed.wait()
                data = await self._stream.receive_some(_READ_SIZE)
                if not data:
                    break
                if not self._handling_ended:
                    self._input.feed(data)
                    self._notify_input()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            self._peer_gone = True
            self._notify_input()

    def _is_input_full(self) -> bool:
        # A message that has begun is read to its end, whatever its size.
        return len(self._input) > _INPUT_ROOM and self._input.holds_frame

    def _notify_input(self) -> None:
        self._input_changed.set()
        self._input_changed = trio.Event()

    async def _next_frame(self) -> bytes | None:
        while True:
            frame = self._input.next_frame()
            if frame is not None:
                self._notify_input()
                return frame
            if self._peer_gone:
                return None
            await self._input_changed.wait()

    # Handling

    async def _handle(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            await self._writer.wait_room()
            data = await self._next_frame()
            if data is None:
                return
            if opcode_of(data) == Opcode.CLOSE:
                self._writer.put(close_reply(data))
                return
            self._protocol.receive_data(data)
            error = self._protocol.parser_exc
            if error is not None and not isinstance(error, PayloadTooBig):
                # A broken frame, and the core would say so; a Dispatch server just drops TCP
                # (protocol, "WebSocket").
                raise _Drop(str(error))
            self._writer.put(b"".join(self._protocol.data_to_send()))
            for event in self._protocol.events_received():
                if isinstance(event, WebSocketFrame):  # and not a handshake: that is long over
                    await self._take_frame(event)
            if self._protocol.state is not State.OPEN:
                return

    async def _take_frame(self, frame: WebSocketFrame) -> None:
        opcode = Opcode(frame.opcode)
        if opcode >= Opcode.CLOSE:
            return
        if opcode is not Opcode.CONTINUATION:
            self._opcode = opcode
        if frame.data:  # of empty ones there may be any number
            self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        payload = b"".join(self._fragments)
        self._fragments.clear()
        if self._opcode is Opcode.TEXT:
            try:
                payload.decode("utf-8")
            except UnicodeDecodeError as exc:
                raise _Drop(f"text that is not UTF-8: {exc}") from exc
        self._frames += 1
        if self._caller is None:
            self._caller = await self._authenticate(payload)
        else:
            await self._take_message(self._caller, payload)

    async def _take_message(self, caller: Caller, payload: bytes) -> None:
        clock = self._hub.clock
        try:
            frame = _wire.decode(payload, self._format)
        except NilTimestamp as exc:
            raise _Drop(str(exc)) from exc
        except UndecodableFrame as exc:
            self._hub.methods.frames += 1
            message = f"invalid frame: {exc}"
            self._send(_wire.error(clock, None, ErrorCode.BAD_REQUEST, message))
            return
        if frame.type == FrameType.PING:
            # It wins over method and credits; no other type is looked at (protocol, "Frame").
            self._hub.methods.frames += 1
            pong = _wire.pong(clock, frame)
            if pong is not None:
                self._send(pong)
            return
        answer = await self._hub.methods.answer(caller, frame)
        if answer is not None:
            self._send(answer)

    async def _authenticate(self, payload: bytes) -> Caller:
        """Take the first message, which must be ``auth`` and is always JSON."""
        hub = self._hub
        hub.methods.frames += 1
        try:
            frame = _wire.decode_json(payload)
        except UndecodableFrame as exc:
            raise self._refusal(None, ErrorCode.BAD_REQUEST, "invalid auth frame") from exc
        if frame.method != Method.AUTH:
            raise self._refusal(frame, ErrorCode.BAD_REQUEST, "first frame must be auth")
        try:
            auth = read_request(frame.data, AuthRequest) if bytes(frame.data) else AuthRequest()
        except InvalidRequest as exc:
            raise self._refusal(frame, ErrorCode.BAD_REQUEST, "invalid auth data") from exc
        rule = await hub.steering.meet(Method.AUTH)
        if rule is not None and rule.code is not None:
            raise self._refusal(frame, rule.code, rule.message)
        identity = await hub.authenticate(auth.token or frame.token)
        if identity is None:
            raise self._refusal(frame, ErrorCode.UNAUTHORIZED, "authentication failed")
        if auth.format == _wire.MSGPACK_FORMAT:
            self._format = _wire.MSGPACK_FORMAT
        self._session_id = f"ws_{hub.clock.now()}"
        hub.broker.attach(self._subscriber)
        hub.connections[self] = None
        answer = {"format": self._format, "session_id": self._session_id}
        self._send(_wire.response(hub.clock, frame, answer))
        return Caller(identity=identity, subscriber=self._subscriber)

    def _refusal(self, frame: _wire.Incoming | None, code: int, message: str) -> _Drop:
        # One error frame, then TCP drops with no close frame (recording `auth_refused`).
        self._send(_wire.error(self._hub.clock, frame, code, message))
        if not self._hub.quirks.drops_refused:
            self._protocol.send_close(1008, message)
            self._writer.put(b"".join(self._protocol.data_to_send()))
        return _Drop(message)

    # Writing

    def _send(self, frame: _wire.Outgoing, *, event: bool = False) -> None:
        # Text, whatever the format: msgpack travels under the TEXT opcode (protocol, "msgpack").
        if self._format == _wire.JSON_FORMAT or self._hub.quirks.msgpack_as_text:
            self._protocol.send_text(_wire.encode(frame, self._format))
        else:
            self._protocol.send_binary(_wire.encode(frame, self._format))
        self._writer.put(b"".join(self._protocol.data_to_send()), event=event)

    def _deliver(self, event: PublishedEvent) -> None:
        if self._protocol.state is State.OPEN:
            channel = event.topic
            if not self._hub.quirks.topics_as_channels:
                channels = self._hub.broker.channels_of(event)
                channel = next(c for c in channels if c in self._subscriber.topics)
            self._send(_wire.event(self._hub.clock, channel, event.encoded), event=True)
        else:
            self._subscriber.sent()

    async def _part(self) -> None:
        """Let the last frames go out, then close the sending side and wait for the client's."""
        self._handling_ended = True
        self._input.clear()
        self._notify_input()
        with trio.move_on_after(_FLUSH_S):
            await self._writer.flushed()
        if self._peer_gone or not isinstance(self._stream, trio.abc.HalfCloseableStream):
            return
        # Closing at once, with bytes unread, would reset the connection, and the client might lose
        # the frame that says why.
        with trio.move_on_after(_LINGER_S):
            try:
                await self._stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError):
                return
            while not self._peer_gone:
                await self._input_changed.wait()
