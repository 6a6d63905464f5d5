"""What a server knows how to do: its jobs, workflows and schedules.

`Registering` is the part of `Server` and `Cluster` that users decorate their functions with.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar, overload

import attrs
import msgspec

from trio_dispatch.server._cron import Schedule
from trio_dispatch.server._store import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S
from trio_dispatch.server._workflow import Workflow

JobFunction: TypeAlias = Callable[[Any], Awaitable[object]]
WorkflowFunction: TypeAlias = Callable[[Workflow, Any], Awaitable[object]]

J = TypeVar("J", bound=JobFunction)
W = TypeVar("W", bound=WorkflowFunction)

_encode: Final = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class JobKind:
    """What the server knows about jobs of one name."""

    function: JobFunction
    max_retries: int
    timeout: float


@attrs.define(kw_only=True, eq=False)
class CronEntry:
    """A job that is enqueued by the clock."""

    name: str
    schedule: Schedule
    job: str
    payload: bytes | None
    queue: str
    next_at: int | None = None
    """Nanoseconds since 1970; None before the first start."""


class Registry:
    """Functions by name."""

    def __init__(self) -> None:
        self.jobs: dict[str, JobKind] = {}
        self.workflows: dict[str, dict[int, WorkflowFunction]] = {}
        """By name, then by version."""
        self.crons: dict[str, CronEntry] = {}
        self.on_schedule: Callable[[], None] | None = None
        """Called when a schedule was added."""

    def latest(self, name: str) -> int | None:
        """The version of the workflow *name* that new runs get; None where there is none."""
        return max(self.workflows[name]) if name in self.workflows else None

    def workflow(self, name: str, version: int) -> WorkflowFunction | None:
        """The function of one version of a workflow."""
        return self.workflows.get(name, {}).get(version)


class Registering:
    """The decorators of `Server` and `Cluster`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    @overload
    def job(self, name: J, /) -> J: ...

    @overload
    def job(
        self, name: str | None = None, /, *, max_retries: int = ..., timeout: float = ...
    ) -> Callable[[J], J]: ...

    def job(
        self,
        name: J | str | None = None,
        /,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> J | Callable[[J], J]:
        """Register an async function for the jobs called *name*.

        The function gets the decoded payload (None if there is none). If it returns, the job is
        completed. If it raises, or takes longer than its timeout, the attempt has failed and the
        job is tried again.

        **Jobs that come over the wire always have 3 retries and a timeout of 5 minutes**, because
        a real server ignores the definition's own for them. *max_retries* and *timeout* count for
        scheduled jobs, and for all jobs with ``Quirks(definitions_ignored=False)``.

        Args:
            name: the jobs' name; the function's own by default, also for ``@server.job`` without
                parentheses.
            max_retries: how many more attempts follow a first one that fails.
            timeout: seconds that one attempt may take.

        Raises:
            TypeError: the function is not async.
            ValueError: the name is taken, or a number makes no sense.
        """
        if name is not None and not isinstance(name, str):
            return self._register_job(name, name.__name__, max_retries, timeout)
        if name is not None:
            self._check_free(name, self._registry.jobs, "job")
        if max_retries < 0:
            raise ValueError("max_retries must not be negative")
        if not timeout > 0:
            raise ValueError("timeout must be positive")

        def register(function: J) -> J:
            return self._register_job(function, name or function.__name__, max_retries, timeout)

        return register

    def _register_job(self, function: J, name: str, max_retries: int, timeout: float) -> J:
        check_async(function, f"job {name!r}")
        self._check_free(name, self._registry.jobs, "job")
        self._registry.jobs[name] = JobKind(
            function=function, max_retries=max_retries, timeout=timeout
        )
        return function

    @staticmethod
    def _check_free(name: str, taken: dict[str, Any], what: str) -> None:
        if name in taken:
            raise ValueError(f"there is a {what} called {name!r} already")

    @overload
    def workflow(self, name: W, /) -> W: ...

    @overload
    def workflow(self, name: str | None = None, /, *, version: int = ...) -> Callable[[W], W]: ...

    def workflow(self, name: W | str | None = None, /, *, version: int = 1) -> W | Callable[[W], W]:
        """Register an async function for the workflow called *name*.

        The function gets the run's `Workflow` and the decoded input (None if there is none). If it
        returns, the run is completed; if it raises, the run has failed.

        Args:
            name: the workflow's name; the function's own by default, also for
                ``@server.workflow`` without parentheses.
            version: several versions may be registered. New runs get the highest; a run that is
                resumed continues with the version that it began with.

        Raises:
            TypeError: the function is not async.
            ValueError: the name is taken in that version, or the version is less than 1.
        """
        if name is not None and not isinstance(name, str):
            return self._register_workflow(name, name.__name__, version)
        if name is not None:
            self._check_version(name, version)

        def register(function: W) -> W:
            return self._register_workflow(function, name or function.__name__, version)

        return register

    def _register_workflow(self, function: W, name: str, version: int) -> W:
        check_async(function, f"workflow {name!r}")
        self._check_version(name, version)
        self._registry.workflows.setdefault(name, {})[version] = function
        return function

    def _check_version(self, name: str, version: int) -> None:
        if version < 1:
            raise ValueError("version must be at least 1")
        if version in self._registry.workflows.get(name, {}):
            which = "" if version == 1 else f" in version {version}"
            raise ValueError(f"there is a workflow called {name!r}{which} already")

    def cron(
        self,
        name: str,
        schedule: str,
        *,
        job: str | None = None,
        payload: object = None,
        queue: str = "",
    ) -> Callable[[J], J]:
        """Enqueue a job by the clock, in UTC, while the server is running.

        As a decorator it registers the function for these jobs too; as a plain call it schedules
        jobs that are registered elsewhere. Each firing publishes ``cron.fired`` to subscribers of
        ``firehose``. In a cluster one of the servers fires.

        Args:
            name: the entry's name.
            schedule: five fields as in crontab (``"0 2 * * *"``), ``@hourly``, ``@daily``,
                ``@weekly``, ``@monthly``, ``@yearly``, or ``@every 30s``.
            job: the name of the jobs; *name* by default.
            payload: what each job gets.
            queue: the jobs' queue; the default queue if empty.

        Raises:
            ValueError: the name is taken, or *schedule* is not one.
        """
        self._check_free(name, self._registry.crons, "cron entry")
        job_name = job or name
        self._registry.crons[name] = CronEntry(
            name=name,
            schedule=Schedule(schedule),
            job=job_name,
            payload=_encode(payload),
            queue=queue,
        )
        if self._registry.on_schedule is not None:
            self._registry.on_schedule()

        def register(function: J) -> J:
            return self._register_job(function, job_name, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S)

        return register


def check_async(function: object, what: str) -> None:
    """Check that *function* can be awaited on.

    Raises:
        TypeError: it cannot.
    """
    inner: Any = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    if callable(inner):
        inner = inspect.unwrap(inner)
    if not (inspect.isroutine(inner) or inspect.isclass(inner)):
        inner = getattr(type(inner), "__call__", None)  # noqa: B004 - the method itself
    if not inspect.iscoroutinefunction(inner):
        raise TypeError(
            f"{what} needs an async function, not {function!r}; call what blocks by "
            "trio.to_thread.run_sync"
        )
