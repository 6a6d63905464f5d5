"""What the live screens have in common."""

from __future__ import annotations

import sys
from typing import Annotated, Final, TypeAlias

from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.live import Live

WIDE: Final = 120
"""From so many columns on, a screen has two columns."""

STATE_COLOURS: Final = {
    "pending": "bright_black",
    "running": "cyan",
    "retrying": "yellow",
    "completed": "green",
    "failed": "red",
    "cancelled": "magenta",
}

PlainOption: TypeAlias = Annotated[
    bool,
    Parameter(
        name="--plain", negative=(), show_default=False, help="Lines instead of a live screen."
    ),
]


def is_live(console: Console) -> bool:
    """Whether *console* can be drawn over again and again.

    Variables can make it take a file for a terminal; what is drawn over belongs on a real one.
    """
    stream = sys.stderr if console.stderr else sys.stdout
    return console.is_terminal and not console.is_dumb_terminal and stream.isatty()


def open_screen(console: Console, picture: RenderableType) -> Live:
    """The whole terminal, drawn when it is told to be, and left as it was."""
    return Live(
        picture,
        console=console,
        screen=True,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
    )
