"""Reaching the server that the user named: the options for it, and the client."""

from __future__ import annotations

import getpass
import importlib
import logging
import os
import re
import warnings
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cyclopts import Parameter

from trio_dispatch import Client, DispatchError, InsecureTokenWarning, open_client
from trio_dispatch._wire.url import parse_url
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.profiles import Profile, find_profile, run_token_command
from trio_dispatch.cli.running import run_async
from trio_dispatch.cli.several import CONNECTIONS, count_servers
from trio_dispatch.cli.streams import decode

DEFAULT_URL: Final = "ws://localhost:8080/dwp"


@Parameter(name="*")
@dataclass(frozen=True)
class ServerOptions:
    """Which server, and with which token."""

    url: Annotated[
        list[str] | None,
        Parameter(
            name="--url",
            negative=(),
            show_default=False,
            help="The server: ws://host:port/dwp, wss://…, or http://… where only HTTP gets "
            "through. Give it several times for the servers of a cluster. Without it: "
            "DISPATCH_URL, the default profile, ws://localhost:8080/dwp.",
        ),
    ] = None
    profile: Annotated[
        str | None,
        Parameter(
            name="--profile",
            help="A profile of the configuration file: its server, and its token. Without it: "
            "DISPATCH_PROFILE.",
        ),
    ] = None
    token: Annotated[
        str | None,
        Parameter(
            name="--token",
            help="The token. Others on this machine see arguments: DISPATCH_TOKEN in the "
            "environment is the better place for it.",
            show_default=False,
        ),
    ] = None
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
            help="Take the token from the system's keyring. The first time it is asked for, "
            "and kept there.",
        ),
    ] = False

    @cached_property
    def _profile(self) -> Profile | None:
        if self.profile and self.url:
            raise UsageError(
                "--profile and --url exclude each other: the profile's token is for its own server"
            )
        if self.profile:
            return find_profile(self.profile)
        if self.url:
            return None
        if name := os.environ.get("DISPATCH_PROFILE"):
            return find_profile(name)
        # The environment names another server than the file's default, so not its token either.
        return None if os.environ.get("DISPATCH_URL") else find_profile(None)

    @cached_property
    def urls(self) -> list[str]:
        """The URLs of the server, or of the servers of a cluster.

        Raises:
            UsageError: the profile cannot be used.
        """
        if self._profile is not None:
            return list(self._profile.urls)
        if self.url:
            return self.url
        found = os.environ.get("DISPATCH_URL", "").strip()
        return re.split(r"\s*,\s*(?=\w+://)|\s+", found) if found else [DEFAULT_URL]

    @property
    def named(self) -> bool:
        """Whether the command line names a server, and not only the environment or a file."""
        return bool(self.url or self.profile)

    @property
    def shown(self) -> str:
        """The servers, without secrets."""
        return ", ".join(shown_url(url) for url in self.urls)

    def find_token(self) -> str | None:
        """Find the token, wherever the user said that it is; nobody is asked twice.

        Raises:
            UsageError: it cannot be had.
        """
        return self._token

    @cached_property
    def _token(self) -> str | None:
        if self.ask_token:
            return _ask(self.shown)
        if self.keyring:
            return _from_keyring(self.urls[0])
        if self.token_file is not None:
            return _from_file(self.token_file, "--token-file")
        if self.token is not None:
            return self.token or None
        found = None if self._profile is None else _from_profile(self._profile)
        return found or os.environ.get("DISPATCH_TOKEN") or None

    async def count_servers(self) -> int:
        """How many servers a single URL leads to; 1 where that cannot be found out."""
        urls = self.urls
        if len(urls) > 1 or not urls[0].startswith("ws"):
            return 1
        opener = partial(connect, urls, self.find_token(), warn=False)
        try:
            return await count_servers([opener] * CONNECTIONS)
        except DispatchError:
            return 1

    def connect(
        self, *, reconnect: bool = False, hear_all: bool = False
    ) -> AbstractAsyncContextManager[Client]:
        """Open a client for one command; see `connect`.

        Raises:
            UsageError: that is no URL of a server, or the token cannot be had.
        """
        token = self.find_token()
        try:
            return connect(self.urls, token, reconnect=reconnect, hear_all=hear_all)
        except ModuleNotFoundError as exc:  # of an extra, which it names
            raise UsageError(str(exc)) from exc


def shown_url(url: str) -> str:
    """The URL without its secrets.

    Raises:
        UsageError: it is no URL of a server.
    """
    try:
        return parse_url(url, "ws", "wss", "http", "https").shown
    except ValueError as exc:
        raise UsageError(f"--url: {exc}") from exc


def _ask(where: str) -> str:
    try:
        token = getpass.getpass(f"Token for {where}: ")
    except (EOFError, OSError):
        token = ""
    if not token:
        raise UsageError("no token was given")
    return token


def _from_profile(profile: Profile) -> str | None:
    if profile.token_command:
        return run_token_command(profile)
    if profile.token_file is not None:
        return _from_file(profile.token_file, f"the profile {profile.name!r}")
    return _from_keyring(profile.urls[0]) if profile.keyring else None


def _from_file(path: Path, what: str) -> str:
    try:
        text = path.read_bytes()
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{what}: cannot read {path}: {reason}") from exc
    token = decode(text, f"{what}: {path}").strip()
    if not token:
        raise UsageError(f"{what}: {path} is empty")
    return token


def _from_keyring(url: str) -> str:
    try:
        keyring: Any = importlib.import_module("keyring")
    except ModuleNotFoundError as exc:
        raise UsageError("--keyring needs the package keyring: pip install keyring") from exc
    try:
        found: str | None = keyring.get_password("trio-dispatch", url)
        if found is None:
            found = _ask(shown_url(url))
            keyring.set_password("trio-dispatch", url, found)
    except UsageError:
        raise
    except Exception as exc:  # each backend has errors of its own
        raise UsageError(f"--keyring: {type(exc).__name__}: {exc}") from exc
    return found


def connect(
    urls: str | Sequence[str],
    token: str | None,
    *,
    reconnect: bool = False,
    hear_all: bool = False,
    format: Literal["json", "msgpack"] = "json",
    warn: bool = True,
    proxy: str | None = "env",
) -> AbstractAsyncContextManager[Client]:
    """Open a client for one command: without *reconnect*, a lost connection ends it.

    With *hear_all* its subscriptions hear every server of a list. With *warn* it complains of a
    token that goes unencrypted.

    Raises:
        UsageError: that is no URL of a server.
    """
    logger = logging.getLogger("trio_dispatch.cli")
    logger.addHandler(logging.NullHandler())  # errors say what matters
    logger.propagate = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", InsecureTokenWarning)
        try:
            client = open_client(
                urls,
                token=token or None,
                reconnect=reconnect,
                events_from="all" if hear_all else "connection",
                format=format,
                proxy=proxy,
                logger=logger,
            )
        except (TypeError, ValueError) as exc:
            # Tokens that cannot be sent, and variables that make no sense, are named as such.
            about = "--url: " if "URL" in str(exc) else ""
            raise UsageError(f"{about}{exc}") from exc
    for warning in caught if warn else ():
        complain(f"warning: {warning.message}")
    return client


def with_client(
    server: ServerOptions | None,
    use: Callable[[Client], Awaitable[Exit]],
    *,
    reconnect: bool = False,
    hear_all: bool = False,
) -> int:
    """Run *use* with a client of the server that the user named; returns the exit code."""
    client = (server or ServerOptions()).connect(reconnect=reconnect, hear_all=hear_all)

    async def command() -> Exit:
        async with client as opened:
            return await use(opened)

    return run_async(command)
