"""The protocol of one connection: what its bytes mean, and which bytes to send. No I/O.

Theory of operation
===================

A session is the part of the protocol that needs no I/O. It lives as long as one connection. Its
owner does two things with it. It passes every message that arrives to `receive` and acts on the
list of outcomes that this returns. And it writes the messages that `data_to_send` returns, in
order. `request` does not write: it only encodes a frame and remembers that an answer is due.

There are two sessions. `FrameSession` works for any server whose messages are frames with ``id``
and ``correl_id``: it correlates answers with requests. `DispatchSession`, in its own module, adds
the Dispatch Wire Protocol: it authenticates, switches formats and grants credits.

The rules:

1. **Each request gets one answer.** It stays in ``_unanswered`` from `request` until the answer
   arrives, even if its caller has lost interest (`forget`): a late answer is recognized and
   dropped.
2. **Dispatch answers everything, in the order of arrival** (protocol, "Frame"). Hence an error
   without ``correl_id`` belongs to the oldest unanswered frame. Only frames with credits have no
   answer, so they are not remembered.
3. **All transitions of Dispatch are in one table**, in ``dispatch_session``: what a frame of a
   given type means in a given state. For a pair that is not in the table, the other side broke the
   protocol, and the session raises `ProtocolError`. Mistakes of this client raise `InternalError`.
4. **The session's own frames go first**: pings, pongs and credits precede requests in
   `data_to_send` (measured: a grant behind 10,000 queued requests came too late).
5. **A violation of the protocol ends the session.** An undecodable message may have been the answer
   to any request, so answers can no longer be matched with requests.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from datetime import datetime
from enum import Enum
from typing import Any, Final

import msgspec

from trio_dispatch._wire.codecs import JSON, Codec, UndecodableFrame
from trio_dispatch._wire.errors import DispatchError, InternalError, ProtocolError, request_error
from trio_dispatch._wire.frames import (
    ErrorBody,
    Frame,
    FrameType,
    Message,
    Method,
    WireFrame,
)

LATE_ANSWERS: Final = 4_096
"""How many forgotten requests a `FrameSession` remembers, to drop their answers silently."""

UNSENT_PONGS: Final = 64
"""The most pongs that wait to be written. If a peer sends more pings than it reads pongs, it gets
the pongs for its latest pings.
"""

UNSENT_PONG_BYTES: Final = 64 * 1024
"""The most bytes of pongs that wait to be written; the last one may be larger."""


class State(str, Enum):
    """The state of a session. A string, because each frame looks it up and strings hash quickly."""

    NEW = "new"
    """Nothing has been sent."""
    AUTHENTICATING = "authenticating"
    """``auth`` has been sent; nothing else may be sent."""
    READY = "ready"
    CLOSED = "closed"
    """The connection is over, the session was refused, or the other side broke the protocol.
    Messages that still arrive are ignored.
    """


class Ready(msgspec.Struct, frozen=True):
    """The session is established."""

    session_id: str | None
    format: str
    ts: datetime | None


class Refused(msgspec.Struct, frozen=True):
    """The server refused the session, and will drop the connection."""

    error: ErrorBody | DispatchError


class Answer(msgspec.Struct, frozen=True):
    """The response to a request whose caller still waits."""

    id: str
    frame: Any


class Failure(msgspec.Struct, frozen=True):
    """The error that answers a request whose caller still waits."""

    id: str
    error: ErrorBody | Exception


class Part(msgspec.Struct, frozen=True):
    """An answer to a request that gets more of them."""

    id: str
    frame: Any


class Skipped(msgspec.Struct, frozen=True):
    """A message that means nothing, and was skipped."""

    why: str


class Pong(msgspec.Struct, frozen=True):
    """The answer to `FrameSession.ping`."""

    id: str


class Push(msgspec.Struct, frozen=True):
    """An event that the server sent by itself."""

    frame: Any


class Stray(msgspec.Struct, frozen=True):
    """A frame that is neither an answer nor an event."""

    frame: Any


Outcome = Ready | Refused | Answer | Part | Failure | Pong | Push | Stray | Skipped


class Owed(Enum):
    """Who gets the answer to an unanswered frame."""

    CALLER = 0
    NOBODY = 1
    """The request was forgotten; its answer is dropped."""
    HEARTBEAT = 2
    HANDLER = 3
    """The frame was sent without asking for an answer; if one arrives, it is a stray."""


class FrameSession:
    """Correlation of frames by ``id`` and ``correl_id``, independent of their meaning."""

    window: int | None = 256
    """Requests in flight; a Dispatch server works through them one after another."""

    def __init__(self, codec: Codec = JSON) -> None:
        self._codec = codec
        self._state = State.NEW
        self._urgent: list[Message] = []
        self._pongs: deque[Message] = deque()
        self._pong_bytes = 0
        self._requests: list[Message] = []
        self._request_bytes = 0
        self._unanswered: dict[str, Owed] = {}
        self._late: OrderedDict[str, None] = OrderedDict()
        self._ids = itertools.count(1)
        self.last_ts: datetime | None = None
        """The server's clock at the last frame that included it."""

    @property
    def state(self) -> State:
        """The state of the session."""
        return self._state

    @property
    def in_flight(self) -> int:
        """How many written frames have no answer yet."""
        return len(self._unanswered)

    @property
    def has_urgent_data(self) -> bool:
        """Whether the session has frames of its own to send."""
        return bool(self._urgent or self._pongs)

    @property
    def bytes_to_send(self) -> int:
        """The size of the requests that `data_to_send` would return now."""
        return self._request_bytes

    def start(self, token: str | None) -> Outcome | None:  # noqa: ARG002 (for ``auth``)
        """Begin. The session of a server without ``auth`` is ready at once."""
        self._expect(State.NEW)
        self._state = State.READY
        return Ready(None, "", None)

    def request(self, frame: Frame, text: bytes | None = None) -> str:
        """Send *frame* and expect its answer.

        Args:
            frame: what to send.
            text: its JSON text, if it is already known; used if the frame has no id and the format
                is JSON.

        Returns:
            The frame's id; a frame without one gets one.

        Raises:
            ValueError: a frame with the same id is still unanswered, even if it was forgotten; or,
                for Dispatch, *frame* grants credits, which servers never answer.
        """
        self._expect(State.READY)
        if text is None or frame.id or frame.credits or self._codec is not JSON:
            return self._request_encoding(frame)
        id = self._new_id()
        self._unanswered[id] = Owed.CALLER
        encoded = JSON.with_id(text, id)
        self._requests.append(Message(encoded, False))
        self._request_bytes += len(encoded)
        return id

    def _request_encoding(self, frame: Frame) -> str:
        """`request`, for a frame whose text cannot be used as it is."""
        return self._send_tracked(frame, Owed.CALLER)

    def send(self, frame: Frame) -> None:
        """Send *frame* and expect no answer. If one arrives, it is a `Stray`."""
        self._expect(State.READY)
        self._queue(self._encode(frame))

    def ping(self) -> str:
        """Send a ping ahead of all requests. Returns its id, which the `Pong` will name."""
        self._expect(State.READY)
        frame = Frame(id=self._new_id(), type=FrameType.PING)
        self._unanswered[frame.id] = Owed.HEARTBEAT
        self._urgent.append(self._encode(frame))
        return frame.id

    def forget(self, id: str) -> None:
        """Stop waiting for the answer to *id*: it is dropped when it arrives."""
        if self._unanswered.pop(id, None) is not None:
            # This server may not answer everything. A request without an answer must not stay in
            # flight, but a late answer is still recognized for a while.
            self._remember_late(id)

    def data_to_send(self) -> list[Message]:
        """Take the messages to write now, in order."""
        data, self._requests, self._request_bytes = self._requests, [], 0
        if self._urgent or self._pongs:
            data = [*self._urgent, *self._pongs, *data]
            self._urgent, self._pong_bytes = [], 0
            self._pongs.clear()
        return data

    def receive(self, payload: bytes | str) -> list[Outcome]:
        """Process one message and return what it means.

        Raises:
            ProtocolError: the message is not a frame, or not one that may arrive now. The session
                cannot continue.
        """
        if self._state is State.CLOSED:
            return []
        try:
            outcome = self._act(self._decode(payload))
        except ProtocolError:
            self._state = State.CLOSED
            raise
        return [] if outcome is None else [outcome]

    def _decode(self, payload: bytes | str) -> WireFrame:
        try:
            frame = self._codec.decode(payload)
        except UndecodableFrame as exc:
            raise ProtocolError(f"the server sent a message that is not a frame: {exc}") from exc
        if frame.ts is not None and frame.type != FrameType.PONG:
            # A pong returns the ping's ts, or the zero time (protocol, "Frame").
            self.last_ts = frame.ts
        return frame

    def lost(self) -> list[str]:
        """End the session, because the connection is over.

        Returns:
            The ids of written requests whose callers still wait: it is unknown whether the server
            carried them out.
        """
        self._state = State.CLOSED
        ids = [id for id, owed in self._unanswered.items() if owed is Owed.CALLER]
        self._unanswered.clear()
        self.data_to_send()
        return ids

    # Errors.

    def error_for(self, failure: Failure, message: Frame) -> Exception:
        """Make the error for the caller of the request *message*."""
        if isinstance(failure.error, Exception):
            return failure.error
        return request_error(failure.error, message.method)

    def refusal(self, refused: Refused) -> Exception:
        """Make the error of a refused session."""
        if isinstance(refused.error, Exception):
            return refused.error
        return request_error(refused.error, Method.AUTH)

    def answered(self, id: str) -> None:
        """Do nothing: every request here has one answer, which ends it."""

    def leave(self, request: Frame) -> None:
        """Do nothing: no request here has several answers."""

    # What a frame of a type means. The DWP session checks its state first.

    def _act(self, frame: WireFrame) -> Outcome | None:
        if frame.type == FrameType.PING:
            return self._on_ping(frame)
        if frame.type == FrameType.EVENT:
            return Push(frame)
        if frame.correl_id or frame.type == FrameType.ERROR:
            return self._on_answer(frame)
        return Stray(frame)

    def _on_answer(self, frame: WireFrame) -> Outcome | None:
        id = frame.correl_id or self._whose(frame)
        if id is None:
            return Stray(frame)
        owed = self._unanswered.pop(id, None)
        if owed is None:
            return self._unowed(id, frame)
        if owed is Owed.CALLER:
            if frame.type == FrameType.ERROR or frame.error is not None:
                return Failure(id, frame.error or ErrorBody())
            return Answer(id, frame)
        if owed is Owed.HEARTBEAT:
            return Pong(id)
        return Stray(frame) if owed is Owed.HANDLER else None

    def _whose(self, frame: WireFrame) -> str | None:  # noqa: ARG002 (types differ in DWP)
        """Return the unanswered frame that an answer without ``correl_id`` belongs to."""
        for id, owed in self._unanswered.items():
            if owed is not Owed.HEARTBEAT:
                return id
        return None

    def _unowed(self, id: str, frame: WireFrame) -> Outcome | None:
        if id in self._late:
            del self._late[id]
            return None
        return Stray(frame)

    def _remember_late(self, id: str) -> None:
        self._late[id] = None
        if len(self._late) > LATE_ANSWERS:
            self._late.popitem(last=False)

    def _on_ping(self, frame: WireFrame) -> Outcome | None:
        pong = Frame(id=self._new_id(), type=FrameType.PONG, correl_id=frame.id, ts=frame.ts)
        try:
            payload = self._encode(pong)
        except ValueError:  # msgpack cannot encode the first and last hours of the calendar
            payload = self._encode(msgspec.structs.replace(pong, ts=None))
        self._put_pong(payload)
        # No answer is due. Today's server would refuse a pong as an unknown method (recording
        # "frames"), although it never sends a ping. Such an answer is ignored.
        self._remember_late(pong.id)
        return None

    def _put_pong(self, pong: Message) -> None:
        """Queue *pong*; if the peer sends pings and does not read, the oldest pongs are dropped."""
        self._pong_bytes += len(pong.data)
        while self._pongs and (
            len(self._pongs) >= UNSENT_PONGS or self._pong_bytes > UNSENT_PONG_BYTES
        ):
            self._pong_bytes -= len(self._pongs.popleft().data)
        self._pongs.append(pong)

    # Helpers.

    def _send_tracked(self, frame: Frame, owed: Owed) -> str:
        if not frame.id:
            frame = msgspec.structs.replace(frame, id=self._new_id())
        elif frame.id in self._unanswered or frame.id in self._late:
            # The late answer to the first would be mistaken for the answer to this one.
            raise ValueError(
                f"a frame with the id {frame.id!r} is still unanswered; use another id"
            )
        payload = self._encode(frame)
        self._unanswered[frame.id] = owed
        self._queue(payload)
        return frame.id

    def _queue(self, payload: Message) -> None:
        self._requests.append(payload)
        self._request_bytes += len(payload.data)

    def _new_id(self) -> str:
        id = f"t{next(self._ids)}"
        while id in self._unanswered or id in self._late:  # a caller has chosen the same id
            id = f"t{next(self._ids)}"
        return id

    def _encode(self, frame: Frame) -> Message:
        return Message(self._codec.encode(frame), self._codec.binary)

    def _expect(self, state: State) -> None:
        if self._state is not state:
            raise InternalError(f"the session is {self._state.value}, not {state.value}")
