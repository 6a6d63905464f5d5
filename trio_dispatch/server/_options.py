"""The options that servers and clusters share, checked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import cast

import attrs

from trio_dispatch.server._identity import Identity, Tokens
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._workers import WorkerOptions


@attrs.frozen(kw_only=True)
class Options:
    """What a server is made with."""

    tokens: Tokens = attrs.field(repr=False)
    path: str
    queues: frozenset[str] | None
    workers: WorkerOptions
    quirks: Quirks
    federation_id: str | None
    max_message_size: int
    keep: int


def check_options(
    tokens: Tokens,
    *,
    path: str,
    queues: Collection[str] | None,
    concurrency: int,
    retry_delay: float,
    max_retry_delay: float,
    quirks: Quirks,
    max_message_size: int,
    keep: int,
    federation_id: str | None = None,
) -> Options:
    """Check a server's options.

    Raises:
        TypeError, ValueError: one of them cannot work.
    """
    _check_tokens(tokens)
    if not path.startswith("/"):
        raise ValueError("path must begin with a slash")
    if isinstance(queues, str):
        raise TypeError("queues must be a collection of names, not one string")
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    if retry_delay < 0 or max_retry_delay < 0:
        raise ValueError("retry delays must not be negative")
    if max_message_size < 1:
        raise ValueError("max_message_size must be positive")
    if keep < 0:
        raise ValueError("keep must not be negative")
    return Options(
        tokens=tokens,
        path=path,
        queues=None if queues is None else frozenset(queues),
        workers=WorkerOptions(
            concurrency=concurrency, retry_delay=retry_delay, max_retry_delay=max_retry_delay
        ),
        quirks=quirks,
        federation_id=federation_id,
        max_message_size=max_message_size,
        keep=keep,
    )


def _check_tokens(tokens: object) -> None:
    if callable(tokens):
        return
    if not isinstance(tokens, Mapping):
        raise TypeError(
            "tokens must be a mapping from tokens to identities, or a function from a token to its "
            f"identity, not {type(tokens).__name__}"
        )
    pairs = cast("Mapping[object, object]", tokens)
    for number, (token, identity) in enumerate(pairs.items(), 1):
        # The token is a secret, and so it is not shown.
        if not isinstance(token, str):
            raise TypeError(f"token {number} must be a string, not {type(token).__name__}")
        if not isinstance(identity, Identity):
            raise TypeError(
                f"token {number} must stand for an Identity, such as "
                f"Identity(scopes={{'*'}}), not {type(identity).__name__}"
            )
