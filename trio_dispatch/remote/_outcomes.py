"""What a service shows of its calls."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import attrs
from google.protobuf import any_pb2

from trio_dispatch.remote._call import DispatchID
from trio_dispatch.remote._messages import Status
from trio_dispatch.remote._values import unmarshal

CallState = Literal["waiting", "running", "suspended", "retrying", "ended"]
"""Of a call at a service: it waits for its turn; its function runs; its function waits for calls of
its own; it is tried again in a moment; it has ended."""

EventType = Literal[
    "accepted", "started", "retrying", "suspended", "resumed", "tail_call", "ended", "refused"
]


@attrs.frozen
class CallError:
    """What a call has failed with."""

    type: str
    """The name of the function's exception; or the name of a status, if the service says so."""
    message: str
    traceback: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class Outcome:
    """How a call has ended."""

    id: DispatchID
    function: str
    status: Status
    """`Status.OK`, or why it failed. `Status.TIMEOUT` if it expired: then `error` names the last
    cause."""
    value: object
    """The result, decoded; None if it failed."""
    error: CallError | None
    attempts: int
    """How often it was tried: 1, and 1 for each time that it was tried again or went on as another
    call. Going on after a function's own calls is part of the same attempt."""
    parent: DispatchID | None
    """The call whose function made it; None if a client did."""
    root: DispatchID
    """The call that a client made, and that led to it: its own id if that is this one."""
    children: tuple[DispatchID, ...]
    """The calls that its function made, in order."""

    @property
    def ok(self) -> bool:
        """Whether it has ended well."""
        return self.status is Status.OK


@attrs.frozen(kw_only=True)
class CallInfo:
    """A call at a service, as it is at one moment."""

    id: DispatchID
    endpoint: str
    function: str
    state: CallState
    attempts: int
    status: Status | None
    """Of the last run that has ended, or of the call if it has; None before the first."""
    error: CallError | None
    """Of that run."""
    parent: DispatchID | None
    root: DispatchID
    children: tuple[DispatchID, ...]
    created: datetime
    expires: datetime
    ended: datetime | None
    _input: any_pb2.Any = attrs.field(repr=False, alias="input", eq=False)

    @property
    def input(self) -> object:
        """The input, decoded.

        Raises:
            ValueError: it cannot be decoded.
        """
        return unmarshal(self._input)


@attrs.frozen(kw_only=True)
class CallEvent:
    """Something has happened to a call."""

    type: EventType
    time: datetime
    call: CallInfo
    delay: float | None = None
    """Seconds until it is tried again; for ``retrying`` alone."""
