"""A call of a function on another endpoint, checked where it is made."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any, Final, NewType, cast
from urllib.parse import urlsplit

import attrs
from google.protobuf import any_pb2
from google.protobuf.message import Message

from trio_dispatch._wire.arguments import check_text
from trio_dispatch._wire.url import parse_url
from trio_dispatch.remote._messages import CallMessage
from trio_dispatch.remote._values import check_duration, marshal

DispatchID = NewType("DispatchID", str)
"""The service's name for a call that it has accepted; unique everywhere."""

_FUNCTION: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_<>.]*")
_OTHER_PLACE: Final = re.compile(r"(bridge://|arn:aws:lambda:)[!-~]+")


def check_endpoint(url: object) -> str:
    """Return *url*, without a slash at its end, if an endpoint can be there.

    Raises:
        TypeError: it is not a string.
        ValueError: no service could reach it.
    """
    if isinstance(url, str) and _OTHER_PLACE.fullmatch(url):
        return url.rstrip("/")
    address = parse_url(url, "http", "https")
    assert isinstance(url, str)
    if "?" in url:
        raise ValueError(f"an endpoint's URL has no query: {address.shown}?…")
    if "@" in url:
        raise ValueError(f"an endpoint's URL has no user info: {address.shown}")
    return url.rstrip("/")


def host_of(endpoint: str) -> str:
    """What the ``Host`` header says in requests to *endpoint*, and what their signatures cover."""
    if not endpoint.startswith("http"):
        return urlsplit(endpoint).netloc or "lambda"
    return parse_url(endpoint, "http", "https").host_header


def signed_url(endpoint: str, path: str) -> str:
    """The URL of *path* at *endpoint* as signatures have it: a scheme's own port is left out."""
    parts = urlsplit(endpoint)
    base = parts.path if endpoint.startswith("http") or parts.netloc else ""
    return f"{parts.scheme}://{host_of(endpoint)}{base}{path}"


def check_function(name: object) -> str:
    """Return *name* if a function can have it. Raises `TypeError` or `ValueError`."""
    text = check_text(name, "a function's name")
    if not _FUNCTION.fullmatch(text):
        raise ValueError(
            f"a function's name is letters of ASCII, digits, and _ . < >, and begins with a letter "
            f"or _, not {text!r}"
        )
    return text


def _check_expiration(call: object, field: object, value: timedelta | None) -> None:  # noqa: ARG001
    if value is None:
        return
    if not isinstance(value, timedelta):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"an expiration is a timedelta, not {type(value).__name__}")
    if value <= timedelta(0):
        raise ValueError("an expiration is a positive time")
    check_duration(value)


def _check_version(call: object, field: object, value: object) -> None:  # noqa: ARG001
    if value != "":
        check_text(value, "a version")


def _check_correlation_id(call: object, field: object, value: object) -> None:  # noqa: ARG001
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"a correlation id is an integer, not {type(value).__name__}")
    if not 0 <= value < 2**64:
        raise ValueError("a correlation id is a number from 0 to 2**64 - 1")


@attrs.frozen
class Call:
    """A call of *function* at *endpoint*.

    Args:
        endpoint: the endpoint's URL, ``http://`` or ``https://``, without a query; or
            ``bridge://…`` (a tunnel) or ``arn:aws:lambda:…``, where the service takes these.
        function: the function's name there: letters of ASCII, digits, ``_``, ``.``, ``<``, ``>``.
        input: anything that `marshal` takes.
        expiration: how long the service tries (default: the service's).
        version: of the function's application, if that matters.
        correlation_id: comes back with the result; 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: an argument cannot be sent.
    """

    endpoint: str = attrs.field(converter=check_endpoint)
    function: str = attrs.field(converter=check_function)
    input: any_pb2.Any = attrs.field(default=None, converter=marshal)
    expiration: timedelta | None = attrs.field(
        default=None, kw_only=True, validator=_check_expiration
    )
    version: str = attrs.field(default="", kw_only=True, validator=_check_version)
    correlation_id: int = attrs.field(default=0, kw_only=True, validator=_check_correlation_id)

    def message(self) -> Message:
        """The call as it goes over the wire."""
        message: Any = CallMessage(
            correlation_id=self.correlation_id,
            endpoint=self.endpoint,
            function=self.function,
            version=self.version,
        )
        message.input.type_url = self.input.type_url
        message.input.value = self.input.value
        if self.expiration is not None:
            message.expiration.FromTimedelta(self.expiration)
        return cast("Message", message)
