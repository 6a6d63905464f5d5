"""The server's time: nanoseconds since 1970 that follow another clock.

A Dispatch server stamps frames and rows with nanoseconds. Here every stamp is the wall time at the
server's start plus what the engine's clock has advanced since, so that a server under a virtual
clock lives in virtual time. No two stamps are equal, as no two were in the recordings, and later
stamps are greater: frame ids are made of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Final

NS_PER_SECOND: Final = 1_000_000_000
NS_PER_MS: Final = 1_000_000
ZERO_TIME: Final = "0001-01-01T00:00:00Z"
"""What Go writes for a time that was never set (protocol, "Frame")."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Clock:
    """Strictly increasing stamps, in nanoseconds since 1970.

    Args:
        monotonic: the clock that is followed, in seconds.
        start_ns: the wall time at this moment.
    """

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, start_ns: int | None = None
    ) -> None:
        self._last = 0
        self.follow(monotonic, start_ns)

    def follow(self, monotonic: Callable[[], float], start_ns: int | None = None) -> None:
        """Follow *monotonic* from now on; stamps stay increasing."""
        self._monotonic = monotonic
        self._base = monotonic()
        self._start_ns = time.time_ns() if start_ns is None else start_ns

    def now(self) -> int:
        """A stamp: the time, or one more than the last stamp where that is later."""
        elapsed = int((self._monotonic() - self._base) * NS_PER_SECOND)
        self._last = max(self._start_ns + elapsed, self._last + 1)
        return self._last


# Nearly all stamps of a burst share their second, and strftime costs more than the rest.
@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def rfc3339(ns: int) -> str:
    """Write a stamp as Go does: up to nine digits of fraction, none of them a trailing zero."""
    seconds, fraction = divmod(ns, NS_PER_SECOND)
    if not fraction:
        return f"{_second(seconds)}Z"
    return f"{_second(seconds)}.{fraction:09d}".rstrip("0") + "Z"


def rfc3339_seconds(ns: int) -> str:
    """Write a stamp cut to seconds, as ``next_run_at`` is (protocol, "Events")."""
    return f"{_second(ns // NS_PER_SECOND)}Z"


def to_microseconds(ns: int) -> int:
    """A stamp without its last three digits, which databases do not keep."""
    return ns // 1000 * 1000


def frame_id(ns: int) -> str:
    """The id of a frame made at *ns*: ``YYYYMMDDhhmmss`` and nine digits of fraction."""
    seconds, fraction = divmod(ns, NS_PER_SECOND)
    text = _second(seconds)
    return f"{text[:4]}{text[5:7]}{text[8:10]}{text[11:13]}{text[14:16]}{text[17:]}.{fraction:09d}"


def to_datetime(ns: int) -> datetime:
    """A stamp as an aware datetime, to the microsecond."""
    return _EPOCH + timedelta(microseconds=ns // 1000)
