"""Frames as the server reads and writes them.

The frame of ``_frames.py`` with two differences, both about ``ts``: a server's stamps have
nanoseconds, which datetimes cannot hold, and a client's must be RFC 3339 to the letter and is sent
back in a pong as it came (recording ``frames``). So ``ts`` is text here.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Final

import msgspec

from trio_dispatch._wire.codecs import MsgpackCodec, UndecodableFrame, decode_leniently
from trio_dispatch._wire.frames import ErrorBody, Frame, FrameType
from trio_dispatch.server._clock import ZERO_TIME, Clock, frame_id, rfc3339

JSON_FORMAT: Final = "json"
MSGPACK_FORMAT: Final = "msgpack"

_RFC3339: Final = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII
)
_ABSENT: Final = msgspec.Raw()


class Incoming(msgspec.Struct, frozen=True, kw_only=True):
    """A client's frame. ``data`` is JSON text, empty where there is none."""

    id: str = ""
    type: str = ""
    method: str = ""
    correl_id: str = ""
    token: str = ""
    app_id: str = ""
    org_id: str = ""
    data: msgspec.Raw = _ABSENT
    error: ErrorBody | None = None
    channel: str = ""
    credits: int = 0
    ts: str = ""


class Outgoing(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A server's frame, its fields in the order in which Go writes them."""

    id: str
    type: str
    correl_id: str = ""
    data: msgspec.Raw | None = None
    error: ErrorBody | None = None
    channel: str = ""
    ts: str


_incoming: Final = msgspec.json.Decoder(Incoming)
_encode: Final = msgspec.json.Encoder().encode
_msgpack: Final = MsgpackCodec(strict=True)


def decode_json(payload: bytes) -> Incoming:
    """Read a JSON frame.

    Raises:
        UndecodableFrame: it is not one.
    """
    try:
        frame = decode_leniently(payload, _incoming)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise UndecodableFrame(str(exc)) from exc
    if frame.ts:
        _check_ts(frame.ts)
    return frame


def _check_ts(text: str) -> None:
    if _RFC3339.fullmatch(text):
        try:
            msgspec.convert(text, datetime)
            return
        except msgspec.ValidationError:
            pass
    layout = "2006-01-02T15:04:05Z07:00"
    raise UndecodableFrame(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"')


def decode(payload: bytes, format: str) -> Incoming:
    """Read a frame in the session's format.

    Raises:
        UndecodableFrame: it is not one.
    """
    if format != MSGPACK_FORMAT:
        return decode_json(payload)
    frame = _msgpack.decode(payload)
    return Incoming(
        id=frame.id,
        type=frame.type,
        method=frame.method,
        token=frame.token,
        data=frame.data,
        credits=frame.credits,
        ts=frame.ts.isoformat().replace("+00:00", "Z") if frame.ts is not None else "",
    )


def encode(frame: Outgoing, format: str) -> bytes:
    """Write a frame in the session's format."""
    if format != MSGPACK_FORMAT:
        return _encode(frame)
    return _msgpack.encode(
        Frame(
            id=frame.id,
            type=frame.type,
            correl_id=frame.correl_id,
            data=frame.data,
            error=frame.error,
            channel=frame.channel,
            ts=msgspec.convert(frame.ts, datetime),
        )
    )


def response(clock: Clock, request: Incoming, data: object) -> Outgoing:
    """The answer to *request*."""
    now = clock.now()
    return Outgoing(
        id=frame_id(now),
        type=FrameType.RESPONSE,
        correl_id=request.id,
        data=msgspec.Raw(_encode(data)),
        ts=rfc3339(now),
    )


def error(clock: Clock, request: Incoming | None, code: int, message: str) -> Outgoing:
    """The refusal of *request*, of one that could not be read where it is None."""
    now = clock.now()
    return Outgoing(
        id=frame_id(now),
        type=FrameType.ERROR,
        correl_id=request.id if request is not None else "",
        error=ErrorBody(code=code, message=message),
        ts=rfc3339(now),
    )


def pong(clock: Clock, ping: Incoming) -> Outgoing:
    """The answer to *ping*: it carries the ping's own ``ts``, Go's zero time where it had none."""
    return Outgoing(
        id=frame_id(clock.now()),
        type=FrameType.PONG,
        correl_id=ping.id,
        ts=ping.ts or ZERO_TIME,
    )


def event(clock: Clock, topic: str, data: msgspec.Raw) -> Outgoing:
    """An event. Its ``channel`` is its topic, not what was subscribed (protocol, "Events")."""
    now = clock.now()
    return Outgoing(
        id=frame_id(now), type=FrameType.EVENT, data=data, channel=topic, ts=rfc3339(now)
    )
