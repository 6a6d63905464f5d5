"""``trio-dispatch watch`` and ``trio-dispatch stats``."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from trio_dispatch import Client, StreamGap, SubscriptionOverflow
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.output import JsonOption, print_json, print_line, print_lines
from trio_dispatch.cli.show import event_line, fields


def watch(
    channel: Annotated[str, Parameter(help="`jobs`, `workflows`, `firehose`, `job:ID`, …")],
    /,
    *more: Annotated[str, Parameter(help="Further channels.", show=False)],
    count: Annotated[int | None, Parameter(help="End after so many events.")] = None,
    server: ServerOptions | None = None,
    json: JsonOption = False,
) -> int:
    """Print events as they happen, one on each line, until Ctrl-C.

    Channels: `jobs`, `workflows`, `firehose`, `job:ID`, `workflow:ID`, `queue:NAME`. A lost
    connection is dialled again, and a line marks where events may be missing.
    """
    if count is not None and count < 1:
        raise UsageError("--count is at least 1")

    async def use(client: Client) -> Exit:
        try:
            subscription = client.subscribe(channel, *more, buffer=10_000)
        except ValueError as exc:
            raise UsageError(str(exc)) from exc
        left = count
        async with subscription as events:
            while left is None or left > 0:
                try:
                    event = await events.receive()
                except SubscriptionOverflow as exc:
                    complain(f"{exc.missed} events were dropped: they came faster than printed")
                    continue
                if json:
                    print_json(event)
                else:
                    print_line(event_line(event), cut=True)
                if left is not None and not isinstance(event, StreamGap):
                    left -= 1
        return Exit.OK

    return with_client(server, use, reconnect=True)


def stats(*, server: ServerOptions | None = None, json: JsonOption = False) -> int:
    """Show the server's statistics."""

    async def use(client: Client) -> Exit:
        found = await client.stats()
        if json:
            print_json(found)
            return Exit.OK
        broker = found.broker
        print_lines(
            fields(
                [
                    ("sessions and streams", broker.subscriber_count),
                    ("topics", broker.topic_count),
                    ("deliveries", broker.total_published),
                    ("dropped", broker.total_dropped),
                ]
            )
        )
        if found.federation is not None:
            federation = found.federation
            print_lines(
                fields(
                    [
                        ("peers", f"{federation.connected_peers} of {federation.total_peers}"),
                        ("jobs forwarded", federation.jobs_forwarded),
                        ("events forwarded", federation.events_forwarded),
                    ]
                )
            )
        return Exit.OK

    return with_client(server, use)
