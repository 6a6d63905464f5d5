"""A log of what a server does: requests, what becomes of jobs and runs, tokens that are refused."""

from __future__ import annotations

import logging
from typing import Final

import attrs
import msgspec

from trio_dispatch.server import _wire
from trio_dispatch.server._broker import PublishedEvent
from trio_dispatch.server._identity import Identity

OK: Final = 200
UNAUTHORIZED: Final = 401
LONGEST: Final = 200
"""Characters of a name that are logged."""


@attrs.frozen(kw_only=True)
class RequestRecord:
    """A request, and how it was answered.

    Attributes:
        method: the method.
        about: the name, id or channel that it is about; empty where it has none.
        subject: who asked.
        code: 200, or that of the error.
        message: the error's; empty where there is none.
        seconds: from the request to its answer.
    """

    method: str
    about: str
    subject: str
    code: int
    message: str
    seconds: float


class _About(msgspec.Struct):
    """The fields that say what a request is about."""

    name: object = None
    job_id: object = None
    run_id: object = None
    channel: object = None


_read_about: Final = msgspec.json.Decoder(_About).decode


class Activity:
    """Writes to the logger *parent*``.activity``, at level INFO.

    Each log record has what it tells of as its attribute ``activity``: a `RequestRecord` or a
    `PublishedEvent`. It costs next to nothing while nobody wants it.
    """

    def __init__(self, parent: logging.Logger) -> None:
        self.logger = parent.getChild("activity")

    @property
    def wanted(self) -> bool:
        """Whether anybody reads it."""
        return self.logger.isEnabledFor(logging.INFO)

    def request(
        self,
        identity: Identity,
        frame: _wire.Incoming,
        answer: _wire.Outgoing | None,
        seconds: float,
    ) -> None:
        """Log a request."""
        if not frame.method:
            return  # credits
        error = None if answer is None else answer.error
        found = RequestRecord(
            method=frame.method,
            about=_about(frame.data),
            subject=identity.subject,
            code=OK if error is None else error.code,
            message="" if error is None else error.message,
            seconds=seconds,
        )
        self._write(
            f"{found.method} {found.about} by {found.subject or '-'}: {found.code} "
            f"{found.message or 'OK'} ({1000 * seconds:.1f} ms)",
            found,
        )

    def refused_token(self) -> None:
        """Log that a token was refused; which one is nobody's business."""
        found = RequestRecord(
            method="auth",
            about="",
            subject="",
            code=UNAUTHORIZED,
            message="the token is not known",
            seconds=0.0,
        )
        self._write("a token was refused: it is not known", found)

    def event(self, event: PublishedEvent) -> None:
        """Log an event that is published."""
        name = event.data.get("job_name") or event.data.get("name") or ""
        self._write(f"{event.type} {name} {event.topic}", event)

    def _write(self, text: str, about: RequestRecord | PublishedEvent) -> None:
        # Names come from clients, and a line of a log is one line.
        safe = text if text.isprintable() else ascii(text)[1:-1]
        self.logger.info("%s", safe, extra={"activity": about})


def _about(data: msgspec.Raw) -> str:
    if not bytes(data):
        return ""
    try:
        found = _read_about(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    for value in (found.name, found.job_id, found.run_id, found.channel):
        if isinstance(value, str) and value:
            return value[:LONGEST]
    return ""
