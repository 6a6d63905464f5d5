"""Errors: one tree, a class for each code, and the facts on the exception."""

from __future__ import annotations

import copy
import pickle
import sys
from typing import Any, cast

import pytest

from trio_dispatch import EnqueueManyFailed
from trio_dispatch._wire import errors as _errors
from trio_dispatch._wire.errors import (
    AuthError,
    BadRequest,
    ClientClosed,
    Conflict,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    JobCancelled,
    JobFailed,
    MethodNotSupported,
    NotFound,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    RequestError,
    RequestTimeout,
    RunNotKnown,
    ServerError,
    SubscriptionOverflow,
    WorkflowFailed,
    fresh,
    request_error,
)
from trio_dispatch._wire.frames import ErrorBody
from trio_dispatch._wire.models import Job, WorkflowRun

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

JOB = Job(id="job_1", name="fail", state="failed", last_error="boom")
RUN = WorkflowRun(id="wfrun_1", name="order-pipeline", state="failed", error="no items")

ERRORS: list[DispatchError] = [
    DispatchError("x"),
    ConnectFailed("x"),
    ConnectionLost("x", True),
    ConnectionLost("x"),
    RequestTimeout("x", True),
    RequestTimeout("x"),
    ProtocolError("x"),
    SubscriptionOverflow(3),
    ClientClosed("x"),
    RunNotKnown("x"),
    NotSupported("x"),
    InternalError("x"),
    JobFailed(JOB),
    JobCancelled(JOB),
    WorkflowFailed(RUN),
    RequestError(418, "teapot"),
    BadRequest(400, "no", {"why": "because"}, "job.get"),
    ServerError(503, "later", None, "stats"),
    EnqueueManyFailed("x", [ConnectionLost("y", True), NotFound(404, "z")], [None, None]),
]
EACH = pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)


def facts(error: BaseException) -> dict[str, object]:
    """What an error knows, comparable (exceptions themselves compare by identity)."""
    if isinstance(error, EnqueueManyFailed):
        inner = [facts(e) for e in error.exceptions]
        return {"message": error.message, "inner": inner, "handles": error.handles}
    known = {name: value for name, value in vars(error).items() if not name.startswith("__")}
    return {"type": type(error), "args": error.args, "text": str(error), "known": known}


# The tree.


def test_one_except_clause_catches_everything_of_this_package() -> None:
    classes = [
        cls
        for cls in vars(_errors).values()
        if isinstance(cls, type)
        and issubclass(cls, BaseException)
        and cls.__module__ == _errors.__name__
    ]
    assert len(classes) > 20
    assert all(issubclass(cls, DispatchError) for cls in classes)
    assert all(cls.__doc__ for cls in classes)


@pytest.mark.parametrize(
    ("code", "cls"),
    [
        (400, BadRequest),
        (401, AuthError),
        (403, PermissionDenied),
        (404, NotFound),
        (405, MethodNotSupported),
        (409, Conflict),
        (500, ServerError),
        (503, ServerError),
        (0, RequestError),
        (418, RequestError),
        (499, RequestError),
    ],
)
def test_an_error_frame_becomes_the_class_of_its_code(code: int, cls: type[RequestError]) -> None:
    error = request_error(ErrorBody(code, "words", {"a": 1}), "job.get")
    assert type(error) is cls
    assert isinstance(error, RequestError)
    assert (error.code, error.message, error.details) == (code, "words", {"a": 1})
    assert error.method == "job.get"


def test_a_request_error_tells_method_code_words_and_details() -> None:
    assert str(request_error(ErrorBody(404, "job not found"), "job.get")) == (
        "job.get: 404 job not found"
    )
    assert str(request_error(ErrorBody(400, "no", ["a"]))) == "400 no (['a'])"


@pytest.mark.parametrize("cls", [ConnectionLost, RequestTimeout, ClientClosed])
def test_errors_of_delivery_say_whether_the_server_may_have_seen_the_request(
    cls: type[ConnectionLost | RequestTimeout | ClientClosed],
) -> None:
    assert cls("gone", True).maybe_delivered is True
    assert cls("gone").maybe_delivered is False
    assert str(cls("gone", True)) == "gone"


def test_an_overflow_says_how_much_is_missing_and_what_to_do() -> None:
    error = SubscriptionOverflow(17)
    assert error.missed == 17
    assert "17 events" in str(error)
    assert "buffer=" in str(error)


def test_a_failed_job_tells_its_state_and_its_reason() -> None:
    assert str(JobFailed(JOB)) == "job job_1 (fail) is failed: boom"
    cancelled = JobCancelled(Job(id="job_1", name="fail", state="cancelled"))
    assert str(cancelled) == "job job_1 (fail) is cancelled"
    assert isinstance(cancelled, JobFailed)


def test_a_failed_run_tells_its_state_and_its_reason() -> None:
    assert str(WorkflowFailed(RUN)) == ("workflow run wfrun_1 (order-pipeline) is failed: no items")
    silent = WorkflowFailed(WorkflowRun(id="wfrun_1", name="w", state="failed"))
    assert str(silent) == "workflow run wfrun_1 (w) is failed"


# Copies.


@EACH
def test_errors_copy_and_pickle(error: DispatchError) -> None:
    for copied in (copy.copy(error), copy.deepcopy(error), pickle.loads(pickle.dumps(error))):
        assert facts(copied) == facts(error)


@EACH
def test_each_task_gets_an_error_with_a_traceback_of_its_own(error: DispatchError) -> None:
    cause = ValueError("the reason")
    try:
        raise copy.copy(error) from cause
    except DispatchError as exc:
        raised = exc
    copied = fresh(raised)
    assert copied is not raised
    assert facts(copied) == facts(raised)
    assert copied.__cause__ is cause
    assert copied.__suppress_context__
    assert raised.__traceback__ is not None
    assert copied.__traceback__ is None


# Groups.


def failed() -> EnqueueManyFailed:
    handles = cast("Any", ["handle", None, None])
    return EnqueueManyFailed(
        "2 of 3 entries failed", [ConnectionLost("a", True), NotFound(404, "b")], handles
    )


def test_a_failed_batch_is_a_group_and_a_dispatch_error() -> None:
    error = failed()
    assert isinstance(error, ExceptionGroup)
    assert isinstance(error, DispatchError)
    assert [type(e) for e in error.exceptions] == [ConnectionLost, NotFound]
    assert error.handles == ["handle", None, None]
    assert EnqueueManyFailed("x", [ValueError()]).handles == []


def test_splitting_a_failed_batch_keeps_the_handles_on_both_parts() -> None:
    lost, rest = failed().split(ConnectionLost)
    for part, cls in ((lost, ConnectionLost), (rest, NotFound)):
        assert isinstance(part, EnqueueManyFailed)
        assert [type(e) for e in part.exceptions] == [cls]
        assert part.handles == ["handle", None, None]
        assert part.message == "2 of 3 entries failed"
    assert isinstance(failed().subgroup(NotFound), EnqueueManyFailed)


@pytest.mark.parametrize("what", ["job", "run"])
@pytest.mark.parametrize(
    ("says", "expected"),
    [
        (": dispatch: {what} not found", NotFound),
        ("", NotFound),
        (": dispatch/bun: get {what}: unexpected EOF", ServerError),
        (": dispatch/redis: get {what}: connection refused", ServerError),
    ],
)
def test_a_404_that_tells_of_the_store_is_no_miss(
    what: str, says: str, expected: type[RequestError]
) -> None:
    message = f"{what} not found" + says.format(what=what)
    error = request_error(ErrorBody(404, message), f"{what}.get")
    assert type(error) is expected
    assert (error.code, error.message) == (404, message)
