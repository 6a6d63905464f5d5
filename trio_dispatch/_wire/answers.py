"""HTTP answers from something else than a Dispatch server: a proxy, a redirect, a refused upgrade.

This module describes each in one line, for a message or a log. It never quotes a page of HTML, it
shows a URL without its secrets, and it hides the token if an answer repeats it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final

from trio_dispatch._wire.url import without_secrets

SHOWN: Final = 200
"""The most characters of a body that are shown."""

Headers = Sequence[tuple[str, str]]

_HTML: Final = re.compile(r"\s*(<!doctype html|<html|<head|<body|<h\d|<p>|<center)", re.IGNORECASE)


def describe_answer(
    status: int,
    reason: str = "",
    headers: Headers = (),
    body: bytes = b"",
    *,
    secrets: Iterable[str] = (),
) -> str:
    """Describe an answer in one line, such as ``HTTP 502 Bad Gateway (an HTML page)``.

    Args:
        status: its status.
        reason: its reason phrase; the usual one if it has none.
        headers: its headers, for ``Location``, ``Retry-After`` and ``Content-Type``.
        body: its beginning, or all of it.
        secrets: texts to hide.
    """
    known = {name.lower(): value for name, value in headers}
    text = f"HTTP {status} {_one_line(reason) or _usual_reason(status)}".rstrip()
    location = known.get("location")
    if location is not None and 300 <= status < 400:
        place = _one_line(without_secrets(location))
        text += f", a redirect to {place}, which is not followed"
    wait = known.get("retry-after")
    if wait is not None:
        text += f" (Retry-After: {_one_line(wait)[:40]})"
    said = _words(known.get("content-type", ""), body)
    if said.startswith("("):
        text += f" {said}"
    elif said and said not in text:
        text += f": {said}"
    for secret in secrets:
        if secret:
            text = text.replace(secret, "…")
    return text


def retry_after(headers: Headers, now: datetime | None = None) -> float | None:
    """Read the seconds to wait from a ``Retry-After``. None if it is missing or invalid.

    Args:
        headers: the answer's headers.
        now: the present time, aware; used if the header is a date.
    """
    value = next((value for name, value in headers if name.lower() == "retry-after"), "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:12])
    try:
        date = parsedate_to_datetime(value)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max((date - (now or datetime.now(timezone.utc))).total_seconds(), 0.0)


def _words(content_type: str, body: bytes) -> str:
    """Return the first words of a body."""
    text = body[: 4 * SHOWN].decode("utf-8", "replace")
    if "html" in content_type.lower() or _HTML.match(text):
        return "(an HTML page)"
    text = _one_line(text)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


def _one_line(text: str) -> str:
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())


def _usual_reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
