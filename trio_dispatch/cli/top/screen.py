"""The screen of ``trio-dispatch top``, laid out by the terminal's size alone."""

from __future__ import annotations

from typing import Final

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_dispatch.cli.lines import clock
from trio_dispatch.cli.screen import STATE_COLOURS, WIDE
from trio_dispatch.cli.text import readable, short_id
from trio_dispatch.cli.top.counts import STATES, Counts

_HEAD: Final = 2
_STATES: Final = 4
"""Lines of the parts above the tables, borders included."""

_FRAME: Final = 3
"""Lines of a table that hold no row: its borders and its heading."""

_QUEUE_STATES: Final = {
    "failed": "fail",
    "running": "run",
    "pending": "pend",
    "retrying": "retry",
    "completed": "done",
}
"""The columns of the queues, and their names where there is little place."""

_ROOMY: Final = 76
"""From so many columns on a panel has place for the whole names."""


def fit(pieces: list[str], width: int | None, gap: str = "  ") -> str:
    """Join the first ones of *pieces*, as many as *width* cells hold."""
    line = ""
    for piece in pieces:
        longer = f"{line}{gap}{piece}" if line else piece
        if line and width is not None and cell_len(longer) > width:
            break
        line = longer
    return line


def count(number: int, width: int) -> str:
    """A number in *width* columns, in thousands or millions where it is longer."""
    for unit in ("", "k", "M", "G"):
        if len(text := f"{number}{unit}") <= width:
            return text
        number //= 1_000
    return "…"


class TopScreen:
    """The screen.

    Args:
        console: the terminal.
        counts: what to show.
        where: the server.
    """

    def __init__(self, console: Console, counts: Counts, where: str) -> None:
        self.console = console
        self._counts = counts
        self._where = where

    def render(self, now: float) -> RenderableType:
        """The screen as it is now."""
        width, height = self.console.size
        rows = max(height - _HEAD - _STATES, 3)
        body = Layout(name="body")
        if width >= WIDE:
            left = Layout()
            upper = rows // 2
            left.split_column(
                Layout(self._queues(upper - _FRAME, width // 2), size=upper),
                Layout(self._slowest(rows - upper - _FRAME)),
            )
            body.split_row(left, Layout(self._failures(rows - 2)))
        else:
            third = rows // 3
            body.split_column(
                Layout(self._queues(third - _FRAME, width), size=third),
                Layout(self._slowest(third - _FRAME), size=third),
                Layout(self._failures(rows - 2 * third - 2)),
            )
        screen = Layout()
        screen.split_column(
            Layout(self._head(width, now), size=_HEAD),
            Layout(self._states(), size=_STATES),
            body,
        )
        return screen

    def _head(self, width: int, now: float) -> RenderableType:
        counts = self._counts
        first = Text("trio-dispatch top  ", "bold")
        if counts.connected:
            first.append("connected", "green")
        else:
            first.append("disconnected", "bold red")
        losses = [
            (counts.connections - 1, "times back"),
            (counts.gaps, "gaps"),
            (counts.dropped, "dropped"),
        ]
        told = ", ".join(f"{number} {what}" for number, what in losses if number > 0)
        if counts.servers > 1:
            told = f"1 of {counts.servers} servers heard" + (f", {told}" if told else "")
        first.append(f"  {told}" if told else "", "yellow")
        first.append(f"  {self._where}")
        rates = counts.rates(now)
        # The last ones are left out where there is no place for them.
        pieces = [
            "q ends",
            f"{rates['']:.1f} events/s",
            f"failed {rates.get('job.failed', 0):.1f}/s",
            f"runs {len(counts.runs)}",
            f"completed {rates.get('job.completed', 0):.1f}/s",
            f"enqueued {rates.get('job.enqueued', 0):.1f}/s",
        ]
        if counts.stats is not None:
            pieces.append(f"sessions {counts.stats.broker.subscriber_count}")
        first.truncate(width, overflow="ellipsis")
        second = Text(fit(pieces, width))
        second.stylize("dim", 0, len(pieces[0]))
        second.truncate(width, overflow="ellipsis")
        return Text("\n").join([first, second])

    def _states(self) -> RenderableType:
        states = self._counts.states()
        grid = Table.grid(padding=(0, 2, 0, 0))
        for state in STATES:
            grid.add_column(justify="right", no_wrap=True, width=len(state))
        grid.add_row(*(Text(state, STATE_COLOURS[state]) for state in STATES))
        grid.add_row(*(count(states[state], len(state)) for state in STATES))
        return Panel(grid, title="jobs seen", title_align="left")

    def _queues(self, rows: int, width: int) -> RenderableType:
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("queue", ratio=1, no_wrap=True, overflow="ellipsis")
        widths = {state: len(state) if width >= _ROOMY else len("retry") for state in _QUEUE_STATES}
        for state, short in _QUEUE_STATES.items():
            heading = state if width >= _ROOMY else short
            table.add_column(heading, justify="right", width=widths[state], no_wrap=True)
        for name, counts in self._counts.queues()[: max(rows, 0)]:
            numbers = (count(counts[state], widths[state]) for state in _QUEUE_STATES)
            table.add_row(Text(readable(name)), *numbers)
        return Panel(table, title="queues", title_align="left")

    def _slowest(self, rows: int) -> RenderableType:
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("seconds", justify="right", width=9, no_wrap=True)
        table.add_column("job", ratio=1, no_wrap=True, overflow="ellipsis")
        table.add_column("id", width=7, no_wrap=True)
        for seconds, name, job_id in self._counts.slowest()[: max(rows, 0)]:
            table.add_row(f"{seconds:.3f}", Text(readable(name)), Text(readable(short_id(job_id))))
        return Panel(table, title="slowest", title_align="left")

    def _failures(self, rows: int) -> RenderableType:
        table = Table.grid(expand=True, padding=(0, 2, 0, 0), pad_edge=False)
        table.add_column(width=8, no_wrap=True)
        table.add_column(ratio=2, no_wrap=True, overflow="ellipsis")
        table.add_column(ratio=3, no_wrap=True, overflow="ellipsis")
        for failure in self._counts.failures()[: max(rows, 0)]:
            name = f"{failure.name} {failure.step}".rstrip()
            table.add_row(
                Text(clock(failure.ts)[:8], "dim"),
                Text(readable(name)),
                Text(readable(failure.error or failure.type), "red"),
            )
        return Panel(table, title="failures", title_align="left")
