"""Asking for the state of a run that this client has started."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import attrs
import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.polling import PollSchedule
from trio_dispatch._wire.errors import ConnectionLost, NotFound, RequestTimeout, ServerError
from trio_dispatch._wire.models import WorkflowRun

CONTRADICTION_TIME: Final = 10.0


async def ask_for_end(calls: Calls, run_id: str, reported: Callable[[], str | None]) -> WorkflowRun:
    schedule = PollSchedule()
    reported_at: float | None = None
    missing_since: float | None = None
    while True:
        now = trio.current_time()
        state = reported()
        if state is not None and reported_at is None:
            reported_at = now
        try:
            run = await calls.get_workflow(run_id)
        except (ConnectionLost, RequestTimeout, ServerError):
            if calls.closed:
                raise
        except NotFound:
            missing_since = now if missing_since is None else missing_since
            if now - missing_since >= CONTRADICTION_TIME:
                raise
        else:
            missing_since = None
            if run.finished:
                return run
            if reported_at is not None and state is not None:
                if now - reported_at >= CONTRADICTION_TIME:
                    return attrs.evolve(run, state=state)
        await trio.sleep_until(schedule.next_time())
