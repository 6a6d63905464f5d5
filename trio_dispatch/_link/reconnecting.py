"""When to reconnect, and when to give up. This module has no I/O and no clock."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._wire.errors import AuthError, ConnectFailed, DispatchError

MAX_REFUSALS: Final = 5
"""How many refusals in a row end a client that has a token provider."""


class Reconnecting:
    """Counts lost connections and failed attempts, and decides whether to reconnect.

    Args:
        settings: how often to try again.
        first: whether there was no session yet, so that the first failure may end the client.
    """

    def __init__(self, settings: LinkSettings, *, first: bool = True) -> None:
        self._settings = settings
        self._failures = 0
        """Attempts in a row without a session, or with one that was lost at once."""
        self._delay = 0.0
        """The delay before the present attempt, in seconds."""
        self._refusals = 0
        """How many tokens were refused in a row."""
        self._first = first
        """Whether there was no session yet."""

    def lost(self, reason: DispatchError, lasted: float) -> DispatchError | None:
        """A session has ended. Returns the error to give up with; None to reconnect.

        A session that was shorter than the delay before it counts as a failed attempt. (Measured
        without this rule: 20 attempts in 3 s to a server that drops each session at once.)

        Args:
            reason: why it ended.
            lasted: how many seconds the session lasted.
        """
        self._first = False
        self._failures = 0 if lasted >= self._delay else self._failures + 1
        self._refusals = 0
        return self._verdict(reason)

    def failed(self, reason: DispatchError) -> DispatchError | None:
        """An attempt ended without a session. Returns the same as `lost`.

        One attempt tries each address of the list once.
        """
        self._failures += 1
        self._refusals = self._refusals + 1 if isinstance(reason, AuthError) else 0
        return self._verdict(reason)

    def _verdict(self, error: DispatchError) -> DispatchError | None:
        settings = self._settings
        if self._refusals:
            # Only a provider can return a better token.
            if settings.token_provider is None or self._refusals >= MAX_REFUSALS:
                return error
        if self._first and settings.fail_first_connect:
            return error if isinstance(error, ConnectFailed) else _as_connect_failed(error)
        if not settings.reconnect:
            return error
        if settings.max_reconnect_attempts is not None:
            if self._failures >= settings.max_reconnect_attempts + (1 if self._first else 0):
                return error
        return None

    def delay(self, reason: DispatchError | None = None) -> float:
        """Return the seconds until the next attempt: exponential backoff with jitter.

        The jitter spreads the attempts of clients that lost the same server. If the server asked
        for a longer delay, that is used, up to ``max_reconnect_delay``.

        Args:
            reason: why the connection was lost, or could not be made.
        """
        settings = self._settings
        high = settings.min_reconnect_delay * 2.0 ** min(self._failures + 1, 64)
        high = min(high, settings.max_reconnect_delay)
        low = max(settings.min_reconnect_delay, high / 2)
        asked = reason.retry_after if isinstance(reason, ConnectFailed) else None
        asked = min(asked or 0.0, settings.max_reconnect_delay)
        self._delay = max(random.uniform(min(low, high), high), asked)
        return self._delay


def together(reasons: Sequence[DispatchError]) -> DispatchError:
    """Combine the reasons why the addresses of a list could not be reached into one."""
    last = reasons[-1]
    texts = list(dict.fromkeys(str(reason) for reason in reasons))
    if len(texts) == 1 or isinstance(last, AuthError):
        return last
    # The list is tried again when the first of its servers may be available again.
    waits = [reason.retry_after for reason in reasons if isinstance(reason, ConnectFailed)]
    known = [wait for wait in waits if wait is not None]
    error = ConnectFailed("; ".join(texts), min(known) if len(known) == len(reasons) else None)
    error.__cause__ = last
    return error


def _as_connect_failed(error: DispatchError) -> DispatchError:
    if isinstance(error, AuthError):
        return error
    failed = ConnectFailed(str(error))
    failed.__cause__ = error
    return failed
