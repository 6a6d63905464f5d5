"""``trio-dispatch demo``: a server, a client, a plan, a screen and a report, put together."""

from __future__ import annotations

import math
import secrets
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from trio_dispatch import DispatchError
from trio_dispatch._wire.url import parse_url
from trio_dispatch.cli.connect import ServerOptions, connect
from trio_dispatch.cli.demo.clean_up import SECONDS, clean_up, left_behind
from trio_dispatch.cli.demo.plan import Plan, make_plan
from trio_dispatch.cli.demo.progress import Board
from trio_dispatch.cli.demo.report import Report
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.screen import LiveView, PlainView
from trio_dispatch.cli.demo.summary import plain as plain_summary
from trio_dispatch.cli.demo.summary import table
from trio_dispatch.cli.exits import Ended, Exit, UsageError, complain
from trio_dispatch.cli.running import run_async
from trio_dispatch.cli.screen import PlainOption, is_live

LINGER: Final = 0.8
"""Seconds that the finished screen stays."""

if TYPE_CHECKING:
    from trio_dispatch.server import Server


@attrs.frozen(kw_only=True)
class _Options:
    urls: list[str]
    """Empty for a server of the demo's own."""
    where: str
    make_server: Callable[[Plan, str], Server] | None
    """Where there is no URL."""
    token: str | None
    plan: Plan
    console: Console
    live: bool


def demo(
    *,
    prefix: Annotated[str, Parameter(help="What job and workflow names begin with.")] = "demo-",
    deadline: Annotated[float, Parameter(help="Seconds until all must have ended.")] = 30.0,
    speed: Annotated[float, Parameter(help="2 is twice as fast.")] = 1.0,
    yes: Annotated[
        bool,
        Parameter(
            name=("--yes", "-y"),
            negative=(),
            show_default=False,
            help="Do not ask before anything is left on another server.",
        ),
    ] = False,
    plain: PlainOption = False,
    server: ServerOptions | None = None,
) -> int:
    """Watch jobs and a workflow run, live, and see the server's own figures.

    Starts a server in this process, connects to it over a WebSocket, enqueues jobs of five kinds
    (some fail and are tried again, one kind ends in the dead letter queue on purpose), and runs a
    workflow that waits for an approval. The figures at the end are the server's own. It needs
    nothing: `DISPATCH_URL` and profiles in the environment do not count here.

    With `--url` or `--profile` it does the same on that Dispatch server, and asks first: a server
    keeps finished jobs and runs, and nobody can delete them. What has not ended when the demo ends
    is cancelled. What that server lacks is skipped, and named with the reason. To skip nothing, it
    needs these:

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
    - 1: something did not, or everything was skipped, or you said no;
    - 2: wrong use;
    - 3: no connection to the server, or it was lost;
    - 4: the server refused the token;
    - 130: Ctrl-C.
    """
    for option, value in (("--speed", speed), ("--deadline", deadline)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"{option} is a number above 0, not {value}")
    chosen = server or ServerOptions()
    plan = make_plan(prefix=prefix, speed=speed, deadline=deadline, own_server=not chosen.named)
    make_server: Callable[[Plan, str], Server] | None = None
    urls: list[str] = []
    token: str | None = None
    where = "embedded server"
    if chosen.named:
        urls, where = chosen.urls, _check_urls(chosen.urls)
        if not yes:
            _ask(plan, where)
        token = chosen.find_token()
    else:
        # Here, where a missing extra is an error of its own and not one in a group.
        from trio_dispatch.cli.demo import server as own

        make_server = own.make_server
    console = Console(highlight=False)
    options = _Options(
        urls=urls,
        where=where,
        make_server=make_server,
        token=token,
        plan=plan,
        console=console,
        live=is_live(console) and not plain,
    )
    return run_async(lambda: _demo(options))


def _check_urls(urls: list[str]) -> str:
    try:
        # The demo starts workflows, which cannot be done by HTTP.
        return ", ".join(parse_url(url, "ws", "wss").shown for url in urls)
    except ValueError as exc:
        raise UsageError(f"--url: {exc}") from exc


def _ask(plan: Plan, where: str) -> None:
    """Ask whether things may be left on a server that is not the demo's own."""
    jobs = sum(len(kind.payloads) for kind in plan.kinds)
    first = plan.kinds[0].name
    about = (
        f"The demo enqueues up to {jobs} jobs ({first}, …) and starts a run of {plan.workflow} on "
        f"{where}. Those that end stay there: nobody can delete them."
    )
    if sys.stdin is None or not sys.stdin.isatty() or not sys.stderr.isatty():
        raise UsageError(f"{about} Say --yes if that is all right")
    sys.stderr.write(f"{about}\nGo on? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Ended(Exit.FAILED, "nothing was done")


async def _demo(options: _Options) -> Exit:
    async with AsyncExitStack() as stack:
        urls, token, where = options.urls, options.token, options.where
        if not urls:
            assert options.make_server is not None
            token = secrets.token_urlsafe()
            server = options.make_server(options.plan, token)
            url = await stack.enter_async_context(server.serve())
            urls, where = [url], f"{where}, {url}"
        lines = None if options.live else PlainView()
        board = Board(options.plan, None if lines is None else lines.line)
        proxy = "env" if options.urls else None  # none leads to this process
        client = await stack.enter_async_context(connect(urls, token, proxy=proxy))
        if lines is not None:
            lines.text(f"trio-dispatch demo, {where}")
        try:
            if lines is not None:
                report = await Demo(client, board).run()
            else:
                view = LiveView(options.console, board, where)
                async with trio.open_nursery() as nursery:
                    await nursery.start(view.run)
                    report = await Demo(client, board).run()
                    board.freeze()
                    await trio.sleep(LINGER / options.plan.speed)
                    nursery.cancel_scope.cancel()
        finally:
            if options.urls and left_behind(board):
                await _clean_up(options, board)
    _show(report, options, where)
    return report.verdict[0]


async def _clean_up(options: _Options, board: Board) -> None:
    """Take back what is left, on a connection of its own: the demo's may be gone."""
    with trio.move_on_after(SECONDS, shield=True) as limit:
        try:
            async with connect(options.urls, options.token, warn=False) as client:
                found = await clean_up(client, board)
        except DispatchError as exc:
            complain(f"what the demo left on {options.where} could not be cancelled: {exc}")
            return
        if found.cancelled:
            complain(f"{found.cancelled} jobs that had not ended were cancelled")
        if found.left:
            complain(f"left on {options.where}: {', '.join(found.left)}")
    if limit.cancelled_caught:
        complain(f"not everything that the demo left was cancelled within {SECONDS:g} s")


def _show(report: Report, options: _Options, where: str) -> None:
    if options.live:
        options.console.print(Text.assemble(("trio-dispatch demo", "bold"), "  ", (where, "dim")))
        options.console.print(table(report, options.console.width))
    else:
        lines = PlainView()
        for line in plain_summary(report):
            lines.text(line)
