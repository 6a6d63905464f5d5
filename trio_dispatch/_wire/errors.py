"""The exception tree.

Every error of this package is a `DispatchError`. Invalid arguments raise plain `TypeError` and
`ValueError`, before anything is sent. Each class keeps its constructor's arguments in ``args``, so
errors can be copied and pickled.
"""

from __future__ import annotations

import copy
from typing import TypeVar

from trio_dispatch._wire.frames import ErrorBody, ErrorCode
from trio_dispatch._wire.models import Job, WorkflowRun

E = TypeVar("E", bound=BaseException)


class DispatchError(Exception):
    """The base of all errors of this package."""


class ConnectFailed(DispatchError):
    """No connection could be made: the address, TLS, the WebSocket upgrade or the session failed.

    The message includes the URL (without secrets) and the reason; ``__cause__`` is the original
    error.

    Attributes:
        retry_after: seconds after which the server asks to try again; None if it does not.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ConnectionLost(DispatchError):
    """The connection ended during a request.

    Attributes:
        maybe_delivered: True if the request was written: the server may or may not have carried
            it out. False if it was never written: the server certainly did not carry it out.
    """

    def __init__(self, message: str, maybe_delivered: bool = False) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class RequestTimeout(DispatchError):
    """No answer came within ``request_timeout``.

    Attributes:
        maybe_delivered: True if the request was written: the server may still carry it out. False
            if it was withdrawn before it was sent.
    """

    def __init__(self, message: str, maybe_delivered: bool = False) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class ProtocolError(DispatchError):
    """The other side broke the protocol: it sent something invalid, or at the wrong time."""


class SubscriptionOverflow(DispatchError):
    """A subscription's buffer was full, because its reader was slower than its events.

    All stored events have been delivered. The next ``receive`` continues with new events.

    Attributes:
        missed: the number of events that were lost.
    """

    def __init__(self, missed: int) -> None:
        super().__init__(missed)
        self.missed = missed

    def __str__(self) -> str:
        return (
            f"{self.missed} events were lost because the subscription's buffer was full; "
            "read faster, raise buffer=, or choose overflow='drop_oldest'"
        )


class ClientClosed(DispatchError):
    """The client (or link) is closed; ``__cause__`` is the error that ended it, if any.

    Attributes:
        maybe_delivered: True if the request was in flight when the client was closed.
    """

    def __init__(
        self, message: str = "the client is closed", maybe_delivered: bool = False
    ) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class RunNotKnown(DispatchError):
    """The run's id is not known yet: the server sends it only when the run has ended."""


class NotSupported(DispatchError):
    """The transport in use cannot do this; the message names one that can."""


class InternalError(DispatchError):
    """A bug in this package; ``__cause__`` is the original error. Please report it."""


class JobFailed(DispatchError):
    """A job ended without completing.

    Attributes:
        job: the job in its last state, including `Job.last_error`.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.job = job

    def __str__(self) -> str:
        reason = f": {self.job.last_error}" if self.job.last_error else ""
        return f"job {self.job.id} ({self.job.name}) is {self.job.state}{reason}"


class JobCancelled(JobFailed):
    """A job was cancelled on the server."""


class WorkflowFailed(DispatchError):
    """A workflow run failed.

    Attributes:
        run: the run in its last state, including `WorkflowRun.error`.
    """

    def __init__(self, run: WorkflowRun) -> None:
        super().__init__(run)
        self.run = run

    def __str__(self) -> str:
        reason = f": {self.run.error}" if self.run.error else ""
        return f"workflow run {self.run.id} ({self.run.name}) is {self.run.state}{reason}"


class RequestError(DispatchError):
    """The server answered a request with an error frame.

    Attributes:
        code: the server's code, with the meaning of an HTTP status (`ErrorCode`).
        message: the server's message.
        details: further details from the server, if any.
        method: the method that was refused; empty if it is not known.
    """

    def __init__(self, code: int, message: str, details: object = None, method: str = "") -> None:
        super().__init__(code, message, details, method)
        self.code = code
        self.message = message
        self.details = details
        self.method = method

    def __str__(self) -> str:
        subject = f"{self.method}: " if self.method else ""
        details = f" ({self.details})" if self.details is not None else ""
        return f"{subject}{self.code} {self.message}{details}"


class BadRequest(RequestError):
    """400: the server could not understand the request."""


class AuthError(RequestError):
    """401: the server refused the token."""


class PermissionDenied(RequestError):
    """403: the token lacks the scope that the method needs."""


class NotFound(RequestError):
    """404: no such job or run.

    `Client.cancel_job` also raises it while the server cannot reach its store, because the server's
    answer is the same then.
    """


class MethodNotSupported(RequestError):
    """405: this server does not have the method."""


class Conflict(RequestError):
    """409: the request conflicts with the present state."""


class ServerError(RequestError):
    """500 and above: the server failed while it handled the request.

    Also 404, if the message shows that the server could not reach its store. Then it is unknown
    whether the job or run exists.
    """


_BY_CODE: dict[int, type[RequestError]] = {
    ErrorCode.BAD_REQUEST: BadRequest,
    ErrorCode.UNAUTHORIZED: AuthError,
    ErrorCode.FORBIDDEN: PermissionDenied,
    ErrorCode.NOT_FOUND: NotFound,
    ErrorCode.METHOD_NOT_ALLOWED: MethodNotSupported,
    ErrorCode.CONFLICT: Conflict,
}


def request_error(body: ErrorBody, method: str = "") -> RequestError:
    """Build the `RequestError` for an error frame's body, by its code."""
    fallback = ServerError if body.code >= ErrorCode.INTERNAL else RequestError
    cls = _BY_CODE.get(body.code, fallback)
    if cls is NotFound and _is_failure_of_the_store(body.message):
        cls = ServerError
    return cls(body.code, body.message, body.details, method)


def _is_failure_of_the_store(message: str) -> bool:
    """Return whether a 404 means that the server could not reach its store.

    If the job does not exist, the message is ``job not found: dispatch: job not found``; the same
    holds for runs. Any other text after the first colon is an error of the store's driver
    (protocol, "Several servers on one store").
    """
    for what in ("job not found", "run not found"):
        if message.startswith(f"{what}: "):
            return message != f"{what}: dispatch: {what}"
    return False


def fresh(error: E) -> E:
    """Copy an error that several tasks will raise, so that each has its own traceback.

    If an error cannot be copied (the constructors of users' errors may take other arguments than
    they keep), it is returned itself.
    """
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever its constructor says
        return error
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = error.__suppress_context__
    return copied
