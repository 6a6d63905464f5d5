"""``trio-dispatch dlq``: the dead letter queue, where the server can show it."""

from __future__ import annotations

from typing import Annotated, Final

from cyclopts import App, Parameter

from trio_dispatch.cli.connect import ServerOptions
from trio_dispatch.cli.offered import ask_what_may_be_missing
from trio_dispatch.cli.output import OutputOptions

dlq_app: Final = App(name="dlq", help="The dead letter queue: jobs that have failed for good.")


@dlq_app.command(name="list")
def list_(
    *,
    queue: Annotated[str | None, Parameter(help="Only those of this queue.")] = None,
    limit: Annotated[int | None, Parameter(help="So many at most.")] = None,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """List dead jobs, where the server can do that (`dlq.list`); it says so where it cannot."""
    return ask_what_may_be_missing("dlq.list", {"queue": queue, "limit": limit}, server, output)


@dlq_app.command
def replay(
    job_id: Annotated[str, Parameter(help="The job's id.")],
    /,
    *,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Enqueue a dead job again, where the server can do that (`dlq.replay`)."""
    return ask_what_may_be_missing("dlq.replay", {"job_id": job_id}, server, output)
