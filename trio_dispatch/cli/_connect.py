"""Reaching the server that the user named: the options for it, and the client."""

from __future__ import annotations

import logging
import warnings
from contextlib import AbstractAsyncContextManager
from typing import Annotated, TypeAlias

from cyclopts import Parameter

from trio_dispatch import Client, InsecureTokenWarning, open_client
from trio_dispatch.cli._exits import UsageError, complain

UrlOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        name="--url",
        env_var="DISPATCH_URL",
        help="The server's WebSocket, ws://host:port/dwp or wss://….",
    ),
]
TokenOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        name="--token",
        env_var="DISPATCH_TOKEN",
        help="The token. The environment is the better place for it: others see arguments.",
        show_default=False,
    ),
]


def connect(url: str, token: str | None) -> AbstractAsyncContextManager[Client]:
    """Open a client for one command: a lost connection ends it.

    Raises:
        UsageError: that is no URL of a server.
    """
    logger = logging.getLogger("trio_dispatch.cli")
    logger.addHandler(logging.NullHandler())  # what matters is told by errors
    logger.propagate = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InsecureTokenWarning)
        try:
            client = open_client(url, token=token or None, reconnect=False, logger=logger)
        except (TypeError, ValueError) as exc:
            raise UsageError(f"--url: {exc}") from exc
    for warning in caught:
        complain(f"warning: {warning.message}")
    return client
