"""The figures that a client counts itself. The server's own figures are `Stats`."""

from __future__ import annotations

import attrs

from trio_dispatch._link.statistics import LinkStatistics


@attrs.frozen(kw_only=True)
class ClientStatistics:
    """Counts of what a client has done and is doing."""

    link: LinkStatistics
    """The main connection."""
    subscriptions: int
    wanted_channels: int
    """Channels that the client subscribes to; overlapping subscriptions share them."""
    undecodable_events: int
    """Events that could not be read and were dropped."""
    runs: int
    """Starts of workflow runs that are under way; each has a connection or will get one."""
    runs_waiting: int
    """Starts that wait until one of the ``max_concurrent_runs`` is over."""
    runs_limit: int
