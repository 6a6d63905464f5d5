"""Where a token comes from: a provider, or a fixed token if there is none or it fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

from trio_dispatch._wire.arguments import check_text
from trio_dispatch._wire.errors import ConnectFailed

TokenProvider = Callable[[], "str | Awaitable[str]"]
"""Returns a token, sync or async; asked before every connection attempt."""


def check_token(token: object) -> str:
    """Return *token* if it can stand in an HTTP header. Errors never show it.

    Raises:
        TypeError: it is no string.
        ValueError: it is empty, or holds white space, control characters or non-ASCII ones.
    """
    text = check_text(token, "a token")
    for at, char in enumerate(text):
        if not "!" <= char <= "~":
            raise ValueError(
                f"a token goes in an HTTP header, which cannot hold U+{ord(char):04X}, "
                f"its character {at + 1} of {len(text)}; was it read from a file with a line break?"
            )
    return text


async def get_token(
    token: str | None, provider: TokenProvider | None, logger: logging.Logger
) -> str | None:
    """Ask *provider* for a token; return *token* if there is no provider, or it fails.

    Raises:
        ConnectFailed: the provider failed, and there is no *token*. Connecting without one would
            only show a false "refused".
    """
    if provider is None:
        return token
    try:
        provided = provider()
        if inspect.isawaitable(provided):
            provided = await provided
        return check_token(provided)
    except Exception as exc:
        if token is None:
            raise ConnectFailed(
                f"the token provider failed, and there is no token= instead: "
                f"{type(exc).__name__}: {exc}"
            ) from exc
        logger.warning("the token provider failed; falling back to token=", exc_info=True)
        return token
