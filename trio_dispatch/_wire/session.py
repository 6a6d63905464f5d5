"""What the bytes of one connection mean, and which bytes to send.

Theory of operation
===================

A session is the whole of the protocol that needs no I/O. It lives as long as one connection. Its
owner does two things with it: it hands over every message that arrives (`receive`) and acts on
the list of outcomes that comes back, and it writes whatever `data_to_send` returns, in order.
Asking the session to send something only encodes it and remembers that it is owed an answer.

There are two of them. `FrameSession` is what any server needs whose messages are frames with
``id`` and ``correl_id``: it correlates answers with requests. `DispatchSession` adds the Dispatch
Wire Protocol: it authenticates, switches formats, grants credits, and answers pings.

The rules:

1. **A request is owed one answer.** It stays in ``_unanswered`` from `request` until that answer
   comes, whoever lost interest meanwhile (`forget`): a late answer is recognized and dropped.
2. **Dispatch answers everything, in the order of arrival** (protocol, "Frame"). Hence an error
   without ``correl_id`` belongs to the oldest unanswered frame. Credits frames alone have no
   answer, and are not remembered.
3. **All transitions are in one table**, `_TRANSITIONS`: what a frame of a given type means in a
   given state. A pair that is not in it is a breach of the protocol by the other side, and raises
   `ProtocolError`; our own mistakes raise `InternalError`.
4. **What the session itself has to say goes first**: pings, pongs and credits precede requests in
   `data_to_send` (measured: a grant behind 10,000 queued requests came too late).
5. **A breach of the protocol ends the session.** An undecodable message may have been anybody's
   answer, so nothing that is owed one can be told apart any more.
"""

# The table of transitions stands behind the class whose methods it names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

import itertools
from collections import deque
from datetime import datetime
from enum import Enum
from typing import Final

import msgspec

from trio_dispatch._wire.codecs import (
    JSON,
    Codec,
    UndecodableFrame,
    decode_leniently,
    object_text,
)
from trio_dispatch._wire.errors import InternalError, ProtocolError
from trio_dispatch._wire.frames import (
    ErrorBody,
    Frame,
    FrameType,
    Message,
    Method,
    WireFrame,
)

FULL_CREDITS: Final = 1_000_000
"""Credits granted when a session begins; topped up whenever half of them are spent."""

LATE_ANSWERS: Final = 4_096
"""How many forgotten requests a `FrameSession` remembers, to drop their answers quietly."""


class State(str, Enum):
    """Where a session stands. Strings, as these are looked up for every frame, and hash quickly."""

    NEW = "new"
    """Nothing has been sent."""
    AUTHENTICATING = "authenticating"
    """``auth`` has been sent; nothing else may be."""
    READY = "ready"
    CLOSED = "closed"
    """The connection is over, the session was refused, or the other side broke the protocol.
    Whatever still comes is ignored.
    """


class Ready(msgspec.Struct, frozen=True):
    """The session is established."""

    session_id: str | None
    format: str
    ts: datetime | None


class Refused(msgspec.Struct, frozen=True):
    """The server refused ``auth``, and will drop the connection."""

    error: ErrorBody


class Answer(msgspec.Struct, frozen=True):
    """The response to a request that is still waited for."""

    id: str
    frame: WireFrame


class Failure(msgspec.Struct, frozen=True):
    """The error that answers a request that is still waited for."""

    id: str
    error: ErrorBody


class Pong(msgspec.Struct, frozen=True):
    """The answer to `FrameSession.ping`."""

    id: str


class Push(msgspec.Struct, frozen=True):
    """An event that the server sent unasked."""

    frame: WireFrame


class Stray(msgspec.Struct, frozen=True):
    """A frame that answers nothing and is no event."""

    frame: WireFrame


Outcome = Ready | Refused | Answer | Failure | Pong | Push | Stray


class _Owed(Enum):
    """Who is owed the answer to an unanswered frame."""

    CALLER = 0
    NOBODY = 1
    """The request was forgotten; its answer is dropped."""
    HEARTBEAT = 2
    HANDLER = 3
    """The frame was sent without asking for an answer, which will be a stray one."""


class FrameSession:
    """Correlation of frames by ``id`` and ``correl_id``, with no word about their meaning."""

    def __init__(self, codec: Codec = JSON) -> None:
        self._codec = codec
        self._state = State.NEW
        self._urgent: list[Message] = []
        self._requests: list[Message] = []
        self._request_bytes = 0
        self._unanswered: dict[str, _Owed] = {}
        self._late: deque[str] = deque(maxlen=LATE_ANSWERS)
        self._ids = itertools.count(1)
        self.last_ts: datetime | None = None
        """The server's clock at the last frame that named it."""

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @property
    def in_flight(self) -> int:
        """How many frames are written and owed an answer."""
        return len(self._unanswered)

    @property
    def has_urgent_data(self) -> bool:
        """Whether the session itself has something to say."""
        return bool(self._urgent)

    @property
    def bytes_to_send(self) -> int:
        """The size of the requests that `data_to_send` would return now."""
        return self._request_bytes

    def start(self, token: str | None) -> None:  # noqa: ARG002 (for sessions with ``auth``)
        """Begin. The session of a server without ``auth`` is ready at once."""
        self._expect(State.NEW)
        self._state = State.READY

    def request(self, frame: Frame, text: bytes | None = None) -> str:
        """Send *frame* and expect its answer.

        Args:
            frame: what to send.
            text: its JSON text, if that is known already; used where the frame has no id, and the
                format is JSON.

        Returns:
            The frame's id; a frame without one gets one.

        Raises:
            ValueError: a frame of the same id is still unanswered; or, for Dispatch, *frame* grants
                credits, which servers never answer.
        """
        self._expect(State.READY)
        if text is None or frame.id or frame.credits or self._codec is not JSON:
            return self._request_encoding(frame)
        id = self._new_id()
        self._unanswered[id] = _Owed.CALLER
        encoded = JSON.with_id(text, id)
        self._requests.append(Message(encoded, False))
        self._request_bytes += len(encoded)
        return id

    def _request_encoding(self, frame: Frame) -> str:
        """`request`, for a frame whose text cannot be used as it is."""
        return self._send_tracked(frame, _Owed.CALLER)

    def send(self, frame: Frame) -> None:
        """Send *frame*, expecting nothing. Whatever answers it is a `Stray`."""
        self._expect(State.READY)
        self._queue(self._encode(frame))

    def ping(self) -> str:
        """Send a ping ahead of all requests. Returns its id, which the `Pong` will name."""
        self._expect(State.READY)
        frame = Frame(id=self._new_id(), type=FrameType.PING)
        self._unanswered[frame.id] = _Owed.HEARTBEAT
        self._urgent.append(self._encode(frame))
        return frame.id

    def forget(self, id: str) -> None:
        """Nobody waits for the answer to *id* any more: drop it when it comes."""
        if self._unanswered.pop(id, None) is not None:
            # Nothing promises that this server answers everything; what it never answers must
            # not stay in flight, and what it does answer is recognized for a while.
            self._late.append(id)

    def data_to_send(self) -> list[Message]:
        """Take the messages to write now, in order."""
        data = self._urgent + self._requests
        self._urgent, self._requests, self._request_bytes = [], [], 0
        return data

    def receive(self, payload: bytes | str) -> list[Outcome]:
        """Take one message and say what it means.

        Raises:
            ProtocolError: the message is not a frame, or no frame that may come now. The session
                cannot go on.
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
        """The connection is over.

        Returns:
            The ids of written requests whose callers still wait: their fate is unknown.
        """
        self._state = State.CLOSED
        ids = [id for id, owed in self._unanswered.items() if owed is _Owed.CALLER]
        self._unanswered.clear()
        self.data_to_send()
        return ids

    # What a frame of a type means. The DWP session puts states in front of this.

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
        if owed is _Owed.CALLER:
            if frame.type == FrameType.ERROR or frame.error is not None:
                return Failure(id, frame.error or ErrorBody())
            return Answer(id, frame)
        if owed is _Owed.HEARTBEAT:
            return Pong(id)
        return Stray(frame) if owed is _Owed.HANDLER else None

    def _whose(self, frame: WireFrame) -> str | None:  # noqa: ARG002 (types differ in DWP)
        """Which unanswered frame an answer without ``correl_id`` belongs to."""
        for id, owed in self._unanswered.items():
            if owed is not _Owed.HEARTBEAT:
                return id
        return None

    def _unowed(self, id: str, frame: WireFrame) -> Outcome | None:
        if id in self._late:
            self._late.remove(id)
            return None
        return Stray(frame)

    def _on_ping(self, frame: WireFrame) -> Outcome | None:
        pong = Frame(id=self._new_id(), type=FrameType.PONG, correl_id=frame.id, ts=frame.ts)
        try:
            payload = self._encode(pong)
        except ValueError:  # msgpack has no form for the first and last hours of the calendar
            payload = self._encode(msgspec.structs.replace(pong, ts=None))
        self._urgent.append(payload)
        # No answer is due. Today's server would refuse a pong as an unknown method (recording
        # "frames"), though it never sends the ping; such an answer is nobody's business.
        self._late.append(pong.id)
        return None

    # Helpers.

    def _send_tracked(self, frame: Frame, owed: _Owed) -> str:
        if not frame.id:
            frame = msgspec.structs.replace(frame, id=self._new_id())
        elif frame.id in self._unanswered:
            raise ValueError(f"a frame with the id {frame.id!r} is still unanswered")
        payload = self._encode(frame)
        self._unanswered[frame.id] = owed
        self._queue(payload)
        return frame.id

    def _queue(self, payload: Message) -> None:
        self._requests.append(payload)
        self._request_bytes += len(payload.data)

    def _new_id(self) -> str:
        id = f"t{next(self._ids)}"
        while id in self._unanswered:  # a caller has chosen it for a frame of its own
            id = f"t{next(self._ids)}"
        return id

    def _encode(self, frame: Frame) -> Message:
        return Message(self._codec.encode(frame), self._codec.binary)

    def _expect(self, state: State) -> None:
        if self._state is not state:
            raise InternalError(f"the session is {self._state.value}, not {state.value}")


class _AuthAnswer(msgspec.Struct, frozen=True):
    format: str = ""
    session_id: str = ""


_auth_decoder: Final = msgspec.json.Decoder(_AuthAnswer)


def _only_grants(frame: Frame) -> bool:
    """Whether servers take *frame* for a grant of credits, which has no answer.

    They look at the type ``ping`` first, and at the method last (protocol, "Frame", "Credits").
    """
    return frame.credits > 0 and frame.type != FrameType.PING


class DispatchSession(FrameSession):
    """A session of the Dispatch Wire Protocol.

    Args:
        codecs: the formats that may be agreed on, the wished-for one first.
    """

    def __init__(self, *codecs: Codec) -> None:
        super().__init__(JSON)
        self._formats = {codec.name: codec for codec in codecs or (JSON,)}
        self._wish = next(iter(self._formats))
        self._early_pings: list[WireFrame] = []
        self._credits = 0

    def start(self, token: str | None) -> None:
        """Authenticate: the first frame, and always JSON text (protocol, "Session")."""
        self._expect(State.NEW)
        self._state = State.AUTHENTICATING
        auth = Frame(
            id=self._new_id(),
            type=FrameType.REQUEST,
            method=Method.AUTH,
            data={"token": token or "", "format": self._wish},
        )
        self._queue(self._encode(auth))
        # The answer comes in the agreed format already, so until it does both are expected:
        # the binary codecs recognize JSON by its first byte.
        self._codec = self._formats[self._wish]

    def _request_encoding(self, frame: Frame) -> str:
        if _only_grants(frame):
            raise ValueError("a frame with credits is never answered: send it without waiting")
        return super()._request_encoding(frame)

    def send(self, frame: Frame) -> None:
        """Send *frame*, for whose answer nobody waits: it comes back as a `Stray`."""
        self._expect(State.READY)
        if not _only_grants(frame):
            self._send_tracked(frame, _Owed.HANDLER)
            return
        if not frame.id:
            # Should the server refuse it all the same, the error names it, and is nobody else's.
            frame = msgspec.structs.replace(frame, id=self._new_id())
        self._queue(self._encode(frame))

    def forget(self, id: str) -> None:
        """Nobody waits for the answer to *id* any more. It stays in flight until it is answered."""
        if id in self._unanswered:
            self._unanswered[id] = _Owed.NOBODY

    def grant(self, credits: int) -> None:
        """Let the server send *credits* events more; goes ahead of all requests."""
        self._expect(State.READY)
        self._credits += credits
        frame = Frame(id=self._new_id(), type=FrameType.REQUEST, credits=credits)
        self._urgent.append(self._encode(frame))

    # The transitions.

    def _act(self, frame: WireFrame) -> Outcome | None:
        actions = _ACTIONS[self._state]
        action = actions.get(frame.type) or actions.get("*")
        if action is None:
            raise ProtocolError(
                f"the server sent a frame of type {frame.type!r} while {self._state.value}"
            )
        return action(self, frame)

    def _on_auth_response(self, frame: WireFrame) -> Outcome:
        try:
            answer = decode_leniently(object_text(frame.data), _auth_decoder)
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            raise ProtocolError(f"the answer to auth cannot be read: {exc}") from exc
        format = answer.format or self._wish
        if format not in self._formats:
            raise ProtocolError(f"the server chose a format that was not offered: {format!r}")
        self._codec = self._formats[format]
        self._state = State.READY
        self.grant(FULL_CREDITS)
        for ping in self._early_pings:
            self._on_ping(ping)
        self._early_pings.clear()
        return Ready(answer.session_id or None, format, frame.ts)

    def _on_auth_error(self, frame: WireFrame) -> Outcome:
        self._state = State.CLOSED
        return Refused(frame.error or ErrorBody())

    def _on_early_ping(self, frame: WireFrame) -> None:
        # The pong waits: nothing may go out until the answer to auth has settled the format.
        self._early_pings.append(frame)

    def _on_event(self, frame: WireFrame) -> Outcome:
        self._credits -= 1
        if self._credits <= FULL_CREDITS // 2:
            self.grant(FULL_CREDITS - self._credits)
        return Push(frame)

    def _whose(self, frame: WireFrame) -> str | None:
        # In order of arrival, so it is the oldest's; a response without correl_id answers a frame
        # without id, and we send none (rule 2).
        if frame.type != FrameType.ERROR:
            return None
        return next(iter(self._unanswered), None)

    def _on_other(self, frame: WireFrame) -> Outcome | None:
        return self._on_answer(frame) if frame.correl_id else Stray(frame)


_TRANSITIONS: Final = {
    # (state,               type of frame):     what it means
    (State.AUTHENTICATING, FrameType.RESPONSE): DispatchSession._on_auth_response,
    (State.AUTHENTICATING, FrameType.ERROR): DispatchSession._on_auth_error,
    (State.AUTHENTICATING, FrameType.PING): DispatchSession._on_early_ping,
    (State.READY, FrameType.RESPONSE): DispatchSession._on_answer,
    (State.READY, FrameType.ERROR): DispatchSession._on_answer,
    (State.READY, FrameType.PONG): DispatchSession._on_answer,
    (State.READY, FrameType.EVENT): DispatchSession._on_event,
    (State.READY, FrameType.PING): DispatchSession._on_ping,
    (State.READY, "*"): DispatchSession._on_other,
}
"""Every (state, type) pair that the protocol allows; all others are the server's mistake."""

_ACTIONS: Final = {
    state: {type: action for (at, type), action in _TRANSITIONS.items() if at is state}
    for state in State
}
"""The same by state."""
