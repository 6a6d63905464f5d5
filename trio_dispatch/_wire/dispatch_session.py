"""The session of the Dispatch Wire Protocol; ``session`` explains the theory of operation."""

# The table of transitions follows the class, because it names the methods of the class.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from trio_dispatch._wire.codecs import JSON, Codec, decode_leniently, object_text
from trio_dispatch._wire.errors import ProtocolError
from trio_dispatch._wire.frames import ErrorBody, Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.session import (
    FrameSession,
    Outcome,
    Owed,
    Push,
    Ready,
    Refused,
    State,
    Stray,
)

FULL_CREDITS: Final = 1_000_000
"""Credits granted when a session begins, and renewed whenever half of them are spent."""

EARLY_PINGS: Final = 4
"""How many of the pings before the answer to ``auth`` get a pong: the last ones."""


class _AuthAnswer(msgspec.Struct, frozen=True):
    format: str = ""
    session_id: str = ""


_auth_decoder: Final = msgspec.json.Decoder(_AuthAnswer)


def _only_grants(frame: Frame) -> bool:
    """Return whether servers treat *frame* as a grant of credits, which they do not answer.

    They check for the type ``ping`` first, and the method last (protocol, "Frame", "Credits").
    """
    return frame.credits > 0 and frame.type != FrameType.PING


class DispatchSession(FrameSession):
    """A session of the Dispatch Wire Protocol.

    Args:
        codecs: the formats to offer, the preferred one first.
    """

    def __init__(self, *codecs: Codec) -> None:
        super().__init__(JSON)
        self._formats = {codec.name: codec for codec in codecs or (JSON,)}
        self._wish = next(iter(self._formats))
        self._early_pings: deque[WireFrame] = deque(maxlen=EARLY_PINGS)
        self._credits = 0

    def start(self, token: str | None) -> Outcome | None:
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
        # The answer already uses the agreed format, so until it arrives both are expected: the
        # binary codecs recognize JSON by its first byte.
        self._codec = self._formats[self._wish]
        return None

    def _request_encoding(self, frame: Frame) -> str:
        if _only_grants(frame):
            raise ValueError(
                "servers never answer a frame with credits: send it without waiting for an answer"
            )
        return super()._request_encoding(frame)

    def send(self, frame: Frame) -> None:
        """Send *frame* without waiting for the answer, which will be a `Stray`."""
        self._expect(State.READY)
        if not _only_grants(frame):
            self._send_tracked(frame, Owed.HANDLER)
            return
        if not frame.id:
            # If the server refuses it anyway, the error names it and cannot be mistaken for
            # another request's.
            frame = msgspec.structs.replace(frame, id=self._new_id())
        self._queue(self._encode(frame))

    def forget(self, id: str) -> None:
        """Stop waiting for the answer to *id*. The request stays in flight until it is answered."""
        if id in self._unanswered:
            self._unanswered[id] = Owed.NOBODY

    def grant(self, credits: int) -> None:
        """Let the server send *credits* more events. The frame goes ahead of all requests."""
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
        # The pong waits: the answer to auth decides the format, so nothing may be sent before.
        self._early_pings.append(frame)

    def _on_event(self, frame: WireFrame) -> Outcome:
        self._credits -= 1
        if self._credits <= FULL_CREDITS // 2:
            self.grant(FULL_CREDITS - self._credits)
        return Push(frame)

    def _whose(self, frame: WireFrame) -> str | None:
        # Answers come in order of arrival, so this one belongs to the oldest request. A response
        # without correl_id answers a frame without id, and this client sends none (rule 2).
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
"""Every (state, type) pair that the protocol allows; all others are mistakes of the server."""

_ACTIONS: Final = {
    state: {type: action for (at, type), action in _TRANSITIONS.items() if at is state}
    for state in State
}
"""The same pairs, grouped by state."""
