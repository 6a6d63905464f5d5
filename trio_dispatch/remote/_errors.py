"""What can go wrong with remote calls."""

from __future__ import annotations

from trio_dispatch._wire.errors import DispatchError
from trio_dispatch.remote._messages import Status


class CallFailed(DispatchError):
    """The service did not accept a call or a batch, or it cannot be told whether it did.

    Attributes:
        code: the service's word for it, such as ``invalid_argument``; ``http <status>`` where the
            answer came from something else; ``timeout`` and ``connection_lost`` where none came.
        maybe_accepted: whether it may have been accepted all the same, as a whole.
    """

    def __init__(self, code: str, message: str, maybe_accepted: bool) -> None:
        super().__init__(code, message, maybe_accepted)
        self.code = code
        self.message = message
        self.maybe_accepted = maybe_accepted

    def __str__(self) -> str:
        fate = "; it may have been accepted" if self.maybe_accepted else "; nothing was accepted"
        return f"{self.code}: {self.message}{fate}"


class KeyRefused(CallFailed):
    """The service refused the API key; the message says where the key came from."""


class FunctionError(Exception):
    """To be raised by an endpoint's functions: the call ends with *status*.

    `Status.TEMPORARY_ERROR`, `Status.THROTTLED`, `Status.TIMEOUT` and `Status.INCOMPATIBLE_STATE`
    make the service try again; the others end the call.
    """

    def __init__(self, message: str, status: Status = Status.TEMPORARY_ERROR) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status

    def __str__(self) -> str:
        return self.message
