"""What functions of an endpoint use: calls of other functions, and facts about their own call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, Final, Protocol

import attrs
import trio

from trio_dispatch._wire.errors import ProtocolError
from trio_dispatch.remote._call import Call, DispatchID
from trio_dispatch.remote._errors import FunctionFailed
from trio_dispatch.remote._values import unmarshal

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import ExceptionGroup


@attrs.frozen
class CurrentCall:
    """The call that a function runs for."""

    function: str
    """The function's name at its endpoint."""
    dispatch_id: DispatchID | None
    """The call's own id: the same each time the function runs for it."""
    parent_dispatch_id: DispatchID | None
    """The call whose function made this one; None if a client did."""
    root_dispatch_id: DispatchID | None
    """The call that a client made, and that led to this one."""
    creation_time: datetime | None
    """When the call was accepted."""
    expiration_time: datetime | None
    """When the service stops trying. The function is cancelled then."""


class CallingRun(Protocol):
    """The run of a function, as its calls need it."""

    current: CurrentCall

    def begin(self, calls: Sequence[Call], wait: Wait) -> None:
        """Have *calls* made, and their results given to *wait*."""
        ...

    def give_up(self, wait: Wait) -> None:
        """*wait* takes no more results."""
        ...


running: Final = ContextVar[CallingRun]("trio_dispatch.remote.running")
"""The run that this task, or this thread, belongs to."""

Result = object | FunctionFailed | ProtocolError


class Wait:
    """Waits for results of calls that were made together.

    Args:
        calls: the calls.
        enough: how many results end it.
        good: whether failures do not count, until there is nothing else.
    """

    def __init__(self, calls: Sequence[Call], enough: int, *, good: bool = False) -> None:
        self.calls = calls
        self.task = trio.lowlevel.current_task()
        self.deadline = trio.current_effective_deadline()
        self.results: dict[int, Result] = {}
        """By index, in the order of their arrival."""
        self._enough = enough
        self._good = good
        self._event = trio.Event()

    def deliver(self, index: int, result: Result) -> bool:
        """Take the result of the call at *index*; whether that ends the wait."""
        self.results[index] = result
        failed = isinstance(result, Exception)
        done = len(self.results) == len(self.calls)
        if self._good:
            done = done or not failed
        else:
            # One failure ends a wait for all.
            done = done or failed or len(self.results) >= self._enough
        if done:
            self._event.set()
        return done

    async def ended(self, run: CallingRun) -> None:
        """Wait. Cancelled, or ended before all have come, it takes no more."""
        try:
            await self._event.wait()
        finally:
            run.give_up(self)


def current_call() -> CurrentCall:
    """The call that this function runs for.

    Raises:
        RuntimeError: this is not a function of an endpoint.
    """
    return _run("current_call").current


async def call(call: Call) -> object:
    """Call a function on an endpoint, and return its result.

    The function that awaits it is suspended: the service makes the call, and the endpoint has no
    request open meanwhile. Only functions of an `Endpoint` can use this; in a sync function it is
    ``trio.from_thread.run(remote.call, call)``.

    Cancelled before the call has gone out, it never does. Afterwards the call runs on, and nobody
    hears of its result.

    Raises:
        FunctionFailed: the call has failed.
        ProtocolError: its result cannot be read.
        RuntimeError: this is not a function of an endpoint.
    """
    (result,) = await gather(call)
    return result


async def gather(*calls: Call) -> list[object]:
    """Call functions at the same time, and return their results in the order of the calls.

    The first that fails raises its error at once; the other calls run on, and nobody hears of
    their results. Otherwise as `call`.
    """
    wait = await _ended("gather", calls, len(calls))
    for result in wait.results.values():
        if isinstance(result, Exception):
            raise result
    return [wait.results[index] for index in range(len(calls))]


async def any_of(*calls: Call) -> object:
    """Call functions at the same time, and return the first result that is no failure.

    The other calls run on. Otherwise as `call`.

    Raises:
        ExceptionGroup: all calls have failed; it holds a `FunctionFailed` for each.
        ValueError: there are no calls.
    """
    _check_some(calls)
    wait = await _ended("any_of", calls, 1, good=True)
    errors: list[Exception] = []
    for result in wait.results.values():
        if not isinstance(result, Exception):
            return result
        errors.append(result)
    raise ExceptionGroup(f"all {len(calls)} calls have failed", errors)


async def race(*calls: Call) -> object:
    """Call functions at the same time; the first that ends gives its result, or raises its error.

    The other calls run on. Otherwise as `call`.

    Raises:
        ValueError: there are no calls.
    """
    _check_some(calls)
    wait = await _ended("race", calls, 1)
    first = next(iter(wait.results.values()))
    if isinstance(first, Exception):
        raise first
    return first


async def _ended(name: str, calls: Sequence[Call], enough: int, *, good: bool = False) -> Wait:
    run = _run(name)
    for call in calls:
        if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"remote.{name} takes calls, not {type(call).__name__}")
    await trio.lowlevel.checkpoint_if_cancelled()
    wait = Wait(calls, enough, good=good)
    if not calls:
        await trio.lowlevel.cancel_shielded_checkpoint()
        return wait
    run.begin(calls, wait)
    await wait.ended(run)
    return wait


def _run(name: str) -> CallingRun:
    try:
        return running.get()
    except LookupError:
        raise RuntimeError(
            f"remote.{name} is for functions of an Endpoint while they run; "
            "elsewhere, dispatch calls with a client"
        ) from None


def _check_some(calls: Sequence[Call]) -> None:
    if not calls:
        raise ValueError("there is no call to wait for")


def result_of(call: Call, message: Any) -> Result:
    """What *message*, a CallResult, says of *call*."""
    error = message.error
    if message.HasField("error") and (error.type or error.message):
        trace = error.traceback.decode("utf-8", "replace")
        id = DispatchID(message.dispatch_id) if message.dispatch_id else None
        return FunctionFailed(call.function, error.type, error.message, trace, id)
    try:
        return unmarshal(message.output)
    except ValueError as exc:
        return ProtocolError(f"the result of {call.function} cannot be read: {exc}")
