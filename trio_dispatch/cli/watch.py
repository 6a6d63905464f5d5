"""``trio-dispatch watch``: events as they happen."""

from __future__ import annotations

import math
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter

from trio_dispatch import Client, Connected, Event, StreamGap, SubscriptionOverflow
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.lines import event_line, event_name
from trio_dispatch.cli.output import OutputOptions, chosen, line_width, print_line
from trio_dispatch.cli.several import INCOMPLETE

BUFFER: Final = 10_000

DEFAULT_CHANNELS: Final = ("jobs", "workflows")

FAILURES: Final = frozenset({"job.failed", "job.dlq", "workflow.failed", "workflow.step_failed"})


@attrs.frozen(kw_only=True)
class EventFilter:
    """Which events are wanted; an empty part wants all."""

    names: frozenset[str] = frozenset()
    queues: frozenset[str] = frozenset()
    states: frozenset[str] = frozenset()
    failed: bool = False

    def wants(self, event: Event) -> bool:
        """Whether *event* is wanted. Gaps always are: anything may be missing there."""
        if isinstance(event, StreamGap):
            return True
        if self.names and event_name(event) not in self.names:
            return False
        if self.queues and event.data.get("queue") not in self.queues:
            return False
        if self.states and event.type.partition(".")[2] not in self.states:
            return False
        return not self.failed or event.type in FAILURES


def watch(
    *channels: Annotated[
        str,
        Parameter(
            help="`jobs`, `workflows`, `firehose`, `job:ID`, `workflow:ID`, `queue:NAME` "
            "(default: `jobs workflows`)."
        ),
    ],
    name: Annotated[
        list[str] | None, Parameter(negative=(), help="Only this job or workflow. Repeatable.")
    ] = None,
    queue: Annotated[
        list[str] | None, Parameter(negative=(), help="Only jobs of this queue. Repeatable.")
    ] = None,
    state: Annotated[
        list[str] | None,
        Parameter(
            negative=(),
            help="Only events of this state: `enqueued`, `started`, `completed`, `failed`, "
            "`retrying`, `dlq`, `step_completed`, … Repeatable.",
        ),
    ] = None,
    failed: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Only failures of any kind.")
    ] = False,
    count: Annotated[int | None, Parameter(help="End after so many events.")] = None,
    server: ServerOptions | None = None,
    output: OutputOptions | None = None,
) -> int:
    """Print events as they happen, one on each line, until Ctrl-C.

    When the connection is lost it connects again. Standard error says when that happens, and
    a line among the events marks where some may be missing.

    Examples: `watch --failed`; `watch jobs --queue email --state dlq --output json`.
    """
    if count is not None and count < 1:
        raise UsageError("--count is at least 1")
    wanted = EventFilter(
        names=frozenset(name or ()),
        queues=frozenset(queue or ()),
        states=frozenset(text.rpartition(".")[2] for text in state or ()),
        failed=failed,
    )
    options, out = server or ServerOptions(), chosen(output)

    async def use(client: Client) -> Exit:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tell_connection, client)
            nursery.start_soon(tell_if_incomplete, options)
            await print_events(client, channels or DEFAULT_CHANNELS, wanted, count, out)
            nursery.cancel_scope.cancel()
        return Exit.OK

    return with_client(options, use, reconnect=True, hear_all=True)


async def print_events(
    client: Client,
    channels: tuple[str, ...],
    wanted: EventFilter,
    count: int | None,
    out: OutputOptions,
) -> None:
    """Print *count* events of *channels* that are wanted.

    Raises:
        UsageError: no server has such a channel.
    """
    try:
        subscription = client.subscribe(*channels, buffer=BUFFER)
    except ValueError as exc:
        raise UsageError(str(exc)) from exc
    left: float = math.inf if count is None else count
    async with subscription as events:
        while left > 0:
            try:
                event = await events.receive()
            except SubscriptionOverflow as exc:
                complain(f"{exc.missed} events were dropped: they came faster than printed")
                continue
            if not wanted.wants(event):
                continue
            if out.for_programs:
                out.value(event)
            else:
                print_line(event_line(event, line_width()))
            left -= not isinstance(event, StreamGap)


async def tell_if_incomplete(server: ServerOptions) -> None:
    """Say on standard error when the URL leads to several servers, of which one is heard."""
    if (servers := await server.count_servers()) > 1:
        complain(f"warning: {INCOMPLETE.format(servers)}")


async def tell_connection(client: Client) -> None:
    """Say on standard error when the server goes, and when it is back."""
    lost_at: float | None = None
    async with client.connection_events() as events:
        async for event in events:
            if not isinstance(event, Connected):
                if lost_at is None:
                    lost_at = trio.current_time()
                    why = f": {event.reason}" if event.reason is not None else ""
                    complain(f"the connection is lost{why}; connecting again")
            elif lost_at is not None:
                complain(f"connected again after {trio.current_time() - lost_at:.1f} s")
                lost_at = None
