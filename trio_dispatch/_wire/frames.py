"""Frames, the names of their types and methods, and the error codes.

Both client and server use this module, and it depends on neither. A frame is plain data. The
session decides which frame may follow which (``session``), and the codecs turn frames into bytes
(``codecs``).
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Final

import msgspec


class FrameType:
    """The values of :attr:`Frame.type` (Dispatch Wire Protocol, "Frame types")."""

    REQUEST: Final = "request"
    RESPONSE: Final = "response"
    ERROR: Final = "error"
    EVENT: Final = "event"
    PING: Final = "ping"
    PONG: Final = "pong"


class Method:
    """The methods that today's servers answer."""

    AUTH: Final = "auth"
    JOB_ENQUEUE: Final = "job.enqueue"
    JOB_GET: Final = "job.get"
    JOB_CANCEL: Final = "job.cancel"
    WORKFLOW_START: Final = "workflow.start"
    WORKFLOW_GET: Final = "workflow.get"
    WORKFLOW_TIMELINE: Final = "workflow.timeline"
    WORKFLOW_EVENT: Final = "workflow.event"
    SUBSCRIBE: Final = "subscribe"
    UNSUBSCRIBE: Final = "unsubscribe"
    STATS: Final = "stats"
    FEDERATION_HEARTBEAT: Final = "federation.heartbeat"
    FEDERATION_ENQUEUE: Final = "federation.enqueue"
    FEDERATION_EVENT: Final = "federation.event"


SAFE_METHODS: Final = frozenset(
    {Method.JOB_GET, Method.WORKFLOW_GET, Method.WORKFLOW_TIMELINE, Method.STATS}
)
"""Methods that change nothing, so it is safe to send them twice."""


class ErrorCode(IntEnum):
    """The codes of error frames. Over HTTP RPC they are also the status of the response."""

    BAD_REQUEST = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    METHOD_NOT_ALLOWED = 405
    CONFLICT = 409
    INTERNAL = 500


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """The ``error`` of an error frame."""

    code: int = 0
    message: str = ""
    details: object = None


class Frame(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """One message of the Dispatch Wire Protocol.

    Every field may be absent, and an absent one is empty. ``data`` is anything that msgspec can
    encode; `msgspec.Raw` passes JSON text through untouched (``Raw(b"null")`` sends a null, where
    ``None`` sends no ``data`` at all).

    The repr shows no token: neither `token` nor the ``data`` of an ``auth`` request.
    """

    id: str = ""
    type: str = ""
    method: str = ""
    correl_id: str = ""
    token: str = ""
    app_id: str = ""
    org_id: str = ""
    data: object = None
    error: ErrorBody | None = None
    channel: str = ""
    credits: int = 0
    ts: datetime | None = None

    def __repr__(self) -> str:
        shown: list[str] = []
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, msgspec.Raw):
                value = bytes(value) or None
            if value is None or (name != "data" and not value):
                continue
            secret = name == "token" or (name == "data" and self.method == Method.AUTH)
            shown.append(f"{name}={'<hidden>' if secret else repr(value)}")
        return f"{type(self).__name__}({', '.join(shown)})"


class WireFrame(Frame, frozen=True, omit_defaults=True, kw_only=True):
    """A frame as it arrived: its ``data`` is JSON text that is not decoded yet.

    For most frames only the ids are needed, and the reader of the data knows its type, so decoding
    it here would be wasted work. Empty bytes mean that the frame had no ``data``.
    """

    data: msgspec.Raw = msgspec.Raw()


class Message(msgspec.Struct, frozen=True):
    """One WebSocket message: an encoded frame, and whether it is sent as binary."""

    data: bytes
    binary: bool
