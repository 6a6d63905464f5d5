"""The calls as a table that is drawn below what the program prints."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_dispatch.cli.run.calls import Calls, Row, note
from trio_dispatch.cli.screen import WIDE
from trio_dispatch.cli.text import cut, readable
from trio_dispatch.remote import Status

COLOURS: Final = {
    "waiting": "bright_black",
    "running": "cyan",
    "suspended": "blue",
    "retrying": "yellow",
    "ended": "green",
}
LEAST: Final = 3
"""Rows, however low the terminal is."""


class CallsScreen:
    """The table, laid out by the terminal's size alone.

    Args:
        console: the terminal.
        calls: what to show.
        where: the service.
    """

    def __init__(self, console: Console, calls: Calls, where: str) -> None:
        self.console = console
        self._calls = calls
        self._where = where

    def render(self, now: datetime) -> RenderableType:
        """The table as it is now; it takes half of the terminal at most."""
        width, height = self.console.size
        wide = width >= WIDE
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("function", ratio=2, no_wrap=True)
        if wide:
            table.add_column("call", width=29, no_wrap=True)
            table.add_column("endpoint", ratio=2, no_wrap=True)
        table.add_column("state", width=9, no_wrap=True)
        table.add_column("tries", width=5, justify="right", no_wrap=True)
        table.add_column("seconds", width=8, justify="right", no_wrap=True)
        table.add_column("", ratio=4, no_wrap=True)
        for row in self._calls.rows(max(height // 2 - 4, LEAST)):
            table.add_row(*self._cells(row, now, wide))
        title = cut(f"trio-dispatch run  {self._where}", max(width - 6, 10))
        summary = cut(self._calls.summary(), max(width - 6, 10))
        return Panel(table, title=title, title_align="left", subtitle=summary)

    def _cells(self, row: Row, now: datetime, wide: bool) -> list[Text]:
        call = row.info
        colour = COLOURS[call.state]
        if call.state == "ended" and call.status is not Status.OK:
            colour = "red"
        seconds = ((call.ended or now) - call.created).total_seconds()
        cells = [("  " * row.depth + readable(call.function), "")]
        if wide:
            cells += [(call.id, "bright_black"), (readable(call.endpoint), "")]
        cells += [
            (call.state, colour),
            (str(call.attempts), ""),
            (f"{seconds:.2f}", ""),
            (
                readable(note(call, row.delay, self._calls.open_children(call))),
                colour if call.state != "running" else "",
            ),
        ]
        return [Text(text, style, overflow="ellipsis", no_wrap=True) for text, style in cells]
