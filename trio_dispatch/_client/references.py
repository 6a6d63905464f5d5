"""The ways to refer to a job or a run in a call: its id, a handle, or a model."""

from __future__ import annotations

from trio_dispatch._client.jobs import JobHandle
from trio_dispatch._client.run_handle import RunHandle
from trio_dispatch._wire.arguments import check_text
from trio_dispatch._wire.models import Job, WorkflowRun

JobReference = str | JobHandle | Job
RunReference = str | RunHandle | WorkflowRun


def job_id_of(job: JobReference) -> str:
    """Return the id of a job. Raises `TypeError` or `ValueError` if *job* is invalid."""
    if isinstance(job, JobHandle):
        return job.job_id
    if isinstance(job, Job):
        return job.id
    if not isinstance(job, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a job is an id, a JobHandle or a Job, not {type(job).__name__}")
    return check_text(job, "a job's id")


def run_id_of(run: RunReference) -> str:
    """Return the id of a run. Raises `RunNotKnown` if a handle does not know it yet."""
    if isinstance(run, RunHandle):
        return run.run_id
    if isinstance(run, WorkflowRun):
        return run.id
    if not isinstance(run, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a run is an id, a RunHandle or a WorkflowRun, not {type(run).__name__}")
    return check_text(run, "a run's id")


def is_known(thing: JobReference | RunReference) -> bool:
    """Return whether the server is known to have the job or run, because the server named it."""
    return not isinstance(thing, str)
