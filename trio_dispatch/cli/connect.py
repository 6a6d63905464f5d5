"""Reaching the server that the user named: the options for it, and the client."""

from __future__ import annotations

import getpass
import importlib
import logging
import warnings
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeAlias

from cyclopts import Parameter

from trio_dispatch import Client, InsecureTokenWarning, open_client
from trio_dispatch.cli.exits import Exit, UsageError, complain, run_async

DEFAULT_URL: Final = "ws://localhost:8080/dwp"

UrlOption: TypeAlias = Annotated[
    str | None,
    Parameter(
        name="--url",
        env_var="DISPATCH_URL",
        help="The server: ws://host:port/dwp, wss://…, or http://… where only HTTP gets through.",
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


@Parameter(name="*")
@dataclass(frozen=True)
class ServerOptions:
    """Which server, and with which token."""

    url: UrlOption = None
    token: TokenOption = None
    token_file: Annotated[
        Path | None, Parameter(name="--token-file", help="A file that holds the token.")
    ] = None
    ask_token: Annotated[
        bool,
        Parameter(
            name="--ask-token", negative=(), show_default=False, help="Ask for the token, unseen."
        ),
    ] = False
    keyring: Annotated[
        bool,
        Parameter(
            name="--keyring",
            negative=(),
            show_default=False,
            help="Take the token from the system's keyring; asked for, and kept, the first time.",
        ),
    ] = False

    @property
    def address(self) -> str:
        """The URL."""
        return self.url or DEFAULT_URL

    def find_token(self) -> str | None:
        """The token, from wherever the user said.

        Raises:
            UsageError: it cannot be had.
        """
        if self.ask_token:
            return _ask(self.address)
        if self.keyring:
            return _from_keyring(self.address)
        if self.token_file is not None:
            try:
                text = self.token_file.read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as exc:
                reason = getattr(exc, "strerror", None) or "it is no UTF-8"
                raise UsageError(f"--token-file: cannot read {self.token_file}: {reason}") from exc
            if not text:
                raise UsageError(f"--token-file: {self.token_file} is empty")
            return text
        return self.token or None

    def connect(self, *, reconnect: bool = False) -> AbstractAsyncContextManager[Client]:
        """Open a client for one command; without *reconnect*, a lost connection ends it.

        Raises:
            UsageError: that is no URL of a server, or the token cannot be had.
        """
        return connect(self.address, self.find_token(), reconnect=reconnect)


def _ask(url: str) -> str:
    try:
        token = getpass.getpass(f"Token for {url}: ")
    except EOFError:
        token = ""
    if not token:
        raise UsageError("no token was given")
    return token


def _from_keyring(url: str) -> str:
    try:
        keyring: Any = importlib.import_module("keyring")
    except ModuleNotFoundError as exc:
        raise UsageError("--keyring needs the package keyring: pip install keyring") from exc
    found: str | None = keyring.get_password("trio-dispatch", url)
    if found is None:
        found = _ask(url)
        keyring.set_password("trio-dispatch", url, found)
    return found


def connect(
    url: str,
    token: str | None,
    *,
    reconnect: bool = False,
    format: Literal["json", "msgpack"] = "json",
    warn: bool = True,
) -> AbstractAsyncContextManager[Client]:
    """Open a client for one command: without *reconnect*, a lost connection ends it.

    With *warn* it complains of a token that goes unencrypted.

    Raises:
        UsageError: that is no URL of a server.
    """
    logger = logging.getLogger("trio_dispatch.cli")
    logger.addHandler(logging.NullHandler())  # what matters is told by errors
    logger.propagate = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InsecureTokenWarning)
        try:
            client = open_client(
                url, token=token or None, reconnect=reconnect, format=format, logger=logger
            )
        except (TypeError, ValueError) as exc:
            raise UsageError(f"--url: {exc}") from exc
    for warning in caught if warn else ():
        complain(f"warning: {warning.message}")
    return client


def with_client(
    server: ServerOptions | None,
    use: Callable[[Client], Awaitable[Exit]],
    *,
    reconnect: bool = False,
) -> int:
    """Run *use* with a client of the server that the user named; returns the exit code."""
    client = (server or ServerOptions()).connect(reconnect=reconnect)

    async def command() -> Exit:
        async with client as opened:
            return await use(opened)

    return run_async(partial(command))
