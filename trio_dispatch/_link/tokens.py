"""The source of tokens: a provider, or a fixed token if there is no provider or it fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from trio_dispatch._wire.arguments import check_text
from trio_dispatch._wire.errors import AuthError, ConnectFailed, DispatchError, RequestError

E = TypeVar("E", bound=RequestError)

TokenProvider = Callable[[], "str | Awaitable[str]"]
"""A function, sync or async, that returns a token; called before every connection attempt."""


def check_token(token: object) -> str:
    """Return *token* if it is valid in an HTTP header. Errors never show it.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, or contains white space, control or non-ASCII characters.
    """
    text = check_text(token, "a token")
    for at, char in enumerate(text):
        if not "!" <= char <= "~":
            raise ValueError(
                f"a token goes in an HTTP header, which cannot hold U+{ord(char):04X}, "
                f"its character {at + 1} of {len(text)}; was it read from a file with a line break?"
            )
    return text


def explain_refusal(error: E, token: str | None) -> E:
    """If no token was given, add that to the error of a refused session."""
    if token is None and isinstance(error, AuthError) and error.details is None:
        error.details = "no token was given: pass token= or token_provider="
        error.args = (error.code, error.message, error.details, error.method)
    return error


class Tokens:
    """Returns the token for each attempt to connect.

    Args:
        token: the fixed token; with a provider, the token to use if the provider fails.
        provider: called before each attempt.
        patience: seconds for the provider, if there is a token to fall back to.
        logger: logs failures of the provider.
    """

    def __init__(
        self,
        token: str | None,
        provider: TokenProvider | None,
        patience: float,
        logger: logging.Logger,
    ) -> None:
        self._token = token
        self._provider = provider
        self._patience = patience
        self._log = logger
        self._failure: Exception | None = None
        """The error because of which the last token is not the provider's."""

    async def get(self) -> str | None:
        """Return the provider's token; the fixed one if there is no provider, or it fails.

        Raises:
            ConnectFailed: the provider failed, and there is no fixed token. An attempt without a
                token would only fail with a misleading "refused".
        """
        self._failure = None
        if self._provider is None:
            return self._token
        try:
            with trio.fail_after(float("inf") if self._token is None else self._patience):
                provided = self._provider()
                if inspect.isawaitable(provided):
                    provided = await provided
                return check_token(provided)
        except Exception as exc:
            if self._token is None:
                raise ConnectFailed(
                    "the token provider failed, and there is no token= instead: "
                    f"{type(exc).__name__}: {exc}"
                ) from exc
            self._failure = exc
            self._log.warning("the token provider failed; falling back to token=", exc_info=True)
            return self._token

    def judge(self, reason: DispatchError) -> DispatchError:
        """Check why an attempt failed: a refused fallback token means that the provider failed.

        So it counts as a failed attempt, not as a refusal. (A few refusals end a client.)
        """
        if not isinstance(reason, AuthError) or self._failure is None:
            return reason
        error = ConnectFailed(
            f"{reason}: this was token=, because the token provider failed: "
            f"{type(self._failure).__name__}: {self._failure}"
        )
        error.__cause__ = reason
        return error
