"""The command's framework: what is parsed, and who runs it. Commands have modules of their own."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError

from trio_dispatch import __version__
from trio_dispatch.cli.call import call
from trio_dispatch.cli.cron import cron_app
from trio_dispatch.cli.demo.command import demo
from trio_dispatch.cli.dlq import dlq_app
from trio_dispatch.cli.doctor import doctor
from trio_dispatch.cli.enqueue import enqueue
from trio_dispatch.cli.event import event_app
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.job import job_app
from trio_dispatch.cli.run.command import run as run_program
from trio_dispatch.cli.running import guard
from trio_dispatch.cli.serve import serve
from trio_dispatch.cli.stats import stats
from trio_dispatch.cli.streams import prepare_streams
from trio_dispatch.cli.top.command import top
from trio_dispatch.cli.watch import watch
from trio_dispatch.cli.workflow import workflow_app

app = App(
    name="trio-dispatch",
    help="Work with Dispatch servers: background jobs and workflows.",
    help_format="markdown",
    version=__version__,
)
for function in (demo, serve, enqueue, watch, stats, top, call, run_program, doctor):
    app.command(function)
for commands in (job_app, workflow_app, event_app, dlq_app, cron_app):
    app.command(commands)
app.register_install_completion_command(name="--install-completion")  # pyright: ignore[reportUnknownMemberType]

NARROWEST: Final = 20
WIDEST: Final = 1_000
"""Terminal columns that a variable may claim."""


def run(arguments: Sequence[str]) -> int:
    """Parse *arguments* and run the command they name; return its exit code."""
    return guard(lambda: _run(arguments))


def _run(arguments: Sequence[str]) -> int:
    prepare_streams()
    _check_sizes()
    try:
        result = app(
            [_as_text(argument) for argument in arguments],
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    except CycloptsError as exc:
        command = " ".join(["trio-dispatch", *(exc.command_chain or ())])
        complain(f"{' '.join(str(exc).split())} See: {command} --help")
        return Exit.USAGE
    return result if isinstance(result, int) else Exit.OK


def _as_text(argument: str) -> str:
    """Read an argument as UTF-8 where the locale could not."""
    try:
        argument.encode()
    except UnicodeEncodeError:  # surrogates stand for bytes that the locale does not have
        try:
            return argument.encode(sys.getfilesystemencoding(), "surrogateescape").decode()
        except UnicodeError:
            raise UsageError("an argument is not UTF-8") from None
    return argument


def _check_sizes() -> None:
    """Forget a size in the environment that no terminal has, and print on none that is narrower.

    Text that wraps at one column wraps for ever.
    """
    for name in ("COLUMNS", "LINES"):
        found = os.environ.get(name, "")
        sane = found.isascii() and found.isdigit() and len(found) < 6
        if found and not (sane and NARROWEST <= int(found) <= WIDEST):
            del os.environ[name]
    if shutil.get_terminal_size().columns < NARROWEST:
        os.environ["COLUMNS"] = str(NARROWEST)
