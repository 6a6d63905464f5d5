"""Rows as ``job.get``, ``workflow.get`` and ``workflow.timeline`` show them.

Fields stand in the server's order, and those without a value are left out.
"""

from __future__ import annotations

import base64
from typing import Any

from trio_dispatch.server._clock import rfc3339, to_microseconds
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._store import JobRow, RunRow, StepRow


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode("ascii")


class Rows:
    """How one kind of store shows its rows."""

    def __init__(self, quirks: Quirks) -> None:
        self._as_stored = quirks.rows_as_stored
        self._versions = not quirks.loses_versions

    def _time(self, ns: int) -> str:
        return rfc3339(to_microseconds(ns) if self._as_stored else ns)

    def job(self, job: JobRow) -> dict[str, Any]:
        """A job as ``job.get`` shows it."""
        data: dict[str, Any] = {
            "created_at": self._time(job.created_at),
            "updated_at": self._time(job.updated_at),
            "id": job.id,
            "name": job.name,
            "queue": job.queue,
            "payload": _base64(job.payload),
            "state": job.state,
            "priority": job.priority,
            "max_retries": job.max_retries,
            "retry_count": job.retry_count,
        }
        if job.last_error:
            data["last_error"] = job.last_error
        if job.scope_app_id:
            data["scope_app_id"] = job.scope_app_id
        if job.scope_org_id:
            data["scope_org_id"] = job.scope_org_id
        data["worker_id"] = ""
        data["run_at"] = self._time(job.run_at)
        if job.started_at is not None:
            data["started_at"] = self._time(job.started_at)
        if job.completed_at is not None:
            data["completed_at"] = self._time(job.completed_at)
        heartbeat_at = job.heartbeat_at
        if heartbeat_at is not None:
            data["heartbeat_at"] = self._time(heartbeat_at)
        data["timeout"] = job.timeout_ns
        return data

    def run(self, run: RunRow) -> dict[str, Any]:
        """A run as ``workflow.get`` shows it. It never has an ``output``."""
        data: dict[str, Any] = {
            "created_at": self._time(run.created_at),
            "updated_at": self._time(run.updated_at),
            "id": run.id,
            "name": run.name,
            "state": run.state,
        }
        if run.input is not None:
            data["input"] = _base64(run.input)
        if run.error:
            data["error"] = run.error
        if run.identity.app_id:
            data["scope_app_id"] = run.identity.app_id
        if run.identity.org_id:
            data["scope_org_id"] = run.identity.org_id
        data["started_at"] = self._time(run.started_at)
        if run.completed_at is not None:
            data["completed_at"] = self._time(run.completed_at)
        if self._versions:
            data["version"] = run.version
            if run.parent_run_id:
                data["parent_run_id"] = run.parent_run_id
        return data

    def step(self, step: StepRow) -> dict[str, Any]:
        """A step as ``workflow.timeline`` shows it."""
        data: dict[str, Any] = {"step_name": step.step_name}
        if step.data is not None:
            data["data"] = _base64(step.data)
        data["created_at"] = self._time(step.created_at)
        return data
