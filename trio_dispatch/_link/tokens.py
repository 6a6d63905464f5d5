"""Where a token comes from: a provider, or a fixed token when there is none or it fails."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable

TokenProvider = Callable[[], "str | Awaitable[str]"]
"""Returns a token, sync or async; asked before every connection attempt."""


async def get_token(
    token: str | None, provider: TokenProvider | None, logger: logging.Logger
) -> str | None:
    """Ask *provider* for a token; return *token* if there is no provider, or it fails."""
    if provider is None:
        return token
    try:
        provided = provider()
        if inspect.isawaitable(provided):
            provided = await provided
        if not isinstance(provided, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a token is a string, not {type(provided).__name__}")
    except Exception:
        logger.warning("the token provider failed; falling back to token=", exc_info=True)
        return token
    return provided
