"""The life of a call at a service, from its acceptance to its outcome.

Each call is one task. It runs the function at its endpoint, and does what the answer says: it ends,
tries again, waits for calls that the function has made and runs it again with their results, or
goes on as another call. All of it ends when the call expires.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Final

import attrs
import trio
from google.protobuf import any_pb2

from trio_dispatch.remote._accepting import check_call, check_calls, expiration_of
from trio_dispatch.remote._call import DispatchID
from trio_dispatch.remote._connect import Refused
from trio_dispatch.remote._messages import (
    RETRIED,
    CallResult,
    Error,
    RunRequest,
    Status,
)
from trio_dispatch.remote._outcomes import CallError, CallInfo, CallState, EventType, Outcome
from trio_dispatch.remote._reaching import AttemptFailed, Reach
from trio_dispatch.remote._time import now
from trio_dispatch.remote._values import unmarshal

_log = logging.getLogger("trio_dispatch.remote")

MAX_EXPIRATION: Final = timedelta(days=3650)
"""What a call that asks for more gets: its end must be a date."""


@attrs.frozen(kw_only=True)
class Policy:
    """How a service treats calls. Times are seconds."""

    expiration: float
    attempt_timeout: float
    min_retry_delay: float
    max_retry_delay: float


class Record:
    """A call, as the service knows it."""

    def __init__(
        self, id: DispatchID, message: Any, parent: Record | None, expiration: timedelta
    ) -> None:
        self.id = id
        self.parent = parent
        self.root: DispatchID = parent.root if parent else id
        self.stage = 0
        """How often it has gone on as another call."""
        self.stage_of_parent = parent.stage if parent else 0
        """The parent's when this call was made: only that function waits for it."""
        self.correlation_id: int = message.correlation_id
        self.endpoint = ""
        self.function = ""
        self.input: Any = None
        self.become(message, parent.endpoint if parent else "")
        self.created = now()
        self.expires = self.created
        self.deadline = math.inf
        self.expire_after(expiration)
        self.state: CallState = "waiting"
        self.attempts = 0
        self.status: Status | None = None
        self.error: CallError | None = None
        self.children: list[DispatchID] = []
        self.ended: datetime | None = None
        self.outcome: Outcome | None = None
        self.result: Any = None
        """The outcome for a function that has made the call."""
        self.done = trio.Event()
        # Calls that its function has made, and whose results it has not got.
        self.outstanding = 0
        self.arrived: list[Record] = []
        self.arrival = trio.Event()

    def become(self, message: Any, default_endpoint: str) -> None:
        """Go on as the call *message*."""
        self.endpoint = (message.endpoint or default_endpoint).rstrip("/")
        self.function = message.function
        self.input = message.input

    def expire_after(self, expiration: timedelta) -> None:
        """Expire so long after the call was accepted."""
        expiration = min(expiration, MAX_EXPIRATION)
        self.expires = self.created + expiration
        left = (self.expires - now()).total_seconds()
        self.deadline = trio.current_time() + left

    def info(self) -> CallInfo:
        """What the service shows of it."""
        packed = any_pb2.Any(type_url=self.input.type_url, value=self.input.value)
        return CallInfo(
            id=self.id,
            endpoint=self.endpoint,
            function=self.function,
            state=self.state,
            attempts=self.attempts,
            status=self.status,
            error=self.error,
            parent=self.parent.id if self.parent else None,
            root=self.root,
            children=tuple(self.children),
            created=self.created,
            expires=self.expires,
            ended=self.ended,
            input=packed,
        )

    def request(self) -> Any:
        """What its endpoint is sent, without a directive."""
        request = RunRequest(
            function=self.function,
            dispatch_id=self.id,
            parent_dispatch_id=self.parent.id if self.parent else "",
            root_dispatch_id=self.root,
        )
        request.creation_time.FromDatetime(self.created)
        request.expiration_time.FromDatetime(self.expires)
        return request

    def first_request(self) -> Any:
        """What its endpoint is sent first."""
        request = self.request()
        request.input.CopyFrom(self.input)
        return request


Report = Callable[[EventType, Record, float | None], None]
Start = Callable[[Any, Record], Record]
"""Accepts a call that a function has made."""


class Driver:
    """Drives the calls of one service."""

    def __init__(
        self,
        policy: Policy,
        reach: Reach,
        places: trio.CapacityLimiter,
        start: Start,
        report: Report,
        random: random.Random,
    ) -> None:
        self._policy = policy
        self._reach = reach
        self._places = places
        self._start = start
        self._report = report
        self._random = random

    async def drive(self, record: Record) -> None:
        """Bring a call to its end, whatever its endpoint does."""
        try:
            while record.outcome is None:
                with trio.CancelScope(deadline=record.deadline):
                    await self._drive(record)
                if trio.current_time() >= record.deadline and not record.done.is_set():
                    self._end(record, Status.TIMEOUT, CallError("Expired", _expired(record)))
        except Exception:  # noqa: BLE001 - a bug of ours
            _log.exception("call %s of %s has failed by a bug", record.id, record.function)
            text = "a bug of the service has ended the call; its log says more"
            self._end(record, Status.TEMPORARY_ERROR, CallError("InternalError", text))

    async def _drive(self, record: Record) -> None:
        """Drive a call until it has ended, or goes on as another one."""
        request = record.first_request()
        failures = 0
        error: CallError | None
        while True:
            try:
                response = await self._attempt(record, request)
            except AttemptFailed as exc:
                status, error = exc.status, CallError(exc.status.name, exc.message)
            else:
                status, error = _status_of(response)
                directive = response.WhichOneof("directive")
                if directive == "exit" and response.exit.HasField("tail_call"):
                    self._tail_call(record, response.exit.tail_call)
                    return
                if directive == "poll" and status is Status.OK:
                    request = await self._poll(record, response.poll)
                    failures = 0
                    continue
                if directive is None and status is Status.OK:
                    status = Status.INVALID_RESPONSE
                    error = CallError(status.name, "the answer has neither an exit nor a poll")
                if directive == "exit" and status not in RETRIED:
                    self._end(record, status, error, response.exit.result.output)
                    return
            if status not in RETRIED:
                self._end(record, status, error)
                return
            record.status, record.error, record.state = status, error, "retrying"
            delay = self._delay(failures)
            failures += 1
            self._report("retrying", record, delay)
            await trio.sleep(delay)

    def _delay(self, failures: int) -> float:
        """Full delays are doubled each time; the jitter takes up to half of one away."""
        full = self._policy.min_retry_delay * 2.0 ** min(failures, 40)
        return min(full, self._policy.max_retry_delay) * self._random.uniform(0.5, 1)

    async def _attempt(self, record: Record, request: Any) -> Any:
        resumed = request.WhichOneof("directive") == "poll_result" and record.state == "suspended"
        async with self._places:
            if not resumed:
                record.attempts += 1
            record.state = "running"
            self._report("resumed" if resumed else "started", record, None)
            left = record.deadline - trio.current_time()
            timeout = self._policy.attempt_timeout
            body = request.SerializeToString()
            with trio.move_on_after(timeout):
                return await self._reach.run(record.endpoint, body, min(left, timeout))
            text = f"{record.endpoint} has not answered within {timeout:g} s"
            raise AttemptFailed(Status.TIMEOUT, text)

    def _tail_call(self, record: Record, call: Any) -> None:
        """Go on as *call*, perhaps with another deadline, or end."""
        try:
            check_call(call, self._reach.problem, record.endpoint)
        except (TypeError, ValueError) as exc:
            error = CallError("InvalidTailCall", str(exc))
            self._end(record, Status.INVALID_RESPONSE, error)
            return
        record.become(call, record.endpoint)
        record.state = "waiting"
        # The function that waited for these is done.
        record.stage += 1
        record.outstanding = 0
        record.arrived.clear()
        if call.HasField("expiration"):
            record.expire_after(expiration_of(call))
        self._report("tail_call", record, None)

    # Polls

    async def _poll(self, record: Record, poll: Any) -> Any:
        """Start the calls of *poll*, wait for results, and return the next request."""
        request = record.request()
        result = request.poll_result
        result.coroutine_state = poll.coroutine_state
        if poll.HasField("typed_coroutine_state"):
            result.typed_coroutine_state.CopyFrom(poll.typed_coroutine_state)
        record.state = "suspended"
        try:
            check_calls(poll.calls, self._reach.problem, record.endpoint)
        except Refused as exc:
            result.error.type, result.error.message = exc.code, exc.message
            self._report("refused", record, None)
            await trio.sleep(self._policy.min_retry_delay)
            return request
        for call in poll.calls:
            child = self._start(call, record)
            record.children.append(child.id)
            record.outstanding += 1
        self._report("suspended", record, None)
        await self._wait(record, poll)
        most = poll.max_results if poll.max_results > 0 else len(record.arrived)
        for child in record.arrived[:most]:
            result.results.add().CopyFrom(child.result)
        del record.arrived[:most]
        return request

    async def _wait(self, record: Record, poll: Any) -> None:
        """Wait until enough results have come, or *poll*'s patience is at its end."""
        seconds = math.inf
        if poll.HasField("max_wait"):
            seconds = max(poll.max_wait.seconds + poll.max_wait.nanos / 1e9, 0.0)
        elif not record.outstanding and not record.arrived:
            # There is nothing to wait for; but an endpoint that keeps asking is not asked as fast.
            seconds = self._policy.min_retry_delay
        wanted = max(poll.min_results, 1)
        with trio.move_on_after(seconds):
            while True:
                everything = len(record.arrived) + record.outstanding
                if everything and len(record.arrived) >= min(wanted, everything):
                    return
                record.arrival = trio.Event()
                await record.arrival.wait()

    # The end

    def _end(
        self, record: Record, status: Status, error: CallError | None, output: Any = None
    ) -> None:
        record.status, record.error, record.state = status, error, "ended"
        record.ended = now()
        record.result = CallResult(correlation_id=record.correlation_id, dispatch_id=record.id)
        if error is None:
            if output is not None:
                record.result.output.CopyFrom(output)
        else:
            record.result.error.CopyFrom(
                Error(type=error.type, message=error.message, traceback=error.traceback.encode())
            )
        record.outcome = Outcome(
            id=record.id,
            function=record.function,
            status=status,
            value=_value_of(output) if error is None else None,
            error=error,
            attempts=record.attempts,
            parent=record.parent.id if record.parent else None,
            root=record.root,
            children=tuple(record.children),
        )
        record.done.set()
        parent = record.parent
        if parent is not None and parent.outcome is None and parent.stage == record.stage_of_parent:
            parent.outstanding -= 1
            parent.arrived.append(record)
            parent.arrival.set()
        self._report("ended", record, None)


def _status_of(response: Any) -> tuple[Status, CallError | None]:
    """The status of an answer, and the error that it names."""
    try:
        status = Status(response.status)
    except ValueError:
        status = Status.UNSPECIFIED
    if status is Status.UNSPECIFIED:
        text = f"the answer has the status {response.status}, which there is not"
        return Status.INVALID_RESPONSE, CallError("INVALID_RESPONSE", text)
    error = response.exit.result.error
    if error.type or error.message:
        trace = error.traceback.decode("utf-8", "replace")
        return status, CallError(error.type, error.message, trace)
    if status is Status.OK:
        return status, None
    return status, CallError(status.name, "the function has not said why")


def _value_of(output: Any) -> object:
    if output is None:
        return None
    packed = any_pb2.Any(type_url=output.type_url, value=output.value)
    try:
        return unmarshal(packed)
    except ValueError:
        return packed


def _expired(record: Record) -> str:
    lifetime = (record.expires - record.created).total_seconds()
    text = f"the call expired {lifetime:g} s after it was made, at attempt {record.attempts}"
    if record.state == "suspended":
        return f"{text}, while its function waited for {record.outstanding} calls"
    if record.error is not None and record.status is not None:
        cause = f"{record.status.name}: {record.error.type}: {record.error.message}"
        if record.error.type == record.status.name:
            cause = f"{record.status.name}: {record.error.message}"
        return f"{text}; the last cause was {cause}"
    return f"{text}, while its function ran" if record.attempts else f"{text}, before its turn"
