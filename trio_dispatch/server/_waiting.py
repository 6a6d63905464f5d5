"""A run's waits for workflow events."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs
import msgspec
import trio

from trio_dispatch.server._awaited_events import EventRow, Waiter
from trio_dispatch.server._clock import rfc3339, to_microseconds
from trio_dispatch.server._execution import Environment
from trio_dispatch.server._go_json import decode
from trio_dispatch.server._store import StoreAway

T = TypeVar("T")

_encode: Final = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class WorkflowEvent:
    """A workflow event that a run waited for."""

    id: str
    name: str
    payload_bytes: bytes | None = attrs.field(repr=False)
    """The payload's JSON text as it was sent; None if it had none."""

    @property
    def payload(self) -> Any:
        """The payload, decoded; None if it had none."""
        return None if self.payload_bytes is None else decode(self.payload_bytes)

    def payload_as(self, type: type[T]) -> T:
        """Decode the payload into *type*.

        Raises:
            msgspec.ValidationError: it is of another shape.
        """
        return msgspec.json.decode(self.payload_bytes or b"null", type=type)


async def waiting(
    environment: Environment,
    run_id: str,
    names: tuple[str, ...],
    timeout: float | None,
    match: Callable[[WorkflowEvent], bool] | None,
) -> bytes | None:
    """Wait for an event; return it as it is kept in the run's timeline, None when none came.

    Raises:
        StoreAway: the store went away.
    """
    arrived = trio.Event()

    def accepts(row: EventRow) -> bool:
        return match is None or match(_event(row))

    waiter = Waiter(run_id, names, arrived.set, accepts)
    awaited = environment.store.awaited
    awaited.wait(waiter)
    at_once = waiter.event is not None
    environment.notice_change()
    try:
        with trio.move_on_after(float("inf") if timeout is None else timeout):
            await arrived.wait()
        if waiter.event is not None and not at_once:
            # A server looks for events every so often (protocol, "Several servers on one store").
            await trio.sleep(environment.rng.uniform(0, environment.quirks.slow_events))
    except BaseException:
        if waiter.event is not None:
            # The run is cancelled in the moment of its event: another wait may have it.
            awaited.post(waiter.event)
        raise
    finally:
        awaited.withdraw(waiter)
    if waiter.failed:
        raise StoreAway("subscribe event: the store is away")
    if waiter.event is None:
        return None
    return _row_data(waiter.event, as_stored=environment.quirks.rows_as_stored)


def _row_data(event: EventRow, *, as_stored: bool) -> bytes:
    # As recorded (`workflow_wait_for_event`): the payload is base64, within what will be, too. A
    # database shows the event as it was before it was taken (recording `cluster_run`).
    data: dict[str, Any] = {"id": event.id, "name": event.name}
    if event.payload is not None:
        data["payload"] = event.payload
    if event.scope_app_id:
        data["scope_app_id"] = event.scope_app_id
    if event.scope_org_id:
        data["scope_org_id"] = event.scope_org_id
    created_at = to_microseconds(event.created_at) if as_stored else event.created_at
    return _encode({**data, "acked": not as_stored, "created_at": rfc3339(created_at)})


def _event(row: EventRow) -> WorkflowEvent:
    return WorkflowEvent(id=row.id, name=row.name, payload_bytes=row.payload)


def take(data: bytes | msgspec.Raw) -> WorkflowEvent:
    """Read an event from a run's timeline."""
    fields: dict[str, Any] = msgspec.json.decode(bytes(data))
    payload = base64.b64decode(fields["payload"]) if "payload" in fields else None
    return WorkflowEvent(id=fields["id"], name=fields["name"], payload_bytes=payload)
