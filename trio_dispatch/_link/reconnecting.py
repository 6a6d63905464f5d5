"""When to connect again, and when to give up (design rule 5). No I/O, and no clock."""

from __future__ import annotations

import random
from typing import Final

from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._wire.errors import AuthError, ConnectFailed, DispatchError

MAX_REFUSALS: Final = 5
"""Refusals in a row after which no token provider is believed to bring a better token."""


class Reconnecting:
    """Counts what happened to connections, and decides what follows."""

    def __init__(self, settings: LinkSettings) -> None:
        self._settings = settings
        self._failures = 0
        """Attempts in a row without a session."""
        self._refusals = 0
        """Tokens refused in a row."""
        self._first = True
        """Whether there was no session yet."""

    def lost(self, reason: DispatchError) -> DispatchError | None:
        """A session has ended. Returns the error to give up with; None to connect again."""
        self._first = False
        self._failures = self._refusals = 0
        return self._verdict(reason)

    def failed(self, reason: DispatchError) -> DispatchError | None:
        """An attempt ended without a session. Returns as `lost` does."""
        self._failures += 1
        self._refusals = self._refusals + 1 if isinstance(reason, AuthError) else 0
        return self._verdict(reason)

    def _verdict(self, error: DispatchError) -> DispatchError | None:
        settings = self._settings
        if self._refusals:
            if self._first or settings.token_provider is None or self._refusals >= MAX_REFUSALS:
                return error
        if self._first and settings.fail_first_connect:
            return error if isinstance(error, ConnectFailed) else _as_connect_failed(error)
        if not settings.reconnect:
            return error
        if settings.max_reconnect_attempts is not None:
            if self._failures >= settings.max_reconnect_attempts + (1 if self._first else 0):
                return error
        return None

    def delay(self) -> float:
        """Seconds until the next attempt: exponential backoff.

        The jitter spreads clients that lost the same server at once.
        """
        settings = self._settings
        high = settings.min_reconnect_delay * 2.0 ** min(self._failures + 1, 64)
        high = min(high, settings.max_reconnect_delay)
        low = max(settings.min_reconnect_delay, high / 2)
        return random.uniform(min(low, high), high)


def _as_connect_failed(error: DispatchError) -> DispatchError:
    if isinstance(error, AuthError):
        return error
    failed = ConnectFailed(str(error))
    failed.__cause__ = error
    return failed
