"""Events about jobs, runs and schedules, in the shape in which a Dispatch server publishes them.

Fields without a value are left out, as Go's encoder leaves them (recording ``job_events``).
"""

from __future__ import annotations

from typing import Any

import trio

from trio_dispatch.server._broker import Broker, PublishedEvent
from trio_dispatch.server._clock import NS_PER_MS, NS_PER_SECOND, Clock
from trio_dispatch.server._store import JobRow, RunRow


class Publisher:
    """What one server publishes."""

    def __init__(self, broker: Broker, clock: Clock) -> None:
        self._broker = broker
        self._clock = clock

    def job(self, type: str, job: JobRow, **extra: Any) -> None:
        """Publish an event about *job*."""
        data: dict[str, Any] = {"job_id": job.id, "job_name": job.name}
        rest = {
            "queue": job.queue,
            "scope_app_id": job.scope_app_id,
            "scope_org_id": job.scope_org_id,
            **extra,
        }
        self.raw(type, f"job:{job.id}", data | _filled(rest))

    def run(self, type: str, run: RunRow, *, step: str = "", **extra: Any) -> None:
        """Publish an event about *run*."""
        data = {
            "run_id": run.id,
            "name": run.name,
            "step_name": step,
            "scope_app_id": run.identity.app_id,
            "scope_org_id": run.identity.org_id,
            **extra,
        }
        self.raw(type, f"workflow:{run.id}", _filled(data))

    def cron(self, entry_name: str, job: JobRow) -> None:
        """Publish that a schedule was due. It has no topic."""
        self.raw("cron.fired", "", {"entry_name": entry_name, "job_id": job.id})

    def raw(self, type: str, topic: str, data: dict[str, Any]) -> None:
        """Publish an event as it is."""
        self._broker.publish(PublishedEvent(type, topic, data, self._clock.now()))


def _filled(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value}


def elapsed_ms(began: float) -> int:
    """Whole milliseconds since *began* (by `trio.current_time`)."""
    # Half a microsecond against what floats lose: 2 s are 2000 ms.
    return int((trio.current_time() - began + 5e-7) * NS_PER_SECOND) // NS_PER_MS
