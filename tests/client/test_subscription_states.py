"""Subscriptions without a link: what a loss leaves behind."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
import trio

from trio_dispatch._client.subscription import Subscription
from trio_dispatch._client.subscriptions import Subscriptions
from trio_dispatch._link.requests import Request
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.models import StreamGap


class NoLink:
    """Answers every subscription at once, while it is connected."""

    def __init__(self) -> None:
        self.connected = True
        self.closed = False

    def check_open(self) -> None: ...

    def submit(self, request: Request) -> None:
        request.finish(WireFrame(ts=datetime.min.replace(tzinfo=timezone.utc)))

    def withdraw(self, request: Request) -> None: ...

    def why_ended(self, error: object, request: Request | None = None) -> Exception:
        return RuntimeError("ended")


@pytest.mark.parametrize("since", [None, datetime(1, 1, 1), datetime(2026, 11, 21)])
async def test_a_gap_begins_wherever_the_servers_clock_stood(since: datetime | None) -> None:
    link, subscriptions = NoLink(), Subscriptions()
    (feed,) = subscriptions.feeds
    feed.send_over(link)
    last = since and since.replace(tzinfo=timezone.utc)
    async with Subscription(subscriptions, ["jobs"], 10, "raise") as events:
        link.connected = False
        feed.on_lost(last)
        link.connected = True
        feed.on_ready()
        with trio.fail_after(1):
            gap = await events.receive()
        assert isinstance(gap, StreamGap)
        assert gap.since is not None
        assert last is None or gap.since <= last
