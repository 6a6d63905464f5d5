"""What a workflow's function is given: steps, groups, children, waits and sleeps.

Each call adds a row to the run's timeline when it has succeeded, and a name that has a row already
is not done again (protocol, "Runs and steps"). That is also how a run is resumed. Results are kept
as JSON text.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast, final

import msgspec
import trio

from trio_dispatch._wire.definitions import WorkflowType, name_of
from trio_dispatch.server._execution import Environment, Execution
from trio_dispatch.server._failures import CONTEXT_CANCELED, describe, holds
from trio_dispatch.server._go_json import decode
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._publishing import elapsed_ms
from trio_dispatch.server._store import StepRow, StoreAway
from trio_dispatch.server._waiting import WorkflowEvent, take, waiting

if TYPE_CHECKING:
    from typing_extensions import TypeVarTuple, Unpack

    Args = TypeVarTuple("Args")

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode


class WorkflowError(Exception):
    """A child run failed; the message has its error."""


def _decoded(data: bytes | None) -> Any:
    return None if data is None else decode(data)


@final
class Workflow:
    """One run, as its workflow's function sees it. Servers make these; users never do.

    Every method is a checkpoint, and may be called from several tasks of the run.

    **Names count once.** A step, group, wait, sleep or child whose name was used before in the run
    is not done again: it returns its first result, read back from JSON. So a run whose server was
    stopped continues where it was when a server starts again.
    """

    def __init__(self, environment: Environment, execution: Execution) -> None:
        self._environment = environment
        self._execution = execution
        self._run = execution.row
        # Where each exception came from, by identity: the run's error names the step when that
        # very exception is what ended the run.
        self._failures: dict[int, tuple[BaseException, str]] = {}
        self._cancelled_in = ""
        self._compensations: list[tuple[str, Callable[..., Awaitable[object]], object]] = []

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._run.name

    @property
    def version(self) -> int:
        """The version that the run began with."""
        return self._run.version

    @property
    def parent_run_id(self) -> str:
        """The run that started this one by `child` or `spawn`; empty for none."""
        return self._run.parent_run_id

    @property
    def identity(self) -> Identity:
        """Who started the run."""
        return self._run.identity

    def __repr__(self) -> str:
        return f"<trio_dispatch.server.Workflow {self.name!r} {self.run_id}>"

    # Steps

    async def step(
        self,
        name: str,
        function: Callable[[Unpack[Args]], Awaitable[T]],
        *args: Unpack[Args],
        compensate: Callable[[T], Awaitable[object]]
        | Callable[[], Awaitable[object]]
        | None = None,
    ) -> T:
        """Await ``function(*args)`` as a step, and return its result.

        A result that has no JSON form fails the step with `TypeError`. Whatever *function* raises
        comes out unchanged; a run may catch it and go on, with the failed step missing from the
        timeline.

        Args:
            name: the step's name in the timeline.
            function: an async function.
            args: its arguments.
            compensate: undoes the step: an async function, which is given the step's result if it
                takes an argument. If the run fails later, the compensations of the steps that were
                done run in reverse order, as steps called ``compensate:<step>``. If one of them
                fails, the others run all the same.
        """
        row = await self._row(name)
        result: T
        if row is not None:
            result = _decoded(row.data)
        else:
            result = await self._do(name, f'step "{name}"', function, *args)
        if compensate is not None:
            self._compensations.append((name, compensate, result))
        return result

    async def _do(
        self,
        name: str,
        context: str,
        function: Callable[..., Awaitable[T]],
        *args: Any,
        keeps_none: bool = False,
    ) -> T:
        """Do a step that has no row yet. A failure of it names *context*.

        A result of None is no data; if it *keeps_none*, it is a null.
        """
        began = trio.current_time()
        try:
            called: object = function(*args)
            if not inspect.isawaitable(called):
                raise TypeError(f"step {name!r} needs an async function, not {function!r}")
            result: T = await called
            data = None if result is None and not keeps_none else _encode(result)
            await trio.lowlevel.checkpoint()
            await self._add_row(name, data)
        except BaseException as exc:
            self._note_failure(exc, context)
            if not self._execution.is_cut_off:
                cancelled = holds(exc, trio.Cancelled)
                error = CONTEXT_CANCELED if cancelled else describe(exc)
                self._publish("workflow.step_failed", name, error=error)
            raise
        self._publish("workflow.step_completed", name, elapsed_ms=elapsed_ms(began))
        return result

    def _publish(self, type: str, step: str, **extra: Any) -> None:
        self._environment.publisher.run(type, self._run, step=step, **extra)

    def _note_failure(self, exc: BaseException, context: str) -> None:
        if holds(exc, trio.Cancelled):
            self._cancelled_in = context
        else:
            self._failures[id(exc)] = (exc, context)

    async def _row(self, name: str) -> StepRow | None:
        """The row of *name*, when it was done before."""
        await self._environment.steering.wait_running()
        if self._environment.store.away:
            raise StoreAway(f'get checkpoint "{name}": the store is away')
        row = self._run.steps.get(name)
        if row is not None:
            await trio.lowlevel.checkpoint()
        return row

    async def _add_row(self, name: str, data: bytes | None) -> None:
        await self._environment.steering.wait_running()
        if self._environment.store.away:
            raise StoreAway(f'save checkpoint "{name}": the store is away')
        now = self._environment.clock.now()
        self._run.steps.setdefault(name, StepRow(step_name=name, data=data, created_at=now))

    async def parallel(self, group: str, *functions: Callable[[], Awaitable[T]]) -> list[T]:
        """Await all *functions* at once, each as a step of its own; return their results in order.

        The steps are called ``parallel:<group>:<i>``, and the group has a row of its own. The first
        function that fails cancels the others, and what it raised comes out.
        """
        names = [f"parallel:{group}:{index}" for index in range(len(functions))]
        if await self._row(f"parallel:{group}") is not None:
            return [_decoded(row.data if row else None) for row in map(self._run.steps.get, names)]

        async def branch(name: str, function: Callable[[], Awaitable[Any]]) -> Any:
            row = await self._row(name)
            if row is not None:
                return _decoded(row.data)
            return await self._do(name, f'parallel "{group}"', function)

        results = await self._all(
            [(branch, name, function) for name, function in zip(names, functions, strict=True)]
        )
        await self._add_row(f"parallel:{group}", None)
        await trio.lowlevel.checkpoint()
        return results

    async def _all(self, calls: list[tuple[Any, ...]]) -> list[Any]:
        """Await all calls at once; the first failure cancels the others, and comes out."""
        results: list[Any] = [None] * len(calls)
        failures: list[Exception] = []

        async def one(index: int, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
            try:
                results[index] = await function(*args)
            except Exception as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index, (function, *args) in enumerate(calls):
                nursery.start_soon(one, index, function, *args)
        if failures:
            raise failures[0]
        return results

    async def compensate(self, *, failed: bool) -> None:
        """Undo the steps that were done, if the run has failed. For the engine alone."""
        while failed and self._compensations:
            step, function, result = self._compensations.pop()
            name = f"compensate:{step}"
            with suppress(Exception):  # it was published, and the others run all the same
                if await self._row(name) is None:
                    args = [result] if _takes_argument(function) else []
                    await self._do(name, "", function, *args)

    # Children

    async def child(self, name: str | WorkflowType[Any], input: object = None) -> Any:
        """Run another workflow as a child of this run, and return what its function returned.

        *name* may be a `trio_dispatch.WorkflowType`, whose type the input is then checked against.
        It is a step called ``child:<name>``. Cancelling the call cancels the child.

        Raises:
            LookupError: no workflow has that name.
            WorkflowError: the child failed.
        """
        text = _text_of(name, input)
        name = name_of(name)
        row = await self._row(f"child:{name}")
        if row is not None:
            return _decoded(row.data)
        context = f'child "{name}"'
        run = self._run_child
        return await self._do(f"child:{name}", "", run, context, name, text, keeps_none=True)

    async def _run_child(self, context: str, name: str, input: bytes, key: str = "") -> Any:
        """Run a child. If it cannot be started, the run's error names *context*."""
        try:
            child = self._environment.start_run(
                name, input, self.identity, parent_run_id=self.run_id
            )
        except LookupError as exc:
            self._note_failure(exc, context)
            raise
        try:
            await child.done.wait()
        except trio.Cancelled:
            child.scope.cancel()
            raise
        if child.error is not None:
            what = f'fanout child "{key}"' if key else f'child workflow "{name}"'
            raise WorkflowError(f"{what} failed: {child.error}")
        return _decoded(child.result)

    async def spawn(self, name: str | WorkflowType[Any], input: object = None) -> str:
        """Start another workflow as a child of this run, and do not wait for it; return its id.

        It is a step called ``spawn:<name>``. The child continues when this run has ended.

        Raises:
            LookupError: no workflow has that name.
        """
        text = _text_of(name, input)
        name = name_of(name)
        row = await self._row(f"spawn:{name}")
        if row is not None:
            return cast("bytes", row.data).decode()
        began = trio.current_time()
        try:
            child = self._environment.start_run(
                name, text, self.identity, parent_run_id=self.run_id
            )
        except LookupError as exc:
            self._note_failure(exc, f'spawn "{name}"')
            self._publish("workflow.step_failed", f"spawn:{name}", error=describe(exc))
            raise
        await trio.lowlevel.checkpoint()
        # The id itself, and not as JSON (recording `workflow_spawns`).
        await self._add_row(f"spawn:{name}", child.row.id.encode())
        elapsed = elapsed_ms(began)
        self._publish("workflow.step_completed", f"spawn:{name}", elapsed_ms=elapsed)
        return child.row.id

    async def fan_out(self, name: str | WorkflowType[Any], inputs: Iterable[object]) -> list[Any]:
        """Run one child of the workflow *name* for each input, all at once; return their results.

        Results are in the order of the inputs. The rows are called ``child:<name>:<i>`` and
        ``fanout:<name>``. The first child that fails cancels the others.

        Raises:
            LookupError: no workflow has that name.
            WorkflowError: a child failed.
        """
        texts = [_text_of(name, input) for input in inputs]
        name = name_of(name)
        row = await self._row(f"fanout:{name}")
        if row is not None:
            return cast("list[Any]", _decoded(row.data))

        async def branch(key: str, input: bytes) -> Any:
            done = await self._row(f"child:{key}")
            if done is not None:
                return _decoded(done.data)
            result = await self._run_child(f'fanout child "{key}"', name, input, key)
            await self._add_row(f"child:{key}", _encode(result))
            return result

        try:
            results = await self._all(
                [(branch, f"{name}:{index}", text) for index, text in enumerate(texts)]
            )
        except WorkflowError as exc:
            self._note_failure(exc, f'fanout "{name}"')
            raise
        await self._add_row(f"fanout:{name}", _encode(results))
        return results

    # Time and events

    async def sleep(self, name: str, seconds: float) -> None:
        """Sleep, as a row called ``sleep:<name>`` and without an event."""
        if await self._row(f"sleep:{name}") is None:
            await trio.sleep(seconds)
            await self._add_row(f"sleep:{name}", None)

    async def wait_for_event(
        self,
        name: str,
        timeout: float | None = None,  # ends the wait by None, and no error
        *,
        match: Callable[[WorkflowEvent], bool] | None = None,
    ) -> WorkflowEvent | None:
        """Wait for a ``workflow.event`` called *name*; None when none comes within *timeout*.

        An event that was sent before, and that no wait took, is taken at once. One event releases
        one wait.

        Args:
            name: the event's name.
            timeout: seconds; None waits without a limit.
            match: which events of that name the wait takes; all of them by default. One that it
                does not take is left for others.
        """
        row_name = f"wait:{name}" if match is None else f"waitmatch:{name}"
        return await self._wait(row_name, [name], timeout, match, f'wait "{name}"')

    async def wait_for_any(self, *names: str, timeout: float | None = None) -> WorkflowEvent | None:
        """Wait for the first event of any of these *names*; None when none comes in time."""
        joined = ",".join(names)
        return await self._wait(f"waitany:{joined}", names, timeout, None, "waitany")

    async def wait_for_all(self, *names: str, timeout: float | None = None) -> list[WorkflowEvent]:
        """Wait for an event of each of these *names*; return them in the order of the names.

        Raises:
            TimeoutError: not all of them came within *timeout* seconds. Those that did are taken.
        """
        group = f"waitall:{','.join(names)}"
        row = await self._row(group)
        if row is not None:
            return [take(data) for data in _raws(row.data)]

        async def branch(name: str) -> WorkflowEvent:
            event = await self._wait(f"waitall:{name}", [name], timeout, None, "", keep=False)
            if event is None:
                raise TimeoutError(f'timeout waiting for event "{name}"')
            return event

        try:
            events = await self._all([(branch, name) for name in names])
        except TimeoutError as exc:
            self._note_failure(exc, "waitall")
            raise
        rows = [self._run.steps[f"waitall:{name}"].data for name in names]
        await self._add_row(group, _encode([msgspec.Raw(data or b"null") for data in rows]))
        return events

    async def _wait(
        self,
        row_name: str,
        names: Iterable[str],
        timeout: float | None,
        match: Callable[[WorkflowEvent], bool] | None,
        context: str,
        *,
        keep: bool = True,
    ) -> WorkflowEvent | None:
        """Wait for an event. A wait that timed out has a row too, if *keep* is set."""
        row = await self._row(row_name)
        if row is not None:
            return None if row.data is None else take(row.data)
        try:
            data = await waiting(self._environment, self.run_id, tuple(names), timeout, match)
        except BaseException as exc:
            self._note_failure(exc, context)
            raise
        if keep or data is not None:
            await self._add_row(row_name, data)
        return None if data is None else take(data)

    def error_text(self, exc: BaseException | None) -> str:
        """The error of the run that *exc* ended; None stands for its cancellation."""
        if exc is None:
            text, context = CONTEXT_CANCELED, self._cancelled_in
        else:
            text, context = describe(exc), self._failures.get(id(exc), (exc, ""))[1]
        return f"workflow {self.name} {context}: {text}" if context else text


def _text_of(name: str | WorkflowType[Any], input: object) -> bytes:
    """A child's input as JSON text."""
    return bytes(name.encode(input)) if isinstance(name, WorkflowType) else _encode(input)


def _raws(data: bytes | None) -> list[msgspec.Raw]:
    return msgspec.json.decode(data or b"[]", type=list[msgspec.Raw])


def _takes_argument(function: Callable[..., object]) -> bool:
    try:
        inspect.signature(function).bind(None)
    except TypeError:
        return False
    except ValueError:  # a builtin that does not say
        return True
    return True
