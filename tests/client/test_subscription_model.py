"""Random schedules of subscribers and faults: every subscriber gets its events, or a mark.

A few subscribers subscribe, give up, come back, unsubscribe and read, while the network and the
server fail. All events are numbered. Afterwards, what each subscriber got is compared with what
was published: from its entry to its exit no event of its channels may be missing without a
`StreamGap`, a `SubscriptionOverflow` or a counted drop in its place, and nobody may wait for ever.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal

import attrs
import pytest
import trio
import trio._core._run
import trio.testing

from tests.client.support import make_server, memory_client
from tests.schedules import seeds
from trio_dispatch import (
    Client,
    RequestError,
    RequestTimeout,
    StreamGap,
    Subscription,
    SubscriptionOverflow,
)
from trio_dispatch._client.opening import running
from trio_dispatch.server import PublishedEvent
from trio_dispatch.server._steering import Rule

CHANNELS = ("jobs", "workflows", "firehose", "job:a", "job:b", "queue:q")
OVERFLOWS: Final[tuple[Literal["raise"], Literal["drop_oldest"]]] = ("raise", "drop_oldest")
TIME = 20.0
"""Seconds of faults."""
ENOUGH = 120.0
"""Seconds after the last fault in which everything must be restored."""


def channels_of(number: int) -> frozenset[str]:
    """The channels that event *number* belongs to."""
    if number % 3 == 2:
        return frozenset({"firehose", "workflows", "workflow:w"})
    own, queue = ("job:a", "queue:q") if number % 3 else ("job:b", "queue:default")
    return frozenset({"firehose", "jobs", own, queue})


@attrs.define(eq=False)
class Life:
    """What one subscription got, from its entry to its exit."""

    entered_after: int
    """The last number that had been published."""
    got: list[int | None] = attrs.field(factory=list[int | None])
    """Numbers; None where events may be missing."""
    restored: datetime | None = None
    """When the last gap that it got was over, by the server's clock.

    What arrives while a gap is open, as one channel is restored and another is not, follows it.
    """
    kept: tuple[str, ...] = ()
    """The channels that it had to the end."""
    counts_drops: bool = False
    """Whether the oldest events are dropped, and counted."""
    dropped: int = 0
    until: int = 0
    """The last number that it must have had, if it read to the end."""

    def check(self, published: Sequence[PublishedEvent] = ()) -> None:
        """Raise if something is missing without a mark."""
        restored = self.restored
        covered = max((e.data["n"] for e in published if restored and e.ts <= restored), default=-1)
        mine = [n for n in range(self.until + 1) if channels_of(n) & set(self.kept)]
        got = [n for n in self.got if n is None or channels_of(n) & set(self.kept)]
        numbers = [n for n in got if n is not None]
        assert len(set(numbers)) == len(numbers), "an event came twice"
        assert numbers == sorted(numbers), "events came out of order"
        last, excused = self.entered_after, False
        for n in [*got, self.until + 1]:
            if n is None:
                excused = True
                continue
            missing = [m for m in mine if max(last, covered) < m < n]
            assert excused or not missing, f"{missing} are missing before {n}"
            last, excused = max(n, last), False


class Schedule:
    """One schedule, drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.server = make_server(queues=["default", "q"])
        self.published = -1
        self.quiet = trio.Event()
        """No more faults, and no more subscriptions."""
        self.last_one: int | None = None
        self.lives: list[Life] = []

    def publish(self) -> None:
        """Publish the next event."""
        self.published += 1
        n = self.published
        if n % 3 == 2:
            self.server.publish("workflow.x", "workflow:w", {"run_id": "w", "n": n})
        else:
            job, queue = ("a", "q") if n % 3 else ("b", "default")
            self.server.publish("job.x", f"job:{job}", {"job_id": job, "queue": queue, "n": n})

    async def play(self) -> None:
        """Play it, and check what everybody got."""
        client = memory_client(
            self.server, min_reconnect_delay=0.05, max_reconnect_delay=0.5, heartbeat_interval=5,
            heartbeat_timeout=2,
        )  # fmt: skip
        async with self.server.run(), running(client):
            with trio.fail_after(TIME + 3 * ENOUGH):
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(
                            self.subscriber, client, random.Random(self.rng.random())
                        )
                    async with trio.open_nursery() as faults:
                        faults.start_soon(self.faults)
                        faults.start_soon(self.events)
                    self.quiet.set()
                    await trio.sleep(ENOUGH)
                    self.last_one = self.published + 3
                    await trio.sleep(ENOUGH)
                    for _ in range(3):
                        # One for each channel, one by one: whoever reads to the end gets it.
                        await trio.sleep(1)
                        self.publish()
            await self.nothing_is_left(client)
        for life in self.lives:
            life.check(self.server.events)

    async def nothing_is_left(self, client: Client) -> None:
        """Everybody has left, and the server knows."""
        await client.wait_connected()
        await trio.sleep(ENOUGH)
        await client.stats()
        assert client.statistics().wanted_channels == 0
        assert [c for c in self.server.connections if c.channels] == []
        with trio.fail_after(ENOUGH):
            async with client.subscribe(*CHANNELS) as events:
                self.publish()
                await events.receive()

    async def events(self) -> None:
        until = trio.current_time() + TIME
        while trio.current_time() < until:
            # A server that stands still keeps 256 at most, and nobody hears of the others.
            for _ in range(self.rng.choice((1, 1, 2, 8))):
                self.publish()
            await trio.sleep(self.rng.random() * 0.3)

    async def faults(self) -> None:
        until, rng = trio.current_time() + TIME, self.rng
        rules: list[Rule] = []
        while trio.current_time() < until:
            await trio.sleep(rng.random() * 2)
            fault = rng.choice(("drop", "drop", "slow", "slow", "stop", "refuse"))
            if fault == "drop":
                self.server.drop_connections()
            elif fault == "slow":
                rules.append(self.server.delay("subscribe", rng.random() * rng.choice((0.2, 4))))
            elif fault == "refuse":
                rules.append(self.server.refuse("subscribe", rng.choice((403, 500))))
            else:
                with self.server.freeze():
                    await trio.sleep(rng.random() * rng.choice((0.2, 4)))
        for rule in rules:
            rule.end()

    async def subscriber(self, client: Client, rng: random.Random) -> None:
        while not self.quiet.is_set():
            with trio.move_on_after(rng.choice((0, 0.001, 0.01, 0.1, 1))) as scope:
                try:
                    chosen = rng.sample(CHANNELS, rng.randint(1, 3))
                    overflow: Literal["raise", "drop_oldest"] = rng.choice(OVERFLOWS)
                    async with client.subscribe(
                        *chosen, buffer=rng.choice((1, 5, 100, 1000)), overflow=overflow
                    ) as events:
                        scope.deadline = trio.current_time() + rng.choice((0, 0.1, 1, 10, 1e9))
                        life = Life(self.published, counts_drops=overflow == "drop_oldest")
                        self.lives.append(life)
                        await self.use(events, life, rng)
                except (RequestError, RequestTimeout):
                    """Refused, or too slow."""
            await trio.sleep(rng.choice((0, 0, 0.001, 0.02, 0.5)))

    async def use(self, events: Subscription, life: Life, rng: random.Random) -> None:
        finished = False
        try:
            while events.channels:
                if self.last_one is not None:
                    # Everything is restored: whoever is left reads to the last event.
                    await self.read_to_the_end(events, life)
                    finished = True
                    return
                if rng.random() < 0.02:
                    await events.unsubscribe(rng.choice(events.channels))
                elif rng.random() < 0.2:
                    await trio.sleep(rng.random() * 0.5)
                else:
                    with trio.move_on_after(rng.choice((0, 0.1, 5))):
                        await self.read(events, life)
        finally:
            life.kept = events.channels if not finished else life.kept
            if not finished:
                life.until = max((n for n in life.got if n is not None), default=-1)

    async def read(self, events: Subscription, life: Life) -> int | None:
        try:
            event = await events.receive()
        except SubscriptionOverflow:
            event = StreamGap()
        if isinstance(event, StreamGap):
            life.restored = event.until or life.restored
        number = None if isinstance(event, StreamGap) else event.data["n"]
        assert number is None or isinstance(number, int)
        life.got.append(number)
        if life.counts_drops and events.dropped > life.dropped:
            # Before the event, or after it, as other tasks had a turn when it had been taken.
            life.got[-1:] = [None, number, None]
            life.dropped = events.dropped
        return number

    async def read_to_the_end(self, events: Subscription, life: Life) -> None:
        assert self.last_one is not None
        life.kept = events.channels
        life.until = max(
            n for n in range(self.last_one + 1) if channels_of(n) & set(events.channels)
        )
        with trio.fail_after(2 * ENOUGH):
            while await self.read(events, life) != life.until:
                """There is more."""


def marked(got: Sequence[int | None], kept: Sequence[str], until: int, after: int = -1) -> None:
    """Check a life."""
    Life(after, list(got), kept=tuple(kept), until=until).check()


def test_what_is_missing_without_a_mark_is_noticed() -> None:
    marked([0, 1, 2, 3], ["firehose"], 3)
    marked([0, None, 3], ["firehose"], 3)
    marked([2, 5], ["workflows"], 7)
    for wrong in ([0, 1, 3], [1, 2, 3], [0, 1, 2], [0, 1, 1, 2, 3], [0, 2, 1, 3]):
        with pytest.raises(AssertionError):
            marked(wrong, ["firehose"], 3)


@pytest.mark.parametrize("seed", seeds(30))
async def test_every_subscriber_gets_its_events_or_a_mark(
    autojump_clock: trio.testing.MockClock, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    print("seed", seed)
    caplog.set_level(logging.CRITICAL)
    trio._core._run._r.seed(seed)
    schedule = Schedule(seed)
    await schedule.play()
    assert schedule.lives
