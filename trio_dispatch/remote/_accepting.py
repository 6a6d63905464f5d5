"""What a service checks before it accepts calls: all of a batch, or none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any

import httpx

from trio_dispatch.remote._call import check_endpoint, check_function
from trio_dispatch.remote._connect import Refused
from trio_dispatch.remote._values import check_duration

Problem = Callable[[str], str | None]
"""Why nothing can be at an endpoint; None if it can."""


def check_calls(calls: Sequence[Any], problem: Problem, default_endpoint: str = "") -> None:
    """Check *calls*, messages of the wire.

    Args:
        calls: they come from a client, or from a function's poll.
        problem: the service's own check of endpoints.
        default_endpoint: for calls that name none; empty if they must.

    Raises:
        Refused: one of them cannot be accepted, and so none is.
    """
    index = 0
    try:
        for index, call in enumerate(calls):  # noqa: B007 - the error names it
            check_call(call, problem, default_endpoint)
    except (TypeError, ValueError) as exc:
        place = f"calls[{index}]: " if len(calls) > 1 else ""
        raise Refused("invalid_argument", f"{place}{exc}") from exc


def check_call(call: Any, problem: Problem, default_endpoint: str = "") -> None:
    """Check one call. Raises `TypeError` or `ValueError`."""
    endpoint = check_endpoint(call.endpoint or default_endpoint)
    if endpoint.startswith("http"):
        try:
            httpx.URL(endpoint)
        except httpx.InvalidURL as exc:
            raise ValueError(f"not a URL of an endpoint: {exc}") from exc
    found = problem(endpoint)
    if found:
        raise ValueError(found)
    check_function(call.function)
    if call.HasField("expiration"):
        expiration_of(call)


def expiration_of(call: Any) -> timedelta:
    """The expiration that *call* names. Raises `ValueError`."""
    message = call.expiration
    try:
        found = timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)
    except OverflowError:
        found = timedelta.max
    if found <= timedelta(0):
        raise ValueError("an expiration is a positive time")
    return check_duration(found)
