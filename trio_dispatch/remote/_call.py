"""A call of a function on another endpoint."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NewType

import attrs
from google.protobuf import any_pb2

from trio_dispatch._wire.arguments import check_text
from trio_dispatch._wire.url import parse_url
from trio_dispatch.remote._messages import CallMessage
from trio_dispatch.remote._values import marshal

DispatchID = NewType("DispatchID", str)
"""The service's name for a call that it has accepted; unique everywhere."""


def check_endpoint(url: str) -> str:
    """Return *url* without a slash at its end, if an endpoint can be there."""
    parse_url(url, "http", "https")
    return url.rstrip("/")


def _check_function(name: object) -> str:
    return check_text(name, "a function's name")


def _check_expiration(call: object, field: object, value: timedelta | None) -> None:  # noqa: ARG001
    if value is not None and value <= timedelta(0):
        raise ValueError("an expiration is a positive time")


def _check_correlation_id(call: object, field: object, value: int) -> None:  # noqa: ARG001
    if not 0 <= value < 2**64:
        raise ValueError("a correlation id is a number from 0 to 2**64 - 1")


@attrs.frozen
class Call:
    """A call of *function* at *endpoint*.

    Args:
        endpoint: the endpoint's URL, ``http://`` or ``https://``.
        function: the function's name there.
        input: anything that `marshal` takes.
        expiration: how long the service tries; its default without.
        version: of the function's application, where that matters.
        correlation_id: comes back with the result; 0 to 2**64 - 1.

    Raises:
        TypeError, ValueError: an argument cannot be sent.
    """

    endpoint: str = attrs.field(converter=check_endpoint)
    function: str = attrs.field(converter=_check_function)
    input: any_pb2.Any = attrs.field(default=None, converter=marshal)
    expiration: timedelta | None = attrs.field(
        default=None, kw_only=True, validator=_check_expiration
    )
    version: str = attrs.field(default="", kw_only=True)
    correlation_id: int = attrs.field(default=0, kw_only=True, validator=_check_correlation_id)

    def message(self) -> Any:
        """The call as it goes over the wire."""
        message = CallMessage(
            correlation_id=self.correlation_id,
            endpoint=self.endpoint,
            function=self.function,
            version=self.version,
        )
        message.input.type_url = self.input.type_url
        message.input.value = self.input.value
        if self.expiration is not None:
            message.expiration.FromTimedelta(self.expiration)
        return message
