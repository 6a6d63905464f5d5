"""Where a link's token goes when a connection is made."""

from __future__ import annotations

import re
from typing import Final, Literal
from urllib.parse import quote

import attrs

from trio_dispatch._wire.headers import Headers, complete_headers
from trio_dispatch._wire.url import Address

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


@attrs.frozen
class QueryToken:
    """The token goes in the query of the URL.

    Attributes:
        name: the parameter, for example ``token``.
    """

    name: str = "token"


def _check_name(_: object, attribute: object, value: str) -> None:  # noqa: ARG001
    if not _NAME.fullmatch(value):
        raise ValueError(f"not the name of an HTTP header: {value!r}")


@attrs.frozen
class Header:
    """The token goes in an HTTP header of its own, as it is.

    Attributes:
        name: the header, for example ``X-Key``.
    """

    name: str = attrs.field(validator=_check_name)


Auth = Literal["bearer"] | QueryToken | Header | None
"""``"bearer"``: as ``Authorization: Bearer``; None: with the upgrade it goes nowhere, and only a
dialect's `Dialect.greet` gets it.
"""


def apply_auth(
    auth: Auth, address: Address, token: str | None, extra: Headers, user_agent: str
) -> tuple[Address, Headers]:
    """Put *token* where *auth* says. Returns what to connect to, and the headers for it."""
    if auth == "bearer" or token is None:
        return address, complete_headers(address, token, extra, user_agent)
    if isinstance(auth, QueryToken):
        mark = "&" if "?" in address.resource else "?"
        asked = f"{address.resource}{mark}{quote(auth.name, safe='')}={quote(token, safe='')}"
        address = attrs.evolve(address, resource=asked)
    elif isinstance(auth, Header):
        extra = (*extra, (auth.name, token))
    return address, complete_headers(address, None, extra, user_agent)
