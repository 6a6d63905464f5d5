"""What a server knows how to do: its jobs, workflows and schedules.

`Registering` is the part of `Server` and `Cluster` that users decorate their functions with.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeAlias, TypeVar, cast, overload

import attrs
import msgspec

from trio_dispatch._wire.definitions import JobType, WorkflowType
from trio_dispatch.server._cron import Schedule
from trio_dispatch.server._go_json import decode
from trio_dispatch.server._store import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S
from trio_dispatch.server._workflow import Workflow

JobFunction: TypeAlias = Callable[[Any], Awaitable[object]]
WorkflowFunction: TypeAlias = Callable[[Workflow, Any], Awaitable[object]]

P = TypeVar("P")
I = TypeVar("I")  # noqa: E741 - as in WorkflowType[I]
R = TypeVar("R")
J = TypeVar("J", bound=JobFunction)
W = TypeVar("W", bound=WorkflowFunction)

_encode: Final = msgspec.json.Encoder().encode


@attrs.frozen(kw_only=True)
class JobKind:
    """What the server knows about jobs of one name."""

    function: JobFunction
    max_retries: int
    timeout: float
    decode: Callable[[bytes | None], Any]
    """Reads a payload."""


@attrs.frozen(kw_only=True)
class WorkflowKind:
    """What the server knows about one version of a workflow."""

    function: WorkflowFunction
    decode: Callable[[bytes | None], Any]
    """Reads an input."""


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
        self.workflows: dict[str, dict[int, WorkflowKind]] = {}
        """By name, then by version."""
        self.crons: dict[str, CronEntry] = {}
        self.on_schedule: Callable[[], None] | None = None
        """Called when a schedule was added."""

    def latest(self, name: str) -> int | None:
        """The version of the workflow *name* that new runs get; None if there is none."""
        return max(self.workflows[name]) if name in self.workflows else None

    def workflow(self, name: str, version: int) -> WorkflowKind | None:
        """What is registered as one version of a workflow."""
        return self.workflows.get(name, {}).get(version)


class Registering:
    """The decorators of `Server` and `Cluster`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def _take_over(self, registry: Registry) -> None:
        """Register what is registered in *registry*."""
        self._registry.jobs.update(registry.jobs)
        for name, versions in registry.workflows.items():
            self._registry.workflows.setdefault(name, {}).update(versions)
        self._registry.crons.update(registry.crons)

    @overload
    def job(
        self, name: JobType[P], /, *, max_retries: int = ..., timeout: float = ...
    ) -> Callable[[Callable[[P], Awaitable[R]]], Callable[[P], Awaitable[R]]]: ...

    @overload
    def job(self, name: J, /) -> J: ...

    @overload
    def job(
        self, name: str | None = None, /, *, max_retries: int = ..., timeout: float = ...
    ) -> Callable[[J], J]: ...

    def job(
        self,
        name: Any = None,
        /,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Any:
        """Register an async function for the jobs called *name*.

        The function gets the decoded payload (None if there is none). If it returns, the job is
        completed. If it raises, or takes longer than its timeout, the attempt has failed and the
        job is tried again.

        **Jobs that come over the wire always have 3 retries and a timeout of 5 minutes**, because
        a real server ignores the definition's own for them. *max_retries* and *timeout* count for
        scheduled jobs, and for all jobs with ``Quirks(definitions_ignored=False)``.

        Args:
            name: the jobs' name, or a `trio_dispatch.JobType`, as which the payload is then
                decoded; the function's own name by default, also for ``@server.job`` without
                parentheses.
            max_retries: how many more attempts follow a first one that fails.
            timeout: seconds that one attempt may take.

        Raises:
            TypeError: the function is not async.
            ValueError: the name is taken, or a number makes no sense.
        """
        definition = _job_type(name)
        if definition is not None:
            name = definition.name
        elif name is not None and not isinstance(name, str):
            return self._register_job(name, _name_of(name), max_retries, timeout)
        if name is not None:
            self._check_free(name, self._registry.jobs, "job")
        if max_retries < 0:
            raise ValueError("max_retries must not be negative")
        if not timeout > 0:
            raise ValueError("timeout must be positive")

        def register(function: J) -> J:
            own = _name_of(function) if name is None else name
            return self._register_job(function, own, max_retries, timeout, definition)

        return register

    def _register_job(
        self,
        function: J,
        name: str,
        max_retries: int,
        timeout: float,
        definition: JobType[Any] | None = None,
    ) -> J:
        check_async(function, f"job {name!r}")
        self._check_free(name, self._registry.jobs, "job")
        self._registry.jobs[name] = JobKind(
            function=function,
            max_retries=max_retries,
            timeout=timeout,
            decode=_decoded if definition is None else definition.decode,
        )
        return function

    @staticmethod
    def _check_free(name: str, taken: dict[str, Any], what: str) -> None:
        if name in taken:
            raise ValueError(f"there is a {what} called {name!r} already")

    @overload
    def workflow(
        self, name: WorkflowType[I], /, *, version: int = ...
    ) -> Callable[
        [Callable[[Workflow, I], Awaitable[R]]], Callable[[Workflow, I], Awaitable[R]]
    ]: ...

    @overload
    def workflow(self, name: W, /) -> W: ...

    @overload
    def workflow(self, name: str | None = None, /, *, version: int = ...) -> Callable[[W], W]: ...

    def workflow(self, name: Any = None, /, *, version: int = 1) -> Any:
        """Register an async function for the workflow called *name*.

        The function gets the run's `Workflow` and the decoded input (None if there is none). If it
        returns, the run is completed; if it raises, the run has failed.

        Args:
            name: the workflow's name, or a `trio_dispatch.WorkflowType`, as which the input is
                then decoded; the function's own name by default, also for ``@server.workflow``
                without parentheses.
            version: several versions may be registered. New runs get the highest; a run that is
                resumed continues with the version that it began with.

        Raises:
            TypeError: the function is not async.
            ValueError: the name is taken in that version, or the version is less than 1.
        """
        definition = _workflow_type(name)
        if definition is not None:
            name = definition.name
        elif name is not None and not isinstance(name, str):
            return self._register_workflow(name, _name_of(name), version)
        if name is not None:
            self._check_version(name, version)

        def register(function: W) -> W:
            own = _name_of(function) if name is None else name
            return self._register_workflow(function, own, version, definition)

        return register

    def _register_workflow(
        self,
        function: W,
        name: str,
        version: int,
        definition: WorkflowType[Any] | None = None,
    ) -> W:
        check_async(function, f"workflow {name!r}")
        self._check_version(name, version)
        self._registry.workflows.setdefault(name, {})[version] = WorkflowKind(
            function=function, decode=_decoded if definition is None else definition.decode
        )
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
        job: str | JobType[Any] | None = None,
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
            job: the name of the jobs, or their `trio_dispatch.JobType`; *name* by default.
            payload: what each job gets.
            queue: the jobs' queue; the default queue if empty.

        Raises:
            ValueError: the name is taken, or *schedule* is not one.
        """
        self._check_free(name, self._registry.crons, "cron entry")
        definition = _job_type(job)
        job_name = job.name if isinstance(job, JobType) else job or name
        self._registry.crons[name] = CronEntry(
            name=name,
            schedule=Schedule(schedule),
            job=job_name,
            payload=_encode(payload) if definition is None else bytes(definition.encode(payload)),
            queue=queue,
        )
        if self._registry.on_schedule is not None:
            self._registry.on_schedule()

        def register(function: J) -> J:
            return self._register_job(
                function, job_name, DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, definition
            )

        return register


def _decoded(text: bytes | None) -> Any:
    return None if text is None else decode(text)


def _job_type(name: object) -> JobType[Any] | None:
    return name if isinstance(name, JobType) else None  # pyright: ignore[reportUnknownVariableType]


def _workflow_type(name: object) -> WorkflowType[Any] | None:
    return name if isinstance(name, WorkflowType) else None  # pyright: ignore[reportUnknownVariableType]


def _name_of(function: Any) -> str:
    name = getattr(function, "__name__", None)
    if not isinstance(name, str):
        raise TypeError(f"name the jobs or workflows of {function!r}: it has no name of its own")
    return name


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
        inner = getattr(cast("object", type(inner)), "__call__", None)  # noqa: B004 - the method itself
    if not inspect.iscoroutinefunction(inner):
        raise TypeError(
            f"{what} needs an async function, not {function!r}; call what blocks by "
            "trio.to_thread.run_sync"
        )
