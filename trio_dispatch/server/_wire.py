"""Frames as the server reads and writes them.

The frame of ``_wire/frames.py``, read as a Dispatch server reads it (``_go_json.py``,
``_go_msgpack.py``), and written with stamps of nanoseconds, which datetimes cannot hold.
"""

from __future__ import annotations

from datetime import datetime
from typing import ClassVar, Final

import msgspec

from trio_dispatch._wire.codecs import NilTimestamp, UndecodableFrame
from trio_dispatch._wire.frames import ErrorBody, FrameType
from trio_dispatch.server._clock import ZERO_TIME, Clock, frame_id, rfc3339
from trio_dispatch.server._go_json import GoStruct, JsonProblem, unmarshal, unmarshal_first
from trio_dispatch.server._go_msgpack import MsgpackProblem, NilTime, encode_text, encode_time
from trio_dispatch.server._go_msgpack import unmarshal as unpack
from trio_dispatch.server._go_text import is_writable, read_time

JSON_FORMAT: Final = "json"
MSGPACK_FORMAT: Final = "msgpack"

_ABSENT: Final = msgspec.Raw()
_ZERO_SECONDS: Final = -62_135_596_800
"""Go's zero time, the year 1."""


class ErrorDetail(GoStruct, frozen=True):
    """The ``error`` of a client's frame, which nobody looks at but to check its types."""

    code: int = 0
    message: str = ""
    details: str = ""


class Incoming(GoStruct, frozen=True):
    """A client's frame. ``data`` and ``ts`` are JSON text, empty where there is none."""

    go_name: ClassVar[str] = "Frame"
    times: ClassVar[frozenset[str]] = frozenset({"ts"})
    go_types: ClassVar[dict[str, str]] = {"type": "dwp.FrameType"}

    id: str = ""
    type: str = ""
    method: str = ""
    correl_id: str = ""
    token: str = ""
    app_id: str = ""
    org_id: str = ""
    data: msgspec.Raw = _ABSENT
    error: ErrorDetail | None = None
    channel: str = ""
    credits: int = 0
    ts: msgspec.Raw = _ABSENT


class PackedIncoming(Incoming, frozen=True):
    """A client's frame that came as msgpack: its time is a moment, and ``ts`` is empty."""

    moment: tuple[int, int] = (_ZERO_SECONDS, 0)
    """Seconds since 1970, and nanoseconds."""


class Outgoing(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """A server's frame, its fields in the order in which Go writes them."""

    id: str
    type: str
    correl_id: str = ""
    data: msgspec.Raw | None = None
    error: ErrorBody | None = None
    channel: str = ""
    ts: str
    moment: tuple[int, int] | None = None
    """The time of a pong in msgpack: it may be one that ``ts`` cannot hold. Never in JSON."""


_PACKED_FIELDS: Final = {
    "id": "text",
    "type": "text",
    "method": "text",
    "correl_id": "text",
    "token": "text",
    "app_id": "text",
    "org_id": "text",
    "data": "bytes",
    "error": {"code": "int", "message": "text", "details": "text"},
    "channel": "text",
    "credits": "int",
    "ts": "time",
}
_encode: Final = msgspec.json.Encoder().encode
_pack: Final = msgspec.msgpack.Encoder().encode
_TIME_EXT: Final = -1


def decode_json(payload: bytes) -> Incoming:
    """Read a JSON frame.

    Raises:
        UndecodableFrame: it is not one.
    """
    try:
        return unmarshal(payload, Incoming)
    except JsonProblem as exc:
        raise UndecodableFrame(str(exc)) from exc


def decode_body(payload: bytes) -> Incoming:
    """Read the JSON frame that a request's body begins with; what follows is ignored.

    Raises:
        UndecodableFrame: it is not one.
    """
    try:
        return unmarshal_first(payload, Incoming)
    except JsonProblem as exc:
        raise UndecodableFrame(str(exc)) from exc


def decode(payload: bytes, format: str) -> Incoming:
    """Read a frame in the session's format.

    Raises:
        NilTimestamp: its time is nil, in msgpack.
        UndecodableFrame: it is not one.
    """
    if format != MSGPACK_FORMAT:
        return decode_json(payload)
    try:
        found = unpack(payload, _PACKED_FIELDS)
    except NilTime as exc:
        raise NilTimestamp(str(exc)) from exc
    except MsgpackProblem as exc:
        raise UndecodableFrame(str(exc)) from exc
    return PackedIncoming(
        id=found.get("id", ""),
        type=found.get("type", ""),
        method=found.get("method", ""),
        token=found.get("token", ""),
        data=msgspec.Raw(found.get("data") or b""),
        credits=found.get("credits", 0),
        moment=found.get("ts", (_ZERO_SECONDS, 0)),
    )


def encode(frame: Outgoing, format: str) -> bytes:
    """Write a frame in the session's format."""
    if format != MSGPACK_FORMAT:
        return _encode(frame)
    fields: dict[str, object] = {"id": frame.id, "type": frame.type}
    if frame.correl_id:
        fields["correl_id"] = encode_text(frame.correl_id)
    if frame.data is not None:
        fields["data"] = bytes(frame.data)
    if frame.error is not None:
        fields["error"] = {"code": frame.error.code, "message": encode_text(frame.error.message)}
    if frame.channel:
        fields["channel"] = frame.channel
    fields["ts"] = msgspec.msgpack.Ext(_TIME_EXT, encode_time(*(frame.moment or _moment(frame.ts))))
    return _pack(fields)


def _moment(ts: str) -> tuple[int, int]:
    """A stamp's seconds since 1970, and nanoseconds."""
    whole, _, fraction = ts.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(f"{whole}+00:00").timestamp())
    return seconds, int(fraction.ljust(9, "0"))


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


def pong(clock: Clock, ping: Incoming) -> Outgoing | None:
    """The answer to *ping*: it carries the ping's own time, Go's zero time where it had none.

    None if there is no answer: Go cannot write each time that it reads.
    """
    ts, moment = ZERO_TIME, None
    if isinstance(ping, PackedIncoming):
        moment = ping.moment
    elif bytes(ping.ts):
        ts = read_time(bytes(ping.ts)[1:-1].decode("latin-1"))
        if not is_writable(ts):
            return None
    now = clock.now()
    return Outgoing(id=frame_id(now), type=FrameType.PONG, correl_id=ping.id, ts=ts, moment=moment)


def event(clock: Clock, topic: str, data: msgspec.Raw) -> Outgoing:
    """An event. Its ``channel`` is its topic, not what was subscribed (protocol, "Events")."""
    now = clock.now()
    return Outgoing(
        id=frame_id(now), type=FrameType.EVENT, data=data, channel=topic, ts=rfc3339(now)
    )
