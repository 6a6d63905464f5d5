"""The exception tree.

Everything that this package raises for a reason of its own is a `DispatchError`; arguments that
could never work are plain `TypeError` and `ValueError`, raised before anything is sent. Each class
keeps its constructor's arguments in ``args``, so errors copy and pickle.
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

    The message names the URL (without secrets) and the reason; ``__cause__`` is the error behind
    it.

    Attributes:
        retry_after: seconds after which the server asked to be tried again; None if it did not.
    """

    def __init__(self, message: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return str(self.args[0])


class ConnectionLost(DispatchError):
    """The connection ended under a request.

    Attributes:
        maybe_delivered: True when the request had been written: the server may or may not have
            carried it out. False when it was never written, so it certainly did not.
    """

    def __init__(self, message: str, maybe_delivered: bool = False) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class RequestTimeout(DispatchError):
    """No answer came within ``request_timeout``.

    Attributes:
        maybe_delivered: True when the request had been written: the server may still carry it
            out. False when it was withdrawn unsent.
    """

    def __init__(self, message: str, maybe_delivered: bool = False) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class ProtocolError(DispatchError):
    """The other side sent what no Dispatch server sends: not a frame, or not where one belongs."""


class SubscriptionOverflow(DispatchError):
    """A subscription's reader was slower than its events, and its buffer was full.

    What was stored has been delivered; the next ``receive`` goes on with new events.

    Attributes:
        missed: how many events were not stored.
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
    """The client (or link) is closed; ``__cause__`` is the error that ended it, if one did.

    Attributes:
        maybe_delivered: True for a request that was in flight when the client was closed.
    """

    def __init__(
        self, message: str = "the client is closed", maybe_delivered: bool = False
    ) -> None:
        super().__init__(message, maybe_delivered)
        self.maybe_delivered = maybe_delivered

    def __str__(self) -> str:
        return str(self.args[0])


class RunNotKnown(DispatchError):
    """The run's id is not known yet: the server names it only when the run has ended."""


class NotSupported(DispatchError):
    """The transport in use cannot do this; the message names one that can."""


class InternalError(DispatchError):
    """A bug in this package; ``__cause__`` shows it. Please report it."""


class JobFailed(DispatchError):
    """A job ended without completing.

    Attributes:
        job: its last state, `Job.last_error` included.
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
        run: its last state, `WorkflowRun.error` included.
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
        code: the server's code, an HTTP status by meaning (`ErrorCode`).
        message: the server's own words.
        details: what it added, if anything.
        method: the method that was refused; empty when it is not known.
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
    """400: the server could not make sense of the request."""


class AuthError(RequestError):
    """401: the server refused the token."""


class PermissionDenied(RequestError):
    """403: the token lacks the scope that the method needs."""


class NotFound(RequestError):
    """404: no such job or run.

    `Client.cancel_job` raises it also while the server cannot reach its store: its answer is the
    same then.
    """


class MethodNotSupported(RequestError):
    """405: this server does not have the method."""


class Conflict(RequestError):
    """409: the request contradicts the present state."""


class ServerError(RequestError):
    """500 and above: the server failed while it handled the request.

    Or 404, if the text says that the server could not reach its store: whether there is such a job
    or run is not known then.
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
    """Whether a 404 means that the server could not look.

    A true miss reads ``job not found: dispatch: job not found``, and so for runs; anything else
    behind the first colon is what the store's driver said (protocol, "Several servers on one
    store").
    """
    for what in ("job not found", "run not found"):
        if message.startswith(f"{what}: "):
            return message != f"{what}: dispatch: {what}"
    return False


def fresh(error: E) -> E:
    """Copy an error that several tasks will raise, so that each grows a traceback of its own.

    An error that cannot be copied (users' own may take other arguments than they keep) is returned
    itself.
    """
    try:
        copied = copy.copy(error)
    except Exception:  # noqa: BLE001 - whatever its constructor says
        return error
    copied.__cause__ = error.__cause__
    copied.__suppress_context__ = error.__suppress_context__
    return copied
