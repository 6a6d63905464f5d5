"""Who a caller is, and which scope each method needs (protocol, "Methods")."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Final, TypeAlias

import attrs

ALL_SCOPES: Final = "*"
ADMIN_SCOPE: Final = "admin"
SUBSCRIBE_SCOPE: Final = "subscribe"


def _scopes(value: Iterable[str]) -> frozenset[str]:
    if isinstance(value, str):
        raise TypeError("scopes must be a collection of strings, not one string")
    return frozenset(value)


@attrs.frozen(kw_only=True)
class Identity:
    """What a token stands for.

    ``app_id`` and ``org_id`` are stored with the jobs, runs and events that the caller makes.
    Scopes are ``job:read``, ``job:write``, ``workflow:read``, ``workflow:write``, ``subscribe``,
    ``stats:read``, ``cron:read``, ``dlq:read``, ``dlq:write``, ``admin`` and ``*`` for all.
    """

    subject: str = ""
    app_id: str = ""
    org_id: str = ""
    scopes: frozenset[str] = attrs.field(default=frozenset(), converter=_scopes)

    def allows(self, scope: str) -> bool:
        """Whether the identity has *scope*."""
        return scope in self.scopes or ALL_SCOPES in self.scopes


Authenticator: TypeAlias = Callable[[str], "Identity | Awaitable[Identity | None] | None"]
"""A function from a token to what it stands for, None for a token that is refused."""

Tokens: TypeAlias = "Mapping[str, Identity] | Authenticator"


async def authenticate(tokens: Tokens, token: str, logger: logging.Logger) -> Identity | None:
    """Find out what *token* stands for; None when it is refused, or the authenticator raises."""
    if not callable(tokens):
        return tokens.get(token)
    try:
        found = tokens(token)
        return await found if inspect.isawaitable(found) else found
    except Exception:
        logger.warning("the authenticator raised; the token is refused", exc_info=True)
        return None


METHOD_SCOPES: Final[Mapping[str, str]] = {
    "job.enqueue": "job:write",
    "job.get": "job:read",
    "job.cancel": "job:write",
    "job.list": "job:read",
    "workflow.start": "workflow:write",
    "workflow.get": "workflow:read",
    "workflow.timeline": "workflow:read",
    "workflow.event": "workflow:write",
    "workflow.cancel": "workflow:write",
    "workflow.replay": "workflow:write",
    "subscribe": SUBSCRIBE_SCOPE,
    "unsubscribe": SUBSCRIBE_SCOPE,
    "stats": "stats:read",
    "cron.list": "cron:read",
    "dlq.list": "dlq:read",
    "dlq.replay": "dlq:write",
}
_WRITE_SCOPED_PREFIXES: Final = ("job.", "workflow.", "dlq.")


def scope_of(method: str) -> str | None:
    """The scope that *method* needs, None for ``auth``, which needs none.

    Names that no server knows need a scope too, and are refused for the lack of it before they are
    refused for being unknown (recording ``scopes``).
    """
    if method == "auth":
        return None
    known = METHOD_SCOPES.get(method)
    if known is not None:
        return known
    if method.startswith(_WRITE_SCOPED_PREFIXES):
        return f"{method.partition('.')[0]}:write"
    return ADMIN_SCOPE
