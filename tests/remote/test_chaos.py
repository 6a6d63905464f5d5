"""Endpoints that crash, stall, answer garbage and come back: each call ends as it should."""

from __future__ import annotations

import random
from collections import Counter
from datetime import timedelta
from typing import Any

import trio
import trio.testing

from tests.remote.serving import serving
from tests.shares import EVERYTHING
from trio_dispatch import remote
from trio_dispatch.remote import Call, Endpoint, Status

CALLS = 2000 if EVERYTHING else 100
ENDPOINTS = 4
LIFETIME = timedelta(hours=1)

OPTIONS = {
    "expiration": 3600,
    "keep": 10**6,
    "attempt_timeout": 15,
    "min_retry_delay": 1,
    "max_concurrency": 50,
}

GARBAGE = [
    b"\x16\x03\x01\x02\x00 this is TLS, more or less",
    b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\ncontent-type: application/proto\r\n\r\nfew",
    b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 6\r\n\r\n<html>",
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\ncontent-type: application/json\r\n\r\n{]",
    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    b"HTTP/1.1 302 Found\r\nlocation: http://elsewhere.example/\r\ncontent-length: 0\r\n\r\n",
    b"HTTP/9.9 what\r\n\r\n",
]


class Ledger:
    """What ran, of all endpoints."""

    def __init__(self) -> None:
        self.runs: Counter[tuple[str, object]] = Counter()


def make_inner(url: str, ledger: Ledger) -> Endpoint:
    endpoint = Endpoint(url)

    def ran(what: object) -> None:
        ledger.runs[remote.current_call().function, what] += 1

    @endpoint.function
    async def square(number: int) -> int:
        ran(number)
        await trio.sleep(number % 3)
        return number * number

    @endpoint.function
    async def parent(number: int) -> object:
        ran(number)
        return await remote.gather(*(Call(place(n), "square", n) for n in range(number % 4 + 1)))

    @endpoint.function
    async def goes_on(number: int) -> Call:
        ran(number)
        return Call(place(number + 1), "square", number)

    @endpoint.function
    async def is_wrong(number: int) -> None:
        ran(number)
        raise ValueError(number)

    return endpoint


class Unruly(Endpoint):
    """Does to each connection what its dice say; sometimes it is down, and forgets everything."""

    def __init__(self, url: str, ledger: Ledger, seed: int) -> None:
        super().__init__(url)
        self._dice = random.Random(seed)
        self._ledger = ledger
        self._inner = make_inner(url, ledger)
        self._down_until = 0.0
        self.fates: Counter[str] = Counter()

    async def handle(self, stream: trio.abc.Stream, *, nursery: trio.Nursery | None = None) -> None:
        fate = self._fate()
        self.fates[fate] += 1
        if fate == "good":
            await self._inner.handle(stream, nursery=nursery)
            return
        async with stream:
            if fate == "stall":
                await trio.sleep(self._dice.uniform(20, 100))
            elif fate == "garbage":
                await stream.receive_some(100)
                await stream.send_all(self._dice.choice(GARBAGE))
            elif fate == "crash":
                # In the middle of the work, which may even be done.
                with trio.move_on_after(self._dice.uniform(0, 2)):
                    await self._inner.handle(stream, nursery=nursery)

    def _fate(self) -> str:
        now = trio.current_time()
        if now < self._down_until:
            return "down"
        if self._dice.random() < 0.004:
            # A restart: what was suspended is gone.
            self._inner = make_inner(self.url, self._ledger)
            self._down_until = now + self._dice.uniform(1, 20)
            return "down"
        return self._dice.choices(["good", "stall", "garbage", "crash"], [70, 5, 15, 10])[0]


def place(number: int) -> str:
    return f"http://{number % ENDPOINTS}.example"


NAMES = ["square", "parent", "goes_on", "is_wrong"]


def expected(name: str, number: int) -> Any:
    match name:
        case "parent":
            return [n * n for n in range(number % 4 + 1)]
        case "is_wrong":
            return Status.INVALID_ARGUMENT
        case _:
            return number * number


async def test_each_call_ends_as_it_should_and_ran_at_least_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ledger = Ledger()
    endpoints = [Unruly(place(n), ledger, n) for n in range(ENDPOINTS)]
    calls = [(NAMES[n % 4], n) for n in range(CALLS)]
    async with serving(*endpoints, **OPTIONS) as served:
        ids: list[remote.DispatchID] = []
        for start in range(0, CALLS, 100):
            batch = served.client.batch()
            for name, number in calls[start : start + 100]:
                batch.add(Call(place(number), name, number, expiration=LIFETIME))
            ids += await batch.dispatch()
            await trio.sleep(5)
        # One that never comes back, and one whose answers are always no answers.
        dead = await served.client.dispatch(
            Call("http://9.example", "f", expiration=timedelta(minutes=10))
        )
        for (name, number), id in zip(calls, ids, strict=True):
            outcome = await served.service.wait(id)
            found = outcome.value if outcome.ok else outcome.status
            assert found == expected(name, number), outcome
            assert ledger.runs[name, number] >= 1
        outcome = await served.service.wait(dead)
        assert outcome.status is Status.TIMEOUT
    fates = sum((endpoint.fates for endpoint in endpoints), Counter())
    assert set(fates) == {"good", "stall", "garbage", "crash", "down"}
    again = sum(ledger.runs.values()) - len(ledger.runs)
    assert again > 0  # some ran more than once: at least once is all that is promised
