"""What is in the ``data`` of each method, as the server's own structs have it.

The names of classes and fields are those of the server's Go code: they show in its messages. A
null is an absent field, but for a payload or an input, which keep the difference.
"""

from __future__ import annotations

from typing import Final, TypeVar

import msgspec

from trio_dispatch.server._go_json import GoStruct, JsonProblem, unmarshal

_ABSENT: Final = msgspec.Raw()

R = TypeVar("R", bound=GoStruct)


class InvalidRequest(ValueError):
    """``data`` that is not what its method takes; the message is the server's."""


class AuthRequest(GoStruct, frozen=True):
    """``auth``."""

    token: str = ""
    format: str = ""


class JobEnqueueRequest(GoStruct, frozen=True):
    """``job.enqueue``."""

    name: str = ""
    payload: msgspec.Raw = _ABSENT
    queue: str = ""
    priority: int = 0


class JobGetRequest(GoStruct, frozen=True):
    """``job.get``."""

    job_id: str = ""


class JobCancelRequest(GoStruct, frozen=True):
    """``job.cancel``."""

    job_id: str = ""


class WorkflowStartRequest(GoStruct, frozen=True):
    """``workflow.start``."""

    name: str = ""
    input: msgspec.Raw = _ABSENT


class WorkflowGetRequest(GoStruct, frozen=True):
    """``workflow.get``."""

    run_id: str = ""


class WorkflowTimelineRequest(GoStruct, frozen=True):
    """``workflow.timeline``."""

    run_id: str = ""


class WorkflowEventRequest(GoStruct, frozen=True):
    """``workflow.event``."""

    name: str = ""
    payload: msgspec.Raw = _ABSENT


class SubscribeRequest(GoStruct, frozen=True):
    """``subscribe``. The credits are checked for their type, and ignored."""

    channel: str = ""
    credits: int = 0


class UnsubscribeRequest(GoStruct, frozen=True):
    """``unsubscribe``."""

    channel: str = ""


class FederationEnqueueRequest(GoStruct, frozen=True):
    """``federation.enqueue``."""

    name: str = ""
    payload: msgspec.Raw = _ABSENT
    queue: str = ""
    priority: int = 0
    source_id: str = ""


class FederationEventRequest(GoStruct, frozen=True):
    """``federation.event``."""

    name: str = ""
    payload: msgspec.Raw = _ABSENT
    source_id: str = ""


class FederationHeartbeatRequest(GoStruct, frozen=True):
    """``federation.heartbeat``."""

    peer_id: str = ""


def read_request(data: msgspec.Raw, type: type[R], what: str = "request") -> R:
    """Read a method's ``data``.

    Raises:
        InvalidRequest: it is not what the method takes.
    """
    try:
        return unmarshal(bytes(data), type)
    except JsonProblem as exc:
        raise InvalidRequest(f"invalid {what}: {exc}") from exc
