"""Runs of an endpoint's functions, which end or are suspended while others run for them.

A function that calls others does not keep a request open. Its run is a task that lives in this
process; the service gets a poll with the calls and a state, and sends the state back with their
results. The state names the run, and holds the function's input as well: where the run is not in
memory any more (the endpoint was restarted, or the run was evicted), the function starts again, and
gets the results that calls of the earlier run still bring, if it makes the same calls.
So a function may run more than once, in whole or in part, as it may after any other failure.
"""

from __future__ import annotations

import logging
import math
import secrets
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timezone
from hashlib import sha256
from typing import Any, Final, Literal

import attrs
import msgspec
import trio

from trio_dispatch._transport.groups import leaves
from trio_dispatch.remote._call import Call, DispatchID
from trio_dispatch.remote._current import CurrentCall, Wait, result_of, running
from trio_dispatch.remote._messages import RETRIED, CallResult, RunResponse, Status
from trio_dispatch.remote._statuses import Failure, failure_of
from trio_dispatch.remote._time import now
from trio_dispatch.remote._values import marshal, unmarshal

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup

Function = Callable[[object], Awaitable[object]]

MAX_SUSPENDED: Final = 10_000
"""Suspended runs that are kept. The oldest are given up for new ones, and start again if needed."""
SETTLE: Final = 0.02
"""Seconds for which a function that has got a result may work before the service is asked for those
that it still waits for."""
LONG_WAIT: Final = 300.0
"""Seconds after which the service asks again, if nothing but results can wake the function."""
FIRST_WAIT: Final = 1.0
MAX_WAIT: Final = 60.0
"""Seconds after which it asks again, if the function does something else as well; they double."""
MIN_WAIT: Final = 0.01
KEPT: Final = 2 * MAX_WAIT
"""Seconds for which the end of a suspended run is kept for a service that has not asked yet."""
MAX_RESULTS: Final = 1_000
_TICKS: Final = 3
_INTERRUPTS: Final = (KeyboardInterrupt, SystemExit, trio.Cancelled)

_log = logging.getLogger("trio_dispatch.remote")


def failed(failure: Failure) -> Any:
    """The answer to a run that has failed."""
    response = RunResponse(status=failure.status)
    error = response.exit.result.error
    error.type, error.message = failure.type, failure.message
    error.traceback = failure.traceback
    return response


class State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the service keeps for a suspended run."""

    version: Literal[1]
    run: bytes
    step: int
    """How many polls were answered before."""
    type_url: str
    value: bytes
    """The function's input."""

    @classmethod
    def unpack(cls, data: bytes) -> State | None:
        """Read it; None if it is none of ours."""
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


class Run:
    """One run of a function, from its start to its end. `main` is its task."""

    def __init__(self, request: Any, function: Function, input: Any) -> None:
        self.id = secrets.token_bytes(16)
        self.current = _current_call(request)
        self.answering = False
        """Whether a request waits for it."""
        self.step = 0
        self.last: Any = None
        """The last poll that was answered, for a service that did not get it."""
        self._function = function
        self._input = input
        self._scope = trio.CancelScope(deadline=_deadline(request))
        self._given_up = False
        self._response: Any = None
        self._collected = trio.Event()
        self._changed = trio.Event()
        self._made: Counter[bytes] = Counter()
        self._early: dict[int, Any] = {}
        """Results of calls that this run has not made, by correlation id: of an earlier start."""
        self._new: list[tuple[int, Call]] = []
        self._waiting: dict[int, tuple[Wait, int]] = {}
        """By correlation id: who waits for it, and for which of its calls it is."""
        self._woken = True
        self._wait = FIRST_WAIT
        self._task: trio.lowlevel.Task | None = None

    # The function's side

    async def main(self) -> None:
        """Run the function, and keep its end for the service."""
        running.set(self)
        self._task = trio.lowlevel.current_task()
        try:
            with self._scope:
                self._response = await self._finish()
            if self._scope.cancelled_caught:
                text = "the call expired while the function ran"
                self._response = failed(Failure(Status.TIMEOUT, "TimeoutError", text))
        except Exception as exc:  # noqa: BLE001 - users' code
            self._fail(exc)
        except BaseExceptionGroup as group:
            if any(isinstance(leaf, _INTERRUPTS) for leaf in leaves(group)):
                raise
            self._fail(group)
        except GeneratorExit as exc:
            self._fail(exc)
        finally:
            if self._response is None:
                text = "the endpoint ended while the function ran"
                self._response = failed(Failure(Status.TEMPORARY_ERROR, "Cancelled", text))
            self._change()
        if not self._given_up and not self.answering:
            with trio.move_on_after(KEPT):
                await self._collected.wait()

    async def _finish(self) -> Any:
        try:
            argument = unmarshal(self._input)
        except ValueError as exc:
            return failed(Failure(Status.INVALID_ARGUMENT, "ValueError", str(exc)))
        output = await self._function(argument)
        response = RunResponse(status=Status.OK)
        if isinstance(output, Call):
            response.exit.tail_call.CopyFrom(output.message())
            return response
        try:
            packed = marshal(output)
        except (TypeError, ValueError) as exc:
            text = f"a result that cannot be sent: {exc}"
            return failed(Failure(Status.INVALID_RESPONSE, type(exc).__name__, text))
        response.exit.result.output.type_url = packed.type_url
        response.exit.result.output.value = packed.value
        return response

    def _fail(self, exc: BaseException) -> None:
        failure = failure_of(exc)
        if failure.status in RETRIED:
            text = "function %s has failed, to be tried again: %s: %s"
            _log.info(text, self.current.function, failure.type, failure.message)
        elif failure.traceback:
            trace = failure.traceback.decode("utf-8", "replace")
            _log.warning("function %s has failed: %s", self.current.function, trace)
        self._response = failed(failure)

    def begin(self, calls: Sequence[Call], wait: Wait) -> None:
        """Have *calls* made, and their results given to *wait*."""
        for index, call in enumerate(calls):
            id = self._correlation_id(call)
            self._waiting[id] = (wait, index)
            if id in self._early:
                self._deliver(id, self._early.pop(id))
            else:
                self._new.append((id, call))
        self._change()

    def _correlation_id(self, call: Call) -> int:
        """A call's own id in this run: the same again if the function starts again.

        So the result of a call is not lost with the run that made it, if the next one makes it too.
        """
        digest = sha256(call.message().SerializeToString(deterministic=True)).digest()
        self._made[digest] += 1
        numbered = sha256(digest + str(self._made[digest]).encode()).digest()
        return int.from_bytes(numbered[:8], "big")

    def give_up(self, wait: Wait) -> None:
        """*wait* takes no more results; what has not gone out never does."""
        self._waiting = {id: found for id, found in self._waiting.items() if found[0] is not wait}
        self._new = [(id, call) for id, call in self._new if id in self._waiting]

    # The service's side

    def cancel(self) -> None:
        """End it; nobody wants to know how."""
        self._given_up = True
        self._scope.cancel()
        self._collected.set()

    @property
    def ended(self) -> bool:
        """Whether `main` has come to its end."""
        return self._response is not None

    def resume(self, result: Any) -> None:
        """Take a poll's *result*."""
        self._woken = False
        self.remember(result)
        if result.results:
            self._wait = FIRST_WAIT
        if result.HasField("error"):
            # None of the calls of the last poll was accepted.
            refusal = CallResult()
            refusal.error.CopyFrom(result.error)
            refusal.error.type = refusal.error.type or "Refused"
            for call in self.last.poll.calls:
                self._deliver(call.correlation_id, refusal)
        for found in result.results:
            self._deliver(found.correlation_id, found)

    def remember(self, result: Any) -> None:
        """Keep results of calls that the function has not made yet."""
        for found in result.results:
            if found.correlation_id not in self._waiting and len(self._early) < MAX_RESULTS:
                self._early[found.correlation_id] = found

    def _deliver(self, id: int, result: Any) -> None:
        wait, index = self._waiting.pop(id, (None, 0))
        if wait is not None and wait.deliver(index, result_of(wait.calls[index], result)):
            self._woken = True

    async def answer(self) -> Any:
        """Wait for what the service is to be told: the end, or a poll."""
        while self._response is None:
            if self._new:
                for _ in range(_TICKS):
                    # What other tasks of the function call at the same time goes out with it.
                    await trio.lowlevel.checkpoint()
                if self._new and self._response is None:
                    return self._poll()
            elif not self._waiting:
                await self._changed.wait()
            elif not self._woken:
                return self._poll()
            else:
                # Somebody has got a result. If that does not end the function, nor make new calls
                # soon, the service is asked for the others' results.
                with trio.move_on_after(SETTLE) as scope:
                    await self._changed.wait()
                self._woken = not scope.cancelled_caught
        self._collected.set()
        return self._response

    def _poll(self) -> Any:
        self.step += 1
        state = State(1, self.id, self.step, self._input.type_url, self._input.value)
        response = RunResponse(status=Status.OK)
        poll = response.poll
        poll.coroutine_state = msgspec.msgpack.encode(state)
        for id, call in self._new:
            message = poll.calls.add()
            message.CopyFrom(call.message())
            message.correlation_id = id
        poll.min_results, poll.max_results = 1, MAX_RESULTS
        poll.max_wait.FromMilliseconds(math.ceil(self._max_wait() * 1000))
        self._new.clear()
        self._woken = False
        self.last = response
        return response

    def _max_wait(self) -> float:
        """Until when the function can do nothing of its own."""
        waits = {wait for wait, _ in self._waiting.values()}
        (first, *others) = waits
        assert self._task is not None
        if not others and first.task is self._task and not self._task.child_nurseries:
            seconds = LONG_WAIT
        else:
            # Another task of the function may make a call, or end it.
            seconds, self._wait = self._wait, min(self._wait * 2, MAX_WAIT)
        earliest = min(wait.deadline for wait in waits)
        return max(min(seconds, earliest - trio.current_time()), MIN_WAIT)

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Runs:
    """The runs of an endpoint: those that are answered for, and those that are suspended."""

    def __init__(self) -> None:
        self._by_id: dict[bytes, Run] = {}
        """The suspended ones, in the order of their suspension."""
        self._by_call: dict[DispatchID | None, Run] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    async def run(self, request: Any, function: Function, nursery: trio.Nursery) -> Any:
        """Start or resume the run that *request* asks for, and return what to answer.

        Cancelled, the run is cancelled as well. New runs are tasks of *nursery*.
        """
        if request.WhichOneof("directive") == "input":
            run = self._start(request, function, request.input, nursery)
        else:
            result = request.poll_result
            state = State.unpack(result.coroutine_state)
            if state is None:
                text = "the state of the poll is none of this endpoint's"
                return failed(Failure(Status.INCOMPATIBLE_STATE, "ValueError", text))
            found = self._by_id.get(state.run)
            if found is None:
                _log.warning("function %s starts again: its run is gone", request.function)
                run = self._start(request, function, _Input(state.type_url, state.value), nursery)
                run.remember(result)
            elif state.step == found.step - 1:
                return found.last  # that answer has been lost
            elif state.step != found.step:
                text = "the state of the poll is an old one"
                return failed(Failure(Status.INCOMPATIBLE_STATE, "ValueError", text))
            else:
                run = found
                self._take(run)
                run.resume(result)
        return await self._answer(run)

    def _start(self, request: Any, function: Function, input: Any, nursery: trio.Nursery) -> Run:
        run = Run(request, function, input)
        before = self._by_call.get(run.current.dispatch_id)
        if before is not None and run.current.dispatch_id is not None:
            self._give_up(before)  # the service has not got its poll, or it would resume it
        nursery.start_soon(self._main, run)
        return run

    async def _main(self, run: Run) -> None:
        try:
            await run.main()
        finally:
            self._take(run)

    async def _answer(self, run: Run) -> Any:
        run.answering = True
        response = None
        try:
            response = await run.answer()
        finally:
            run.answering = False
            if response is None:
                run.cancel()
        if not run.ended:
            self._suspend(run)
        return response

    def _suspend(self, run: Run) -> None:
        self._by_id[run.id] = run
        self._by_call[run.current.dispatch_id] = run
        if len(self._by_id) > MAX_SUSPENDED:
            self._give_up(next(iter(self._by_id.values())))

    def _take(self, run: Run) -> None:
        self._by_id.pop(run.id, None)
        if self._by_call.get(run.current.dispatch_id) is run:
            del self._by_call[run.current.dispatch_id]

    def _give_up(self, run: Run) -> None:
        self._take(run)
        run.cancel()


@attrs.frozen
class _Input:
    """As much of an ``Any`` as is needed."""

    type_url: str
    value: bytes


def _current_call(request: Any) -> CurrentCall:
    def id(text: str) -> DispatchID | None:
        return DispatchID(text) if text else None

    return CurrentCall(
        request.function,
        id(request.dispatch_id),
        id(request.parent_dispatch_id),
        id(request.root_dispatch_id),
        _time(request, "creation_time"),
        _time(request, "expiration_time"),
    )


def _time(request: Any, field: str) -> datetime | None:
    if not request.HasField(field):
        return None
    try:
        found: datetime = getattr(request, field).ToDatetime(timezone.utc)
    except (ValueError, OverflowError):
        return None
    return found


def _deadline(request: Any) -> float:
    expires = _time(request, "expiration_time")
    return math.inf if expires is None else (expires - now()).total_seconds() + trio.current_time()
