"""``trio-dispatch top``: what a server is doing, live."""

from __future__ import annotations

import math
from typing import Annotated, Final

import trio
from cyclopts import Parameter
from rich.console import Console

from trio_dispatch import Client, Connected, DispatchError, PermissionDenied, SubscriptionOverflow
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.keys import wait_key
from trio_dispatch.cli.output import OutputOptions, chosen, line_width, print_line
from trio_dispatch.cli.screen import PlainOption, is_live, open_screen
from trio_dispatch.cli.several import INCOMPLETE
from trio_dispatch.cli.top.counts import Counts
from trio_dispatch.cli.top.screen import TopScreen, fit

FRAME_SECONDS: Final = 0.25
BUFFER: Final = 10_000


def top(
    *,
    interval: Annotated[float, Parameter(help="Seconds between lines, and statistics.")] = 1.0,
    count: Annotated[int | None, Parameter(help="End after so many intervals.")] = None,
    plain: PlainOption = False,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Show what a server is doing: rates, states, queues, the slowest jobs, failures.

    What it shows are the events since it was started, and the server's own statistics. Without a
    terminal it prints a line for each interval. `q` or Ctrl-C ends it.
    """
    if not (math.isfinite(interval) and interval > 0):
        raise UsageError(f"--interval is a number above 0, not {interval}")
    if count is not None and count < 1:
        raise UsageError("--count is at least 1")
    options, out = server or ServerOptions(), chosen(output)
    console = Console(highlight=False)
    live = is_live(console) and not plain and not out.for_programs

    async def use(client: Client) -> Exit:
        counts = Counts()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_collect, client, counts)
            nursery.start_soon(_watch_connection, client, counts)
            nursery.start_soon(_count_servers, options, counts, live)
            nursery.start_soon(_ask_stats, client, counts, interval)
            if live:
                await _draw(TopScreen(console, counts, options.shown), interval, count)
            else:
                await _print(counts, interval, count, out)
            nursery.cancel_scope.cancel()
        return Exit.OK

    return with_client(options, use, reconnect=True, hear_all=True)


async def _collect(client: Client, counts: Counts) -> None:
    async with client.subscribe("firehose", buffer=BUFFER) as events:
        while True:
            try:
                event = await events.receive()
            except SubscriptionOverflow as exc:  # noqa: PERF203
                counts.dropped += exc.missed
            else:
                counts.add(event, trio.current_time())


async def _watch_connection(client: Client, counts: Counts) -> None:
    async with client.connection_events() as events:
        async for event in events:
            counts.connected = isinstance(event, Connected)
            counts.connections += counts.connected


async def _count_servers(options: ServerOptions, counts: Counts, live: bool) -> None:
    counts.servers = await options.count_servers()
    if counts.servers > 1 and not live:
        complain(f"warning: {INCOMPLETE.format(counts.servers)}")


async def _ask_stats(client: Client, counts: Counts, interval: float) -> None:
    while True:
        try:
            counts.stats = await client.stats()
        except PermissionDenied:
            return  # the rest works without
        except DispatchError:
            if client.closed:
                raise
        await trio.sleep(interval)


async def _print(counts: Counts, interval: float, count: int | None, out: OutputOptions) -> None:
    left: float = math.inf if count is None else count
    while left > 0:
        await trio.sleep(interval)
        left -= 1
        now = trio.current_time()
        if out.for_programs:
            out.value(counts.summary(now))
            continue
        states = counts.states()
        # The last ones are left out first where the line is too long.
        pieces = [
            "connected" if counts.connected else "DISCONNECTED",
            f"{counts.rates(now)['']:.1f} events/s",
            *(f"{state} {states[state]}" for state in ("failed", "running", "completed")),
            *(f"{state} {states[state]}" for state in ("pending", "retrying", "cancelled")),
            f"runs {len(counts.runs)}",
        ]
        print_line(fit(pieces, line_width()))


async def _draw(screen: TopScreen, interval: float, count: int | None) -> None:
    seconds = math.inf if count is None else count * interval
    with open_screen(screen.console, screen.render(trio.current_time())) as live:
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:

                async def draw() -> None:
                    while True:
                        live.update(screen.render(trio.current_time()), refresh=True)
                        await trio.sleep(FRAME_SECONDS)

                nursery.start_soon(draw)
                await wait_key("qQ")
                nursery.cancel_scope.cancel()
