"""What the demo shows while it runs: a live screen in a terminal, plain lines elsewhere.

The screen is laid out by the terminal's size alone, so nothing moves while the numbers change.
"""

from __future__ import annotations

import sys
from typing import Final, TextIO

import trio
from rich.align import Align
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.measure import Measurement
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_dispatch.cli.demo.progress import Board, Line, Mood, Row
from trio_dispatch.cli.screen import STATE_COLOURS, open_screen
from trio_dispatch.cli.text import readable

FRAME_SECONDS: Final = 0.1

WIDE: Final = 150
"""From so many columns on, the events stand beside the rest, both complete."""

NARROW: Final = 78
"""Below so many columns the states' names are short."""

_STATES: Final = {
    "pending": "pend",
    "running": "run",
    "retrying": "retry",
    "completed": "done",
    "failed": "fail",
}
"""Those of the table, from left to right, with their short names."""

_MOODS: Final[dict[Mood, str]] = {"plain": "", "good": "green", "odd": "yellow", "bad": "bold red"}


class PlainView:
    """One line per notable event."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout

    def line(self, line: Line) -> None:
        """Write a line."""
        self.text(f"{line.at:6.2f} s  {line.subject}: {readable(line.text)}")

    def text(self, text: str) -> None:
        """Write text."""
        self._out.write(f"{readable(text)}\n")
        self._out.flush()


class _Bar:
    """A row's jobs by state, as far along as they are, over the width that there is."""

    def __init__(self, row: Row, char: str) -> None:
        self._row = row
        self._char = char

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bar, counts, shown, upto = Text(end=""), self._row.counts(), 0, 0
        for state in ("completed", "failed", "running", "retrying", "pending"):
            upto += counts[state]
            cells = options.max_width * upto // max(self._row.planned, 1) - shown
            bar.append(self._char * cells, STATE_COLOURS[state])
            shown += cells
        yield bar

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(1, options.max_width)


class _Flow:
    """Pieces of text in lines, none of them broken."""

    def __init__(self, pieces: list[Text]) -> None:
        self._pieces = pieces

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        line = Text()
        for piece in self._pieces:
            if line and len(line) + 2 + len(piece) > options.max_width:
                yield line
                line = Text()
            line.append_text(Text("  ") if line else Text())
            line.append_text(piece)
        yield line


class LiveView:
    """The whole terminal, drawn ten times a second.

    Args:
        console: the terminal.
        board: what to show.
        where: the server, in words.
    """

    def __init__(self, console: Console, board: Board, where: str) -> None:
        self._console = console
        self._board = board
        self._where = where
        ascii_only = console.options.ascii_only
        self._full, self._done, self._now, self._open = "#*>." if ascii_only else "━✓▸·"

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Draw until cancelled, and leave the terminal as it was."""
        with open_screen(self._console, self.render()) as live:
            task_status.started()
            while True:
                live.update(self.render(), refresh=True)
                await trio.sleep(FRAME_SECONDS)

    def render(self) -> RenderableType:
        """The screen as it is now."""
        width, height = self._console.size
        jobs_height = len(self._board.rows) + 4
        screen = Layout()
        header = Layout(self._header(width), size=1)
        if width >= WIDE:
            body = Layout()
            left, events = Layout(size=92), Layout()
            events.update(self._events(height - 3))
            left.split_column(
                Layout(self._jobs(width), size=jobs_height),
                Layout(self._workflow(tall=True)),
            )
            body.split_row(left, events)
            screen.split_column(header, body)
        else:
            screen.split_column(
                header,
                Layout(self._jobs(width), size=jobs_height),
                Layout(self._workflow(tall=False), size=5),
                Layout(self._events(max(height - jobs_height - 8, 0))),
            )
        return screen

    def _header(self, width: int) -> RenderableType:
        board = self._board
        right = f"{board.phase}  {board.now:5.1f} s "
        left = Text.assemble((" trio-dispatch demo  ", "bold"), (self._where, "dim"))
        left.truncate(max(width - len(right) - 1, 0), overflow="ellipsis")
        row = Table.grid(expand=True)
        row.add_column(no_wrap=True)
        row.add_column(justify="right", no_wrap=True)
        row.add_row(left, Text(right, "bold green" if board.phase == "done" else "bold"))
        return row

    # Jobs

    def _jobs(self, width: int) -> RenderableType:
        wide = width >= 100
        grid = Table(box=None, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
        grid.add_column(Text("jobs", "dim"), no_wrap=True, overflow="ellipsis", min_width=18)
        if wide:
            grid.add_column(Text("queue", "dim"), no_wrap=True, width=8)
        grid.add_column("", ratio=1)
        for state, short in _STATES.items():
            name = state if width >= NARROW else short
            grid.add_column(Text(name, "dim"), justify="right", no_wrap=True, width=len(name))
        total = dict.fromkeys(_STATES, 0)
        for row in self._board.rows:
            counts = row.counts()
            about = [Text(row.kind.queue)] if wide else []
            if row.skipped:
                grid.add_row(Text(row.kind.name, "dim"), *about, Text("skipped", "yellow"))
                continue
            for state in _STATES:
                total[state] += counts[state]
            mark = "green" if row.ended else ""
            grid.add_row(
                Text(row.kind.name, mark),
                *about,
                _Bar(row, self._full),
                *(self._count(state, counts[state]) for state in _STATES),
            )
        grid.add_row(
            Text("total", "bold"),
            *([""] if wide else []),
            "",
            *(self._count(state, n) for state, n in total.items()),
        )
        failing = next((r.kind.name for r in self._board.rows if r.kind.expected == "failed"), None)
        note = f"{failing} fails on purpose: dead letter queue" if failing else None
        return Panel(
            grid,
            subtitle=Text(note, "dim") if note else None,
            subtitle_align="left",
            border_style="bright_black",
        )

    @staticmethod
    def _count(state: str, n: int) -> Text:
        return Text(str(n), STATE_COLOURS[state]) if n else Text("-", "bright_black")

    # The workflow

    def _workflow(self, *, tall: bool) -> RenderableType:
        run = self._board.run
        style = "bold cyan" if run.waiting else _MOODS[run.mood]
        about = Text.assemble((run.name, "bold"), "  ", (readable(run.state), style))
        about.no_wrap, about.overflow = True, "ellipsis"
        waits = f"wait:{self._board.plan.approval}"
        widest = max((len(step.label) for step in run.steps), default=0)
        steps: list[Text] = []
        for step in run.steps:
            label = readable(step.label)
            if step.at is not None:
                at = f"{'':{widest - len(label)}}  {step.at:6.2f} s" if tall else ""
                steps.append(Text(f"{self._done} {label}{at}", "green"))
            elif run.waiting and step.name == waits:
                steps.append(Text(f"{self._now} {label}", "bold cyan"))
            else:
                steps.append(Text(f"{self._open} {label}", "bright_black"))
        if tall:
            body: RenderableType = Group(about, Text(run.run_id, "bright_black"), Text(), *steps)
        else:
            body = Group(about, _Flow(steps))
        return Panel(body, border_style="bright_black")

    # Events

    def _events(self, room: int) -> RenderableType:
        grid = Table(box=None, expand=True, pad_edge=False, padding=(0, 1, 0, 0), show_header=False)
        grid.add_column(justify="right", no_wrap=True, width=7)
        grid.add_column(no_wrap=True, overflow="ellipsis", width=20)
        grid.add_column(no_wrap=True, overflow="ellipsis", ratio=1)
        lines = list(self._board.lines)[-room:] if room > 0 else []
        for line in lines:
            grid.add_row(
                Text(f"{line.at:.2f} s", "bright_black"),
                Text(readable(line.subject.removeprefix(self._board.plan.prefix))),
                Text(readable(line.text), _MOODS[line.mood]),
            )
        empty = Align.center(Text("no events yet", "bright_black"))
        return Panel(grid if lines else empty, title=Text("last events", "dim"),
                     title_align="left", border_style="bright_black")  # fmt: skip
