"""``trio-dispatch demo``: a server, a client, a plan, a view and a report, put together."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from trio_dispatch._wire.url import parse_url
from trio_dispatch.cli.connect import TokenOption, UrlOption, connect
from trio_dispatch.cli.demo.board import Board
from trio_dispatch.cli.demo.demo import Demo
from trio_dispatch.cli.demo.plan import Plan, make_plan
from trio_dispatch.cli.demo.report import Report
from trio_dispatch.cli.demo.summary import plain as plain_summary
from trio_dispatch.cli.demo.summary import table
from trio_dispatch.cli.demo.view import LiveView, PlainView
from trio_dispatch.cli.exits import Exit, UsageError, run_async
from trio_dispatch.cli.screen import PlainOption, is_live

LINGER: Final = 0.8
"""Seconds that the finished screen stays."""

if TYPE_CHECKING:
    from trio_dispatch.server import Server


@attrs.frozen(kw_only=True)
class _Options:
    url: str | None
    make_server: Callable[[Plan, str], Server] | None
    """Where there is no URL."""
    token: str | None
    plan: Plan
    console: Console
    live: bool


def demo(
    *,
    url: UrlOption = None,
    token: TokenOption = None,
    prefix: Annotated[str, Parameter(help="What job and workflow names begin with.")] = "demo-",
    deadline: Annotated[float, Parameter(help="Seconds until all must have ended.")] = 30.0,
    speed: Annotated[float, Parameter(help="2 is twice as fast.")] = 1.0,
    plain: PlainOption = False,
) -> int:
    """Watch jobs and a workflow run, live, and see the server's own figures.

    Starts a server in this process, connects to it over a WebSocket, enqueues jobs of five kinds
    (some fail and are tried again, one kind ends in the dead letter queue on purpose), and runs a
    workflow that waits for an approval. The figures at the end are the server's own.

    With `--url` it does the same on any Dispatch server. What that server lacks is skipped, and
    named with the reason. To skip nothing, it needs these:

    - jobs `demo-send-email` (queue `email`), `demo-process-image` (queue `images`) and
      `demo-build-report` (queue `default`, as the rest), which complete;
    - job `demo-sync-stock`, which fails as often as `failures` in its payload says, then completes;
    - job `demo-charge-card`, which always fails, until its retries are used up;
    - workflow `demo-order-pipeline`, which waits for the event that `approval` in its input names;
    - a token with the scopes `job:read`, `job:write`, `workflow:read`, `workflow:write`,
      `subscribe` and `stats:read`.

    `--prefix ''` takes the names without `demo-`. Mind what jobs of such names really do.

    Exit codes:

    - 0: all ended as it should. Failures on purpose are right, and so are skips on a server that
      is not our own, unless everything was skipped;
    - 1: something did not, or everything was skipped;
    - 2: wrong use;
    - 3: no connection to the server, or it was lost;
    - 4: the server refused the token;
    - 130: Ctrl-C.
    """
    for option, value in (("--speed", speed), ("--deadline", deadline)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} is a number above 0, not {value}")
    make_server: Callable[[Plan, str], Server] | None = None
    if not url:
        # Here, where a missing extra is an error of its own and not one in a group.
        from trio_dispatch.cli.demo import server

        make_server = server.make_server
    console = Console(highlight=False)
    options = _Options(
        url=url or None,
        make_server=make_server,
        token=token,
        plan=make_plan(prefix=prefix, speed=speed, deadline=deadline, own_server=not url),
        console=console,
        live=is_live(console) and not plain,
    )
    return run_async(lambda: _demo(options))


async def _demo(options: _Options) -> Exit:
    async with AsyncExitStack() as stack:
        url, token, where = options.url, options.token, ""
        if url is None:
            assert options.make_server is not None
            token = secrets.token_urlsafe()
            server = options.make_server(options.plan, token)
            url = await stack.enter_async_context(server.serve())
            where = "embedded server, "
        try:
            where += parse_url(url, "ws", "wss").shown  # the demo starts workflows
        except ValueError as exc:
            raise UsageError(f"--url: {exc}") from exc
        client = await stack.enter_async_context(connect(url, token))
        if not options.live:
            lines = PlainView()
            lines.text(f"trio-dispatch demo, {where}")
            report = await Demo(client, Board(options.plan, lines.line)).run()
        else:
            board = Board(options.plan)
            view = LiveView(options.console, board, where)
            async with trio.open_nursery() as nursery:
                await nursery.start(view.run)
                report = await Demo(client, board).run()
                board.freeze()
                await trio.sleep(LINGER / options.plan.speed)
                nursery.cancel_scope.cancel()
    _show(report, options, where)
    return report.verdict[0]


def _show(report: Report, options: _Options, where: str) -> None:
    if options.live:
        options.console.print(Text.assemble(("trio-dispatch demo", "bold"), "  ", (where, "dim")))
        options.console.print(table(report))
    else:
        lines = PlainView()
        for line in plain_summary(report):
            lines.text(line)
