"""Which route a request selects: paths and queries as a Dispatch server reads them."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_plus

import attrs

WEBSOCKET: Final = "websocket"
RPC: Final = "rpc"
EVENTS: Final = "events"

_ABSOLUTE: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/?]*")
_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")


@attrs.frozen
class Target:
    """A request's target, in two."""

    path: str
    query: str

    def field(self, name: str) -> str:
        """The first value of a field of the query; empty if there is none.

        A field with a semicolon or a broken escape does not count.
        """
        for part in self.query.split("&"):
            key, _, value = part.partition("=")
            if ";" in part or _BAD_ESCAPE.search(part) or unquote_plus(key) != name:
                continue
            return unquote_plus(value)
        return ""


def read_target(target: str) -> Target:
    """Read the target of a request, which may name scheme and host."""
    place = _ABSOLUTE.match(target)
    path, _, query = target[place.end() if place else 0 :].partition("?")
    return Target(path, query)


@attrs.frozen
class Redirect:
    """The path is served under another spelling."""

    path: str


class Routes:
    """The paths that are served, each with one method.

    Args:
        base: the path of the WebSocket; the others are below it.
    """

    def __init__(self, base: str) -> None:
        self._routes = {
            base or "/": ("GET", WEBSOCKET),
            f"{base}/rpc": ("POST", RPC),
            f"{base}/sse": ("GET", EVENTS),
        }

    def find(self, method: str, path: str) -> str | Redirect | None:
        """What *method* does at *path*: a name, another path, or None for a wrong method.

        Raises:
            LookupError: nothing is there.
        """
        if len(path) > 1 and path.endswith("/"):
            path = path.rstrip("/")
        route = self._routes.get(path)
        if route is not None:
            return route[1] if route[0] == method else None
        cleaned = _cleaned(path)
        if self._routes.get(cleaned, ("",))[0] == method:
            return Redirect(cleaned)
        raise LookupError(path)


def _cleaned(path: str) -> str:
    """*path* without empty parts, and with dots carried out."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(part)
    ends = "/" if parts and path.endswith(("/", "/.")) else ""
    return f"/{'/'.join(parts)}{ends}"
