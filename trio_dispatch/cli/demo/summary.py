"""The demo's summary: a table in a terminal, aligned text elsewhere, from the same report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.columns import Columns
from rich.console import Group, JustifyMethod, RenderableType
from rich.table import Table
from rich.text import Text

from trio_dispatch.cli.demo.report import KindReport, Outcome, Report
from trio_dispatch.cli.exits import Exit
from trio_dispatch.cli.text import readable

_HEADINGS: Final = (
    "jobs",
    "queue",
    "prio",
    "total",
    "completed",
    "failed",
    "attempts\nfailed",
    "mean\ntime",
)

_SOURCES: Final = "job.get, workflow.get, workflow.timeline and stats"


def _cells(kind: KindReport) -> tuple[str, ...]:
    name, queue, priority = kind.kind.name, kind.kind.queue, str(kind.kind.priority)
    if kind.outcome is Outcome.SKIPPED:
        return (name, queue, priority, "skipped", "", "", "", "")
    mean = kind.mean_seconds
    return (
        name,
        queue,
        priority,
        str(len(kind.jobs)),
        str(kind.states["completed"]),
        str(kind.states["failed"]),
        str(kind.failed_attempts),
        "" if mean is None else f"{mean:.2f} s",
    )


def _total(report: Report) -> tuple[str, ...]:
    kinds = report.kinds
    return (
        "total",
        "",
        "",
        str(sum(len(kind.jobs) for kind in kinds)),
        str(sum(kind.states["completed"] for kind in kinds)),
        str(sum(kind.states["failed"] for kind in kinds)),
        str(sum(kind.failed_attempts for kind in kinds)),
        "",
    )


def _dead_letter(report: Report) -> str:
    return "; ".join(
        f"{kind.dead} {kind.kind.name} failed on purpose and are in the dead letter queue"
        for kind in report.kinds
        if kind.dead and kind.outcome is Outcome.OK
    )


def _workflow(report: Report) -> str:
    workflow = report.workflow
    run = workflow.run
    if run is None:
        return f"{workflow.name}  {'skipped' if workflow.skipped else 'not seen'}"
    took = "" if workflow.seconds is None else f" in {workflow.seconds:.2f} s"
    return f"{workflow.name}  {readable(run.state)}{took}, {len(workflow.timeline)} steps"


def _steps(report: Report) -> list[tuple[str, str]]:
    return [
        ("" if at is None else f"+{at:.2f} s", readable(name))
        for name, at in report.workflow.steps()
    ]


def _stats(report: Report) -> str:
    if report.stats is None:
        return ""
    broker = report.stats.broker
    return (
        f"sessions {broker.subscriber_count}, topics {broker.topic_count}, "
        f"events delivered {broker.total_published}, dropped {broker.total_dropped}"
    )


def _closing(report: Report) -> list[tuple[str, str, str]]:
    """Style, heading and text of each closing line."""
    lines = [("yellow", "skipped", f"{name}: {readable(why)}") for name, why in report.skipped]
    lines += [("red", "wrong", f"{name}: {readable(why)}") for name, why in report.failures]
    return lines


def _verdict(report: Report) -> tuple[str, str]:
    code, text = report.verdict
    style = "bold green" if code is Exit.OK else "bold red"
    return style, f"{text} ({report.seconds:.1f} s)"


def _columns(width: int) -> list[int]:
    """The columns that a terminal of *width* has place for; the last to go are the counts."""
    if width >= 80:
        return list(range(len(_HEADINGS)))
    left_out = {"queue", "prio"} if width >= 66 else {"queue", "prio", "mean\ntime"}
    return [n for n, heading in enumerate(_HEADINGS) if heading not in left_out]


def table(report: Report, width: int = 80) -> RenderableType:
    """The summary for a terminal: it fits into 80 columns and 24 lines where nothing is wrong."""
    jobs = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = _columns(width)

    def chosen(cells: tuple[str, ...]) -> list[Text]:
        return [Text(cells[n]) for n in columns]

    for heading in (_HEADINGS[n] for n in columns):
        justify: JustifyMethod = "left" if heading in ("jobs", "queue") else "right"
        jobs.add_column(
            Text(heading, "dim"), justify=justify, vertical="bottom", no_wrap=True, overflow="fold"
        )
    styles = {Outcome.OK: "", Outcome.SKIPPED: "yellow", Outcome.FAILED: "red"}
    for kind in report.kinds:
        jobs.add_row(*chosen(_cells(kind)), style=styles[kind.outcome])
    jobs.add_row(*chosen(_total(report)), style="bold")
    parts: list[RenderableType] = [Text(), jobs]
    if dead := _dead_letter(report):
        parts.append(Text(dead, "dim"))
    parts += [Text(), _about("workflow", "bold", _workflow(report))]
    if report.workflow.run is not None:
        parts.append(_about("", "", readable(report.workflow.run.id)))
    if steps := [Text.assemble((f"{at:>7} ", "dim"), name) for at, name in _steps(report)]:
        parts.append(_about("", "", Columns(steps, padding=(0, 2))))
    if stats := _stats(report):
        parts.append(_about("server", "bold", stats))
    parts.append(Text(f"Figures by {_SOURCES}: the server's own.", "dim"))
    closing = [_about(name, f"bold {style}", text) for style, name, text in _closing(report)]
    if closing:
        parts += [Text(), *closing]
    style, text = _verdict(report)
    return Group(*parts, Text(), Text(text, style))


def _about(heading: str, style: str, body: RenderableType) -> RenderableType:
    """A heading with what belongs to it beside it."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(width=9)
    grid.add_column()
    grid.add_row(Text(heading, style), Text(body) if isinstance(body, str) else body)
    return grid


def plain(report: Report) -> list[str]:
    """The summary as lines of text."""
    headings = tuple(" ".join(heading.split()) for heading in _HEADINGS)
    lines = ["", "Jobs"]
    lines += _aligned([headings, *map(_cells, report.kinds), _total(report)], left=2)
    if dead := _dead_letter(report):
        lines.append(dead)
    lines += [
        "",
        "Workflow",
        f"  {_workflow(report)}",
    ]
    lines += _aligned(_steps(report), left=0)
    if stats := _stats(report):
        lines += ["", "Server", f"  {stats}"]
    closing = [f"{heading}: {text}" for _, heading, text in _closing(report)]
    lines += ["", f"Figures by {_SOURCES}: the server's own."]
    return [*lines, *([""] if closing else []), *closing, "", _verdict(report)[1]]


def _aligned(rows: Sequence[tuple[str, ...]], *, left: int) -> list[str]:
    """Rows in columns: the first *left* of them, and the last of two, flush left."""
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [
            cell.ljust(width) if i < left or (left == 0 and i == 1) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return lines
