"""What a workflow's function is given: steps, waits, sleeps and children.

Each call adds a row to the run's timeline when it has succeeded (protocol, "Runs and steps").
Results are kept as JSON text. Only steps publish events: waits, sleeps, children and the row of a
whole parallel group do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar, final

import attrs
import msgspec
import trio

from trio_dispatch.server._clock import rfc3339
from trio_dispatch.server._failures import CONTEXT_CANCELED, describe, holds
from trio_dispatch.server._store import EventRow, RunRow, StepRow, Waiter

if TYPE_CHECKING:
    from trio_dispatch.server._engine import Engine
    from trio_dispatch.server._identity import Identity

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class WorkflowEvent:
    """A workflow event that a run waited for."""

    id: str
    name: str
    payload: Any
    """Decoded; None where it had none."""


class WorkflowError(Exception):
    """A child run failed; the message is its error."""


def _event_data(event: EventRow) -> bytes:
    # As recorded (`workflow_wait_for_event`): the payload is base64, within what will be, too.
    return _encode(
        {
            "id": event.id,
            "name": event.name,
            "payload": event.payload,
            "scope_app_id": event.scope_app_id,
            "scope_org_id": event.scope_org_id,
            "acked": True,
            "created_at": rfc3339(event.created_at),
        }
    )


@final
class Workflow:
    """One run, as its workflow's function sees it. Servers make these; users never do.

    Every method is a checkpoint, and may be called from several tasks of the run.
    """

    def __init__(self, engine: Engine, run: RunRow, identity: Identity) -> None:
        self._engine = engine
        self._run = run
        self._identity = identity
        # What each failed step raised, by identity: the run's error names the step when that very
        # exception is what ended the run.
        self._failures: dict[int, tuple[BaseException, str]] = {}
        self._cancelled_in = ""

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._run.id

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._run.name

    @property
    def parent_run_id(self) -> str:
        """The run that started this one by `child`; empty for none."""
        return self._run.parent_run_id

    @property
    def identity(self) -> Identity:
        """Who started the run."""
        return self._identity

    def __repr__(self) -> str:
        return f"<trio_dispatch.server.Workflow {self.name!r} {self.run_id}>"

    async def step(self, name: str, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await ``function(*args)`` as a step, and return its result.

        A result that has no JSON form fails the step with `TypeError`. Whatever *function* raises
        comes out unchanged; a run may catch it and go on, with the failed step missing from the
        timeline. A repeated name is done again and has another row.
        """
        try:
            result = await function(*args)
            data = None if result is None else _encode(result)
            await trio.lowlevel.checkpoint()
        except BaseException as exc:
            cancelled = holds(exc, trio.Cancelled)
            if cancelled:
                self._cancelled_in = name
            else:
                self._failures[id(exc)] = (exc, name)
            error = CONTEXT_CANCELED if cancelled else describe(exc)
            self._engine.publish_run("workflow.step_failed", self._run, step=name, error=error)
            raise
        self._add_row(name, data)
        self._engine.publish_run("workflow.step_completed", self._run, step=name)
        return result

    async def parallel(self, group: str, *functions: Callable[[], Awaitable[Any]]) -> list[Any]:
        """Await all *functions* at once, each as a step of its own; return their results in order.

        The first one that fails cancels the others, and what it raised comes out.
        """
        results: list[Any] = [None] * len(functions)
        failures: list[Exception] = []

        async def branch(index: int, function: Callable[[], Awaitable[Any]]) -> None:
            try:
                results[index] = await self.step(f"parallel:{group}:{index}", function)
            except Exception as exc:  # noqa: BLE001 - raised again below
                failures.append(exc)
                nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            for index, function in enumerate(functions):
                nursery.start_soon(branch, index, function)
        if failures:
            raise failures[0]
        self._add_row(f"parallel:{group}", None)
        await trio.lowlevel.checkpoint()
        return results

    async def sleep(self, name: str, seconds: float) -> None:
        """Sleep."""
        await trio.sleep(seconds)
        self._add_row(f"sleep:{name}", None)

    async def wait_for_event(
        self,
        name: str,
        timeout: float | None = None,  # ends the wait by None, and no error
    ) -> WorkflowEvent | None:
        """Wait for a ``workflow.event`` called *name*; None when none comes within *timeout*.

        An event that was sent before, and that no wait took, is taken at once. One event releases
        one wait.
        """
        arrived = trio.Event()
        waiter = Waiter(name, arrived.set)
        mailbox = self._engine.store.mailbox
        mailbox.wait(waiter)
        mailbox.waiting[self._run.id] += 1
        self._engine.notice_change()
        try:
            with trio.move_on_after(float("inf") if timeout is None else timeout):
                await arrived.wait()
        except BaseException:
            if waiter.event is not None:
                # The run is cancelled in the moment of its event: another wait may have it.
                mailbox.post(waiter.event)
            raise
        finally:
            mailbox.withdraw(waiter)
            mailbox.waiting -= Counter({self._run.id: 1})
        event = waiter.event
        self._add_row(f"wait:{name}", None if event is None else _event_data(event))
        if event is None:
            return None
        payload: Any = None if event.payload is None else msgspec.json.decode(event.payload)
        return WorkflowEvent(id=event.id, name=event.name, payload=payload)

    async def child(self, name: str, input: object = None) -> Any:
        """Run another workflow as a child of this run, and return what its function returned.

        Cancelling the call cancels the child.

        Raises:
            LookupError: no workflow has that name.
            WorkflowError: the child failed.
        """
        child = self._engine.start_run(
            name, _encode(input), self._identity, parent_run_id=self._run.id
        )
        try:
            await child.done.wait()
        except trio.Cancelled:
            child.scope.cancel()
            raise
        if child.error is not None:
            raise WorkflowError(child.error)
        self._add_row(f"child:{name}", child.result)
        return None if child.result is None else msgspec.json.decode(child.result)

    def _add_row(self, name: str, data: bytes | None) -> None:
        now = self._engine.clock.now()
        self._run.steps.append(StepRow(step_name=name, data=data, created_at=now))

    def error_text(self, exc: BaseException | None) -> str:
        """The error of the run that *exc* ended; None stands for its cancellation."""
        if exc is None:
            text, step = CONTEXT_CANCELED, self._cancelled_in
        else:
            text, step = describe(exc), self._failures.get(id(exc), (exc, ""))[1]
        return f'workflow {self.name} step "{step}": {text}' if step else text
