"""``trio-dispatch stats``."""

from __future__ import annotations

from trio_dispatch import Client, Stats
from trio_dispatch.cli.connect import ServerOptions, with_client
from trio_dispatch.cli.exits import Exit
from trio_dispatch.cli.lines import fields
from trio_dispatch.cli.output import OutputOptions, chosen


def stats(*, server: ServerOptions | None = None, output: OutputOptions | None = None) -> int:
    """Show the server's statistics."""

    async def use(client: Client) -> Exit:
        found = await client.stats()
        chosen(output).show(found, lambda: _lines(found))
        return Exit.OK

    return with_client(server, use)


def _lines(stats: Stats) -> list[str]:
    broker, federation = stats.broker, stats.federation
    pairs: list[tuple[str, object]] = [
        ("sessions and streams", broker.subscriber_count),
        ("topics", broker.topic_count),
        ("deliveries", broker.total_published),
        ("dropped", broker.total_dropped),
    ]
    if federation is not None:
        pairs += [
            ("peers", f"{federation.connected_peers} of {federation.total_peers}"),
            ("jobs forwarded", federation.jobs_forwarded),
            ("events forwarded", federation.events_forwarded),
        ]
    return fields(pairs)
