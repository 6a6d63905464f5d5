"""Profiles: names for servers and for where their tokens are, in a file of the user's."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from platformdirs import user_config_path

from trio_dispatch.cli.exits import UsageError
from trio_dispatch.cli.streams import decode

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

CONFIG_VARIABLE: Final = "TRIO_DISPATCH_CONFIG"

TOKEN_COMMAND_SECONDS: Final = 60.0
"""How long the command of a profile may take to print a token; it may ask its user something."""

_KEYS: Final = ("url", "token_command", "token_file", "keyring")
_TOKEN_KEYS: Final = _KEYS[1:]


@dataclass(frozen=True)
class Profile:
    """A server, and where its token is: at most one of the last three."""

    name: str
    urls: tuple[str, ...]
    token_command: tuple[str, ...] = ()
    token_file: Path | None = None
    keyring: bool = False


def config_path() -> Path:
    """Where the file is: ``TRIO_DISPATCH_CONFIG``, or where the system keeps configuration."""
    named = os.environ.get(CONFIG_VARIABLE)
    return Path(named) if named else user_config_path("trio-dispatch") / "config.toml"


def find_profile(name: str | None) -> Profile | None:
    """Read the profile *name*; without a name the file's default, and None where it has none.

    Raises:
        UsageError: the file cannot be read, has no such profile, or its profile cannot be used.
    """
    path = config_path()
    try:
        text = decode(path.read_bytes(), str(path))
    except FileNotFoundError:
        if name is None and not os.environ.get(CONFIG_VARIABLE):
            return None
        raise UsageError(f"there is no file of profiles at {path}") from None
    except (OSError, ValueError) as exc:
        if name is None and not os.environ.get(CONFIG_VARIABLE):
            return None  # a home directory that cannot be entered keeps no profiles
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"cannot read the profiles of {path}: {reason}") from exc
    return _Reader(path).read(text, name)


class _Reader:
    """Reads a file of profiles. What it complains about names the file and never a value."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self, text: str, name: str | None) -> Profile | None:
        try:
            found: Mapping[str, object] = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError) as exc:
            # The parser's message names the place, and at most one character.
            raise self._wrong(f"is not TOML: {exc}") from None
        if strange := found.keys() - {"default", "profiles"}:
            raise self._wrong(f"has {_names(strange)}; it takes default and [profiles.NAME]")
        profiles = self._mapping(found.get("profiles", {}), "profiles")
        if name is None:
            default = found.get("default")
            if default is None:
                return None
            if not isinstance(default, str):
                raise self._wrong("has a default that is not the name of a profile")
            name = default
        if name not in profiles:
            known = ", ".join(sorted(profiles)) or "none"
            raise self._wrong(f"has no profile {name!r}; there is: {known}")
        return self._profile(name, self._mapping(profiles[name], f"profiles.{name}"))

    def _profile(self, name: str, found: Mapping[str, object]) -> Profile:
        where = f"in [profiles.{name}]"
        if "token" in found:
            raise self._wrong(
                f"has a token {where}: others may read it there. Name where it is instead: "
                "token_command, token_file, or keyring = true"
            )
        if strange := found.keys() - set(_KEYS):
            raise self._wrong(f"has {_names(strange)} {where}; it takes {', '.join(_KEYS)}")
        if len(ways := [key for key in _TOKEN_KEYS if found.get(key)]) > 1:
            raise self._wrong(f"has {' and '.join(ways)} {where}: one of them is enough")
        file = found.get("token_file")
        if file is not None and not isinstance(file, str):
            raise self._wrong(f"has a token_file {where} that is no path")
        keyring = found.get("keyring", False)
        if not isinstance(keyring, bool):
            raise self._wrong(f"has a keyring {where} that is neither true nor false")
        urls = self._texts(found.get("url"), "url", where)
        if not urls:
            raise self._wrong(f"has no url {where}")
        return Profile(
            name=name,
            urls=urls,
            token_command=self._command(found.get("token_command"), where),
            token_file=None if file is None else self._path.parent / Path(file).expanduser(),
            keyring=keyring,
        )

    def _command(self, found: object, where: str) -> tuple[str, ...]:
        if not isinstance(found, str):
            return self._texts(found, "token_command", where)
        try:
            return tuple(shlex.split(found))
        except ValueError as exc:
            raise self._wrong(f"has a token_command {where} that cannot be split: {exc}") from None

    def _texts(self, found: object, key: str, where: str) -> tuple[str, ...]:
        """One text, or a list of them."""
        if found is None:
            return ()
        texts = cast("list[object]", found) if isinstance(found, list) else [found]
        if not texts or not all(isinstance(text, str) and text for text in texts):
            raise self._wrong(f"has a {key} {where} that is neither text nor a list of texts")
        return tuple(cast("list[str]", texts))

    def _mapping(self, found: object, what: str) -> Mapping[str, object]:
        if not isinstance(found, dict):
            raise self._wrong(f"has a {what} that is no table: write [profiles.NAME]")
        return cast("dict[str, object]", found)

    def _wrong(self, text: str) -> UsageError:
        return UsageError(f"{self._path} {text}")


def _names(found: set[str]) -> str:
    return ", ".join(sorted(found))


def run_token_command(profile: Profile) -> str:
    """Run the command of *profile*, and return what it prints: a token.

    It has the terminal, so that it can ask for a password or a touch. No shell is involved.

    Raises:
        UsageError: it cannot be run, fails, or prints nothing. The message never has its output.
    """
    what = f"token_command of the profile {profile.name!r} ({profile.token_command[0]})"
    try:
        done = subprocess.run(  # noqa: S603
            profile.token_command,
            stdout=subprocess.PIPE,
            timeout=TOKEN_COMMAND_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        # Its text would have what was printed so far.
        raise UsageError(f"{what} took more than {TOKEN_COMMAND_SECONDS:g} s") from None
    except (OSError, ValueError) as exc:
        reason = getattr(exc, "strerror", None) or exc
        raise UsageError(f"{what} cannot be run: {reason}") from None
    if done.returncode != 0:
        raise UsageError(f"{what} failed with exit code {done.returncode}")
    token = decode(done.stdout, f"what {what} printed").strip()
    if not token:
        raise UsageError(f"{what} printed no token")
    return token
