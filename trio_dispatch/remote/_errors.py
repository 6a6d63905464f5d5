"""What can go wrong with remote calls."""

from __future__ import annotations

from trio_dispatch._wire.errors import DispatchError
from trio_dispatch.remote._messages import Status, check_error_status


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


class FunctionFailed(DispatchError):
    """A function that was called has failed, for good.

    Attributes:
        function: its name.
        type: the name of its exception, or of what the service says.
        message: what it said.
        traceback: from over there; empty if there is none.
        dispatch_id: of the call that has failed, if the service says it.
    """

    def __init__(
        self,
        function: str,
        type: str,
        message: str,
        traceback: str = "",
        dispatch_id: str | None = None,
    ) -> None:
        super().__init__(function, type, message, traceback, dispatch_id)
        self.function = function
        self.type = type
        self.message = message
        self.traceback = traceback
        self.dispatch_id = dispatch_id

    def __str__(self) -> str:
        return f"{self.function} has failed with {self.type or 'an error'}: {self.message}"


class FunctionError(Exception):
    """Raise it in a function of an endpoint: the run ends with *status*.

    The service tries again after `Status.TEMPORARY_ERROR`, `Status.THROTTLED`, `Status.TIMEOUT`,
    `Status.INCOMPATIBLE_STATE` and the errors of the network (`Status.DNS_ERROR`,
    `Status.TCP_ERROR`, `Status.TLS_ERROR`, `Status.HTTP_ERROR`). The others end the call.

    Args:
        message: what went wrong; anything that is not text is written as text.
        status: any status of an error.

    Raises:
        ValueError: *status* is `Status.OK` or `Status.UNSPECIFIED`, which are no errors.
    """

    def __init__(self, message: object, status: Status = Status.TEMPORARY_ERROR) -> None:
        super().__init__(message, status)
        self.message = str(message)
        self.status = check_error_status(status)

    def __str__(self) -> str:
        return self.message
