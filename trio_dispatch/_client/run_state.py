"""Asking for the end of a run that this client has started."""

from __future__ import annotations

import attrs

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.run_events import END_EVENTS, EventLog
from trio_dispatch._client.waiting import RUN, EndWatch
from trio_dispatch._wire.errors import fresh
from trio_dispatch._wire.models import Event, WorkflowRun


async def ask_for_end(
    calls: Calls, run_id: str, *, log: EventLog | None = None, answered: str = ""
) -> WorkflowRun:
    """Ask until a run has ended, and return it as it ended.

    This subscribes to nothing, because the run's events arrive elsewhere. If the run's last event
    or the answer to its start has reported the end, but the store reports another state for 10 s,
    the event or answer wins.

    Args:
        calls: used to ask.
        run_id: the id of a run that exists.
        log: gets the run's events.
        answered: the state in the answer to its start, if that has arrived.

    Raises:
        NotFound: the server has denied for 10 s that the run exists.
        DispatchError: the server does not answer, or the client ended.
        ValueError: the server sent a run id that cannot be sent back.
    """
    outcomes: list[WorkflowRun | Exception] = []
    watch = EndWatch(calls, RUN, lambda _, outcome: outcomes.append(outcome))

    def hear(event: Event) -> None:
        watch.hear(attrs.evolve(event, data={**event.data, "run_id": run_id}))

    watch.complete = True
    watch.add(run_id, known=True)
    for type, state in END_EVENTS.items():
        if state == answered:
            hear(Event(type=type))
    if log is not None:
        log.on_end = hear
    try:
        await watch.run()
    finally:
        if log is not None:
            log.on_end = None
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise fresh(outcome)
    return outcome
