"""What a client counts of itself. The server's own figures are `Stats`."""

from __future__ import annotations

import attrs

from trio_dispatch._link.statistics import LinkStatistics


@attrs.frozen(kw_only=True)
class ClientStatistics:
    """What a client has done and is doing."""

    link: LinkStatistics
    """The main connection."""
    subscriptions: int
    wanted_channels: int
    """Channels that the server is asked for; overlapping subscriptions share them."""
    undecodable_events: int
    """Events that could not be read, and were dropped."""
    runs: int
    """Starts of workflow runs that are under way, each with a connection or about to get one."""
    runs_waiting: int
    """Starts that wait until one of the ``max_concurrent_runs`` is over."""
    runs_limit: int
