"""What came of the demo: the server's own figures, and whether they are as they should be."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Sequence

import attrs

from trio_dispatch import Job, Stats, TimelineStep, WorkflowRun
from trio_dispatch.cli.demo.plan import Kind, Plan
from trio_dispatch.cli.exits import Exit


class Outcome(enum.Enum):
    """What came of a part."""

    OK = "as it should"
    FAILED = "not as it should"
    SKIPPED = "skipped"


@attrs.frozen
class KindReport:
    """The jobs of one kind, as ``job.get`` tells them.

    Attributes:
        jobs: the jobs, as far as the server told them.
        problem: what else went wrong: a request that failed, a deadline that passed.
        skipped: why there are none.
    """

    kind: Kind
    jobs: Sequence[Job] = ()
    problem: str = ""
    skipped: str = ""

    @property
    def states(self) -> Counter[str]:
        """How many jobs are in each state."""
        return Counter(job.state for job in self.jobs)

    @property
    def failed_attempts(self) -> int:
        """How many attempts failed in all."""
        return sum(job.retry_count for job in self.jobs)

    @property
    def dead(self) -> int:
        """How many jobs have failed for good: they are in the dead letter queue."""
        return sum(job.state == "failed" and job.retry_count > job.max_retries for job in self.jobs)

    @property
    def mean_seconds(self) -> float | None:
        """The mean time from a job's creation to its end, by the server's clock."""
        times = [
            (end - job.created_at).total_seconds()
            for job in self.jobs
            if job.finished
            and job.created_at is not None
            and (end := job.completed_at or job.updated_at) is not None
        ]
        return sum(times) / len(times) if times else None

    @property
    def outcome(self) -> Outcome:
        """Whether all jobs have ended as their kind should."""
        if self.skipped:
            return Outcome.SKIPPED
        return Outcome.FAILED if self.wrong else Outcome.OK

    @property
    def wrong(self) -> str:
        """What is not as it should be; empty where nothing is."""
        planned, kind = len(self.kind.payloads), self.kind
        if self.problem:
            return self.problem
        if len(self.jobs) != planned:
            return f"the server told {len(self.jobs)} of {planned} jobs"
        others = [job for job in self.jobs if job.state != kind.expected]
        if others:
            states = ", ".join(
                f"{n} {state}" for state, n in Counter(j.state for j in others).items()
            )
            error = next((f" ({job.last_error})" for job in others if job.last_error), "")
            return f"should all be {kind.expected}, but {states}{error}"
        if kind.fails_first and any(job.retry_count == 0 for job in self.jobs):
            return "should have failed at least once each"
        if kind.expected == "failed" and self.dead != planned:
            return "should have used up their retries"
        return ""


@attrs.frozen
class WorkflowReport:
    """The run, as ``workflow.get`` and ``workflow.timeline`` tell it."""

    name: str
    run: WorkflowRun | None = None
    timeline: Sequence[TimelineStep] = ()
    problem: str = ""
    skipped: str = ""

    @property
    def outcome(self) -> Outcome:
        """Whether the run has ended as it should."""
        if self.skipped:
            return Outcome.SKIPPED
        return Outcome.FAILED if self.problem or self.run is None else Outcome.OK

    @property
    def seconds(self) -> float | None:
        """How long it ran, by the server's clock."""
        run = self.run
        if run is None or run.started_at is None or run.completed_at is None:
            return None
        return (run.completed_at - run.started_at).total_seconds()

    def steps(self) -> list[tuple[str, float | None]]:
        """The steps, with the seconds from the run's start to each."""
        began = self.run.started_at if self.run is not None else None
        return [
            (
                step.step_name,
                (step.created_at - began).total_seconds() if began and step.created_at else None,
            )
            for step in self.timeline
        ]


@attrs.frozen(kw_only=True)
class Report:
    """Everything."""

    plan: Plan
    kinds: Sequence[KindReport]
    workflow: WorkflowReport
    stats: Stats | None
    extras: Sequence[tuple[str, str]]
    """What else is not there, and why: by name."""
    seconds: float

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """What was left out because the server lacks it, by name, with the reason."""
        return [
            *((kind.kind.name, kind.skipped) for kind in self.kinds if kind.skipped),
            *([(self.workflow.name, self.workflow.skipped)] if self.workflow.skipped else []),
            *self.extras,
        ]

    @property
    def failures(self) -> list[tuple[str, str]]:
        """What did not end as it should, by name, with what is wrong."""
        failures = [
            (kind.kind.name, kind.wrong) for kind in self.kinds if kind.outcome is Outcome.FAILED
        ]
        if self.workflow.outcome is Outcome.FAILED:
            failures.append((self.workflow.name, self.workflow.problem or "no run was seen"))
        return failures

    @property
    def verdict(self) -> tuple[Exit, str]:
        """The exit code, and why.

        Failures that the plan expects are right. A foreign server may lack things, but not all of
        them: a demo that showed nothing has not succeeded. The demo's own server lacks nothing.
        """
        outcomes = [*(kind.outcome for kind in self.kinds), self.workflow.outcome]
        if Outcome.FAILED in outcomes:
            return Exit.FAILED, "Not everything ended as it should."
        if Outcome.OK not in outcomes:
            return (
                Exit.FAILED,
                "Everything was skipped: this server has nothing that the demo needs.",
            )
        if self.skipped and self.plan.own_server:
            return Exit.FAILED, "The embedded server lacks what it should have."
        if self.skipped:
            return Exit.OK, "What this server has ended as it should."
        return Exit.OK, "Everything ended as it should."
