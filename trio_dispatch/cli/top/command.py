"""``trio-dispatch top``: what a server is doing, live."""

from __future__ import annotations

import math
from typing import Annotated, Final

import trio
from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from trio_dispatch import Client, Connected, DispatchError, PermissionDenied, SubscriptionOverflow
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError, readable
from trio_dispatch.cli.output import JsonOption, print_json, print_line
from trio_dispatch.cli.screen import STATE_COLOURS, WIDE, PlainOption, is_live, open_screen
from trio_dispatch.cli.show import clock
from trio_dispatch.cli.top.board import STATES, TopBoard

FRAME_SECONDS: Final = 0.25


def top(
    *,
    interval: Annotated[float, Parameter(help="Seconds between lines, and statistics.")] = 1.0,
    count: Annotated[int | None, Parameter(help="End after so many intervals.")] = None,
    plain: PlainOption = False,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Show what a server is doing: rates, states, queues, the slowest jobs, failures.

    What it shows are the events since it was started, and the server's own statistics. Without a
    terminal it prints a line for each interval. Ctrl-C ends it.
    """
    if not (math.isfinite(interval) and interval > 0):
        raise UsageError(f"--interval is a number above 0, not {interval}")
    if count is not None and count < 1:
        raise UsageError("--count is at least 1")
    options = server or ServerOptions()
    console = Console(highlight=False)
    live = is_live(console) and not plain and not json

    async def use(client: Client) -> Exit:
        board = TopBoard()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, client, board)
            nursery.start_soon(_watch_connection, client, board)
            nursery.start_soon(_ask_stats, client, board, interval)
            if live:
                await _draw(TopView(console, board, options.address), interval, count)
            else:
                await _print(board, interval, count, json)
            nursery.cancel_scope.cancel()
        return Exit.OK

    return with_client(options, use, reconnect=True)


async def _collect(client: Client, board: TopBoard) -> None:
    async with client.subscribe("firehose", buffer=10_000) as events:
        while True:
            try:
                event = await events.receive()
            except SubscriptionOverflow as exc:  # noqa: PERF203
                board.dropped += exc.missed
            else:
                board.add(event, trio.current_time())


async def _watch_connection(client: Client, board: TopBoard) -> None:
    async with client.connection_events() as events:
        async for event in events:
            board.connected = isinstance(event, Connected)
            board.connections += board.connected


async def _ask_stats(client: Client, board: TopBoard, interval: float) -> None:
    while True:
        try:
            board.stats = await client.stats()
        except PermissionDenied:
            return  # the rest works without
        except DispatchError:
            if client.closed:
                raise
        await trio.sleep(interval)


async def _print(board: TopBoard, interval: float, count: int | None, json: bool) -> None:
    left = math.inf if count is None else count
    while left > 0:
        await trio.sleep(interval)
        left -= 1
        now = trio.current_time()
        if json:
            print_json(board.summary(now))
            continue
        states = "  ".join(f"{state} {number}" for state, number in board.states().items())
        link = "connected" if board.connected else "DISCONNECTED"
        rate = board.rates(now)[""]
        print_line(f"{link}  {rate:.1f} events/s  {states}  runs {len(board.runs)}")


async def _draw(view: TopView, interval: float, count: int | None) -> None:
    end = math.inf if count is None else trio.current_time() + count * interval
    with open_screen(view.console, view.render(trio.current_time())) as live:
        while trio.current_time() < end:
            live.update(view.render(trio.current_time()), refresh=True)
            await trio.sleep(FRAME_SECONDS)


def _short(number: int) -> str:
    """In four columns at most."""
    return str(number) if number < 1_000 else f"{min(number // 1_000, 999)}k"


class TopView:
    """The screen, laid out by the terminal's size alone.

    Args:
        console: the terminal.
        board: what to show.
        where: the server.
    """

    def __init__(self, console: Console, board: TopBoard, where: str) -> None:
        self.console = console
        self._board = board
        self._where = where

    def render(self, now: float) -> RenderableType:
        """The screen as it is now."""
        width, height = self.console.size
        screen = Layout()
        head = Layout(self._head(width, now), size=2)
        states = Layout(self._states(), size=3)
        rows = max(height - 7, 3)
        if width >= WIDE:
            body = Layout()
            left = Layout()
            left.split_column(
                Layout(self._queues(rows // 2 - 3)), Layout(self._slowest(rows - rows // 2 - 3))
            )
            body.split_row(left, Layout(self._failures(rows)))
        else:
            body = Layout()
            third = rows // 3
            body.split_column(
                Layout(self._queues(third - 3), size=third),
                Layout(self._slowest(third - 3), size=third),
                Layout(self._failures(rows - 2 * third)),
            )
        screen.split_column(head, states, body)
        return screen

    def _head(self, width: int, now: float) -> RenderableType:
        board = self._board
        link = Text("connected", "green") if board.connected else Text("disconnected", "bold red")
        counts = [
            (board.connections - 1, "times back"),
            (board.gaps, "gaps"),
            (board.dropped, "dropped"),
        ]
        told = ", ".join(f"{number} {what}" for number, what in counts if number > 0)
        link.append(f"  {told}", "yellow")
        first = Text.assemble(("trio-dispatch top", "bold"), "  ", self._where, "  ", link)
        rates = board.rates(now)
        second = Text("  ".join(
            [f"{rates['']:.1f} events/s"]
            + [
                f"{name} {rates.get(f'job.{name}', 0):.1f}/s"
                for name in ("enqueued", "completed", "failed")
            ]
        ))  # fmt: skip
        second.append(f"  runs {len(board.runs)}")
        if board.stats is not None:
            second.append(f"  sessions {board.stats.broker.subscriber_count}")
        for line in (first, second):
            line.truncate(width, overflow="ellipsis")
        return Text("\n").join([first, second])

    def _states(self) -> RenderableType:
        text = Text(no_wrap=True, overflow="ellipsis")
        for state, number in self._board.states().items():
            text.append(f"{state} ", STATE_COLOURS[state])
            text.append(f"{_short(number):<4}")
        return Panel(text, title="jobs seen", title_align="left")

    def _queues(self, rows: int) -> RenderableType:
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("queue", ratio=1, no_wrap=True)
        for state in STATES[:5]:
            table.add_column(state, justify="right", width=9)
        for name, counts in self._board.queues()[: max(rows, 0)]:
            table.add_row(readable(name), *(str(counts[state]) for state in STATES[:5]))
        return Panel(table, title="queues", title_align="left")

    def _slowest(self, rows: int) -> RenderableType:
        table = Table(expand=True, box=None, pad_edge=False)
        table.add_column("seconds", justify="right", width=9)
        table.add_column("job", ratio=1, no_wrap=True)
        table.add_column("id", ratio=1, no_wrap=True)
        for seconds, name, job_id in self._board.slowest()[: max(rows, 0)]:
            table.add_row(f"{seconds:.3f}", readable(name), readable(job_id))
        return Panel(table, title="slowest", title_align="left")

    def _failures(self, rows: int) -> RenderableType:
        lines = [
            Text.assemble(
                (clock(failure.ts)[:8], "dim"),
                "  ",
                readable(failure.name),
                "  ",
                (readable(failure.error or failure.type), "red"),
                no_wrap=True,
                overflow="ellipsis",
            )
            for failure in reversed(self._board.failures)
        ]
        table = Table.grid(expand=True)
        table.add_column(no_wrap=True, overflow="ellipsis")
        for line in lines[: max(rows - 2, 0)]:
            table.add_row(line)
        return Panel(table, title="failures", title_align="left")
