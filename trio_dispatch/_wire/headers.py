"""HTTP headers of requests and upgrades: which ones users may set, and which ones are added."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, cast

from trio_dispatch._wire.url import Address

Headers = tuple[tuple[str, str], ...]

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE: Final = re.compile(r"[!-~]([ \t!-~]*[!-~])?|")

_ONCE: Final = frozenset({"host", "authorization", "user-agent", "proxy-authorization", "origin"})

_RESERVED: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that belong to the connection itself, as does every ``Sec-WebSocket-…``."""


def read_headers(headers: Mapping[str, str] | Sequence[tuple[str, str]]) -> Headers:
    """Read extra HTTP headers. Errors never show a value, which may be a secret.

    Raises:
        TypeError: they are neither a mapping nor pairs, or a name or value is not a string.
        ValueError: a name or value is not valid in a header, a header that may occur once occurs
            twice, or a header belongs to the connection itself.
    """
    given = cast("object", headers)
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise TypeError("headers is a mapping or a list of pairs (name, value)")
    pairs: Iterable[object] = headers.items() if isinstance(headers, Mapping) else headers
    read = tuple(_read_header(pair) for pair in pairs)
    names = [name.lower() for name, _ in read]
    for name in _ONCE.intersection(names):
        if names.count(name) > 1:
            raise ValueError(f"headers= has {name.title()} twice")
    return read


def _read_header(pair: object) -> tuple[str, str]:
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence):
        raise TypeError("headers is a mapping or a list of pairs (name, value)")
    parts = cast("Sequence[object]", pair)
    if len(parts) != 2:
        raise ValueError("headers is a mapping or a list of pairs (name, value)")
    name, value = parts
    if not isinstance(name, str) or not isinstance(value, str):
        kinds = f"{type(name).__name__} and {type(value).__name__}"
        raise TypeError(f"the name and the value of an HTTP header are strings, not {kinds}")
    if not _NAME.fullmatch(name):
        raise ValueError(f"not the name of an HTTP header: {name!r}")
    if not _VALUE.fullmatch(value):
        raise ValueError(
            f"the HTTP header {name} has a value that is not printable ASCII, or begins or ends "
            "with white space"
        )
    if name.lower() in _RESERVED or name.lower().startswith("sec-websocket-"):
        raise ValueError(f"the HTTP header {name} belongs to the connection and cannot be set")
    return str(name), str(value)


def find_header(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    """Return the value of the first header named *name*."""
    return next((value for key, value in headers if key.lower() == name.lower()), None)


def check_one_authorization(addresses: Iterable[Address], headers: Headers) -> None:
    """Refuse an ``Authorization`` header together with ``user:password@`` in a URL.

    The user and password become an ``Authorization`` header, too.
    """
    if find_header(headers, "Authorization") is not None:
        for address in addresses:
            if address.user_info is not None:
                raise ValueError(
                    f"{address.shown} has a user and a password, and headers= an Authorization"
                )


def complete_headers(
    address: Address, token: str | None, headers: Headers, user_agent: str
) -> Headers:
    """Add the headers of every request to those that users have set.

    There is one ``Authorization``: the user's own, else the user and password of the URL, else the
    token.
    """
    added: list[tuple[str, str]] = []
    if find_header(headers, "Authorization") is None:
        if address.user_info is not None:
            added.append(("Authorization", f"Basic {address.basic}"))
        elif token:
            added.append(("Authorization", f"Bearer {token}"))
    if find_header(headers, "User-Agent") is None:
        added.append(("User-Agent", user_agent))
    return (*added, *headers)


def split_host(address: Address, headers: Headers) -> tuple[str, Headers]:
    """Remove the ``Host`` from *headers* and return it; the address's own if there is none."""
    host = find_header(headers, "Host")
    rest = tuple((name, value) for name, value in headers if name.lower() != "host")
    return host or address.host_header, rest
