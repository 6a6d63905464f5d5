"""What an exception means to the service: its status, and its text.

The table is that of the other packages, so that a function can move from one language to another.
"""

from __future__ import annotations

import logging
import socket
import ssl
import traceback
from collections.abc import Callable
from typing import Final, TypeVar, cast

import attrs
import httpx
import trio

from trio_dispatch._transport.groups import leaves
from trio_dispatch.remote._errors import FunctionError
from trio_dispatch.remote._messages import Status, check_error_status

E = TypeVar("E", bound=BaseException)

_MAX_TEXT: Final = 16 * 1024
_MAX_TRACEBACK: Final = 64 * 1024

_log = logging.getLogger("trio_dispatch.remote")

_Entry = Status | Callable[[BaseException], Status]


def _own_status(exc: BaseException) -> Status:
    status: Status = getattr(exc, "status")  # noqa: B009 - a subclass may have made it anything
    return status


_table: Final[dict[type[BaseException], _Entry]] = {
    FunctionError: _own_status,
    TimeoutError: Status.TIMEOUT,
    trio.TooSlowError: Status.TIMEOUT,
    httpx.TimeoutException: Status.TIMEOUT,
    socket.gaierror: Status.DNS_ERROR,
    ConnectionError: Status.TCP_ERROR,
    trio.BrokenResourceError: Status.TCP_ERROR,
    httpx.NetworkError: Status.TCP_ERROR,
    ssl.SSLError: Status.TLS_ERROR,
    httpx.HTTPError: Status.HTTP_ERROR,
    PermissionError: Status.PERMISSION_DENIED,
    FileNotFoundError: Status.NOT_FOUND,
    EOFError: Status.TEMPORARY_ERROR,
    OSError: Status.TEMPORARY_ERROR,
    TypeError: Status.INVALID_ARGUMENT,
    ValueError: Status.INVALID_ARGUMENT,
}


def register_status(exception: type[E], status: Status | Callable[[E], Status]) -> None:
    """Tell what *exception* and its subclasses mean when a function raises them.

    The nearest class in an exception's hierarchy that is registered decides. What is registered
    holds for all endpoints of the process, and replaces an earlier entry, the built-in ones
    included: timeouts are `Status.TIMEOUT`, connection errors `Status.TCP_ERROR`, failures of name
    resolution and of TLS `Status.DNS_ERROR` and `Status.TLS_ERROR`, `PermissionError` and
    `FileNotFoundError` `Status.PERMISSION_DENIED` and `Status.NOT_FOUND`, other OS errors
    `Status.TEMPORARY_ERROR`, `TypeError` and `ValueError` `Status.INVALID_ARGUMENT`; whatever is
    not in the table is `Status.PERMANENT_ERROR`.

    Args:
        exception: a class of exceptions.
        status: the status of an error; or a function that returns it for one exception. If that
            function raises, or returns anything else, the call ends with `Status.PERMANENT_ERROR`.

    Raises:
        TypeError: *exception* is not a class of exceptions, or *status* is neither.
        ValueError: *status* is not that of an error.
    """
    if not _is_exception_class(exception):
        raise TypeError(f"what is registered is a class of exceptions, not {exception!r}")
    if not callable(status):
        check_error_status(status)
    _table[exception] = cast("_Entry", status)


def _is_exception_class(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseException)


@attrs.frozen
class Failure:
    """How a run failed, as the service is told."""

    status: Status
    type: str
    message: str
    traceback: bytes = b""


def failure_of(exc: BaseException) -> Failure:
    """What to answer when a function has raised *exc*. Never raises."""
    trace = b"" if isinstance(exc, FunctionError) else _trace(exc)
    return Failure(_status_of(exc), _encodable(type(exc).__name__), _text(exc), trace)


def _status_of(exc: BaseException) -> Status:
    entry = _registered(exc)
    if entry is None:
        parts = list(leaves(exc))
        if parts == [exc]:
            return Status.PERMANENT_ERROR
        # Of a group whose members agree; where they do not, trying again may not help.
        found = {_status_of(leaf) for leaf in parts}
        return found.pop() if len(found) == 1 else Status.PERMANENT_ERROR
    try:
        return check_error_status(entry if isinstance(entry, Status) else entry(exc))
    except Exception:  # noqa: BLE001 - users' code
        _log.exception("no status can be had for a %s", type(exc).__name__)
        return Status.PERMANENT_ERROR


def _registered(exc: BaseException) -> _Entry | None:
    return next((_table[kind] for kind in type(exc).__mro__ if kind in _table), None)


def _text(exc: BaseException) -> str:
    try:
        return _encodable(str(exc))
    except Exception as failed:  # noqa: BLE001 - users' code
        return f"its text cannot be had: {type(failed).__name__}"


def _encodable(text: str) -> str:
    """Make *text* one that UTF-8 can hold, and that is not too long."""
    if len(text) > _MAX_TEXT:
        text = text[:_MAX_TEXT] + "…"
    return text.encode("utf-8", "backslashreplace").decode()


def _trace(exc: BaseException) -> bytes:
    try:
        lines = "".join(traceback.format_exception(exc))
    except Exception:  # noqa: BLE001 - it calls users' code
        return b""
    return lines.encode("utf-8", "backslashreplace")[-_MAX_TRACEBACK:]
