"""The command's framework: what is parsed, and who runs it. Commands have modules of their own."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from trio_dispatch import __version__
from trio_dispatch.cli.call import call
from trio_dispatch.cli.demo.command import demo
from trio_dispatch.cli.doctor import doctor
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.jobs import enqueue, job_app
from trio_dispatch.cli.serve import serve
from trio_dispatch.cli.top.command import top
from trio_dispatch.cli.watch import stats, watch
from trio_dispatch.cli.workflows import event_app, workflow_app

app = App(
    name="trio-dispatch",
    help="Work with Dispatch servers: background jobs and workflows.",
    help_format="markdown",
    version=__version__,
)
for function in (demo, serve, enqueue, watch, stats, top, call, doctor):
    app.command(function)
for commands in (job_app, workflow_app, event_app):
    app.command(commands)
app.register_install_completion_command(name="--install-completion")  # pyright: ignore[reportUnknownMemberType]


def run(arguments: Sequence[str]) -> int:
    """Parse *arguments* and run the command they name; return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that lacks a character shows a question mark, and nothing fails for it.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        result = app(
            list(arguments), exit_on_error=False, print_error=False, result_action="return_value"
        )
    except CycloptsError as exc:
        command = " ".join(["trio-dispatch", *(exc.command_chain or ())])
        complain(f"{' '.join(str(exc).split())} See: {command} --help")
        return Exit.USAGE
    except UsageError as exc:
        complain(str(exc))
        return Exit.USAGE
    return result if isinstance(result, int) else Exit.OK
