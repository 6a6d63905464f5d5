"""Looking into a server's store: the part of `Server` and `Cluster` that tests assert with."""

from __future__ import annotations

from typing import Any, TypeVar, overload

from trio_dispatch._wire.definitions import JobType, WorkflowType, name_of
from trio_dispatch.server._assertions import ANYTHING, check_found
from trio_dispatch.server._registry import Registry
from trio_dispatch.server._store import Store
from trio_dispatch.server._views import JobView, RunView, job_view, run_view

P = TypeVar("P")


class Inspecting:
    """What is in the store."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._known = registry.jobs

    @overload
    def assert_enqueued(
        self, name: JobType[P], payload: P = ..., *, count: int | None = None
    ) -> list[JobView]: ...

    @overload
    def assert_enqueued(
        self, name: str, payload: object = ..., *, count: int | None = None
    ) -> list[JobView]: ...

    def assert_enqueued(
        self, name: str | JobType[Any], payload: object = ANYTHING, *, count: int | None = None
    ) -> list[JobView]:
        """Assert that jobs called *name* were enqueued; returns them, oldest first.

        Args:
            name: the job's name, or its `trio_dispatch.JobType`.
            payload: what its payload is equal to, by way of JSON; anything without.
            count: how many there are; at least one without.

        Raises:
            AssertionError: there are not; the message shows those there are, and how they differ.
        """
        if isinstance(name, JobType) and payload is not ANYTHING:
            payload = name.encode(payload)
        name = name_of(name)
        jobs = self.jobs(name)
        found = [(job.id, job.payload_bytes) for job in jobs]
        ids = check_found(f"jobs called {name!r}", payload, count, found)
        return [job for job in jobs if job.id in ids]

    @overload
    def assert_started(
        self, name: WorkflowType[P], input: P = ..., *, count: int | None = None
    ) -> list[RunView]: ...

    @overload
    def assert_started(
        self, name: str, input: object = ..., *, count: int | None = None
    ) -> list[RunView]: ...

    def assert_started(
        self, name: str | WorkflowType[Any], input: object = ANYTHING, *, count: int | None = None
    ) -> list[RunView]:
        """Assert that runs of the workflow *name* were started; as `assert_enqueued`."""
        if isinstance(name, WorkflowType) and input is not ANYTHING:
            input = name.encode(input)
        name = name_of(name)
        runs = self.runs(name)
        found = [(run.id, run.input_bytes) for run in runs]
        ids = check_found(f"runs of {name!r}", input, count, found)
        return [run for run in runs if run.id in ids]

    def jobs(
        self, name: str | JobType[Any] | None = None, state: str | None = None
    ) -> list[JobView]:
        """The jobs, oldest first; those called *name* and in *state*, if these are given."""
        name = None if name is None else name_of(name)
        return [
            job_view(job)
            for job in self._store.jobs.values()
            if name in {None, job.name} and state in {None, job.state}
        ]

    def runs(
        self, name: str | WorkflowType[Any] | None = None, state: str | None = None
    ) -> list[RunView]:
        """The runs, oldest first; those called *name* and in *state*, if these are given."""
        name = None if name is None else name_of(name)
        return [
            run_view(run)
            for run in self._store.runs.values()
            if name in {None, run.name} and state in {None, run.state}
        ]

    def forget(self) -> None:
        """Forget what is over: ended jobs and runs, events, and events that no run has taken.

        Work in progress stays. Jobs that never end, because no function is registered for their
        name, are forgotten too. Use it between tests that share a server.
        """
        self._store.forget(self._known)
