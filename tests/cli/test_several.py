"""Servers behind a URL: how many are found, and what commands say of it."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from tests.cli.conftest import Run
from tests.cli.demonstrating import QUIET
from tests.cli.serving import serving
from trio_dispatch import Client, open_client
from trio_dispatch.cli.doctor import find_servers
from trio_dispatch.cli.exits import Exit
from trio_dispatch.cli.several import CONNECTIONS, count_servers
from trio_dispatch.server import Cluster, Identity, Server

TOKENS = {
    "token": Identity(scopes={"*"}),
    "weak": Identity(scopes={"job:read"}),
}


def make_cluster(nodes: int = 3) -> Cluster:
    cluster = Cluster(TOKENS, nodes=nodes, seed=1, logger=QUIET)

    @cluster.job("echo")
    async def echo(payload: object) -> None: ...

    return cluster


async def test_one_server_is_one_however_much_happens_on_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = Server(TOKENS, logger=QUIET)
    async with server.open_client(token="token") as other, trio.open_nursery() as nursery:

        async def come_and_go() -> None:
            while True:
                async with other.subscribe("jobs", "workflows", "job:job_1"):
                    await trio.sleep(0.001)

        nursery.start_soon(come_and_go)
        opener = partial(server.open_client, token="token")
        assert await count_servers([opener] * CONNECTIONS) == 1
        nursery.cancel_scope.cancel()
    assert server.statistics().topics == 0


@pytest.mark.parametrize("nodes", [2, 3, 5])
async def test_each_server_behind_a_balancer_is_found(
    nodes: int, autojump_clock: trio.testing.MockClock
) -> None:
    cluster = make_cluster(nodes)
    async with cluster.run():
        opener = partial(cluster.open_client, token="token")
        assert await count_servers([opener] * 6) == nodes


async def test_the_doctor_says_what_follows(autojump_clock: trio.testing.MockClock) -> None:
    cluster = make_cluster()

    def open_client(url: str, token: str = "token") -> AbstractAsyncContextManager[Client]:
        if url == "ws://balancer/dwp":
            return cluster.open_client(token=token)
        return cluster.open_client(token=token, url=url)

    async with cluster.run():
        one, two, three = cluster.urls
        found = await find_servers(["ws://balancer/dwp"], open_client)
        assert (found.verdict, found.text) == ("note", "at least 3 behind this URL")
        assert "give the URL of each" in found.advice
        found = await find_servers([one], open_client)
        assert (found.verdict, found.text) == ("ok", "one: 6 connections reached the same")
        found = await find_servers([one, two, three], open_client)
        assert (found.verdict, found.text) == ("ok", "3, one for each URL")
        found = await find_servers([one, one], open_client)
        assert (found.verdict, found.text) == ("note", "1 for 2 URLs: some lead to the same")
        found = await find_servers([one], partial(open_client, token="weak"))
        assert found.text == "not counted: that needs the scopes stats:read and subscribe"
        found = await find_servers(["http://a/dwp"], open_client)
        assert found.text == "not counted over HTTP"


class Balanced:
    """A cluster behind its balancer."""

    def __init__(self) -> None:
        self.cluster = make_cluster()
        self.urls: list[str] = []

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str, None]:
        async with self.cluster.serve() as self.urls, self.cluster.balancer.serve() as url:
            yield url


def test_with_a_list_of_urls_watch_hears_every_server(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    balanced = Balanced()
    with serving(balanced) as url:
        done = threading.Event()

        async def enqueue_some() -> None:
            async with open_client(balanced.urls[1], token="token") as client:
                while not done.is_set():
                    await client.enqueue("echo", {})
                    await trio.sleep(0.02)

        thread = threading.Thread(target=trio.run, args=(enqueue_some,))
        thread.start()
        urls = [word for one in balanced.urls for word in ("--url", one)]
        # What the second server publishes is heard although the first is connected to.
        code, out, errors = run("watch", *urls, "--state", "enqueued", "--count", "3")
        assert (code, errors, len(out.splitlines())) == (Exit.OK, "", 3)
        heard = (
            "trio-dispatch: warning: at least 3 servers are behind this URL, and the events of "
            "one are heard; give the URL of each\n"
        )
        code, _, errors = run("watch", "--url", url, "--count", "60")
        assert (code, errors) == (Exit.OK, heard)
        done.set()
        thread.join(20)


@pytest.fixture(scope="module")
def balanced() -> Iterator[str]:
    with serving(Balanced()) as url:
        yield url


def test_watch_and_top_say_that_they_hear_one_of_several(run: Run, balanced: str) -> None:
    heard = (
        "trio-dispatch: warning: at least 3 servers are behind this URL, and the events of one "
        "are heard; give the URL of each\n"
    )
    code, _, errors = run("top", "--url", balanced, "--interval", "2", "--count", "1")
    assert (code, errors) == (Exit.OK, heard)
    code, out, _ = run("doctor", "--url", balanced)
    assert code == Exit.OK
    assert "note     servers: at least 3 behind this URL." in out


async def test_many_that_count_at_once_count_right(autojump_clock: trio.testing.MockClock) -> None:
    cluster = make_cluster()
    found: list[int] = []

    async def count() -> None:
        opener = partial(cluster.open_client, token="token")
        found.append(await count_servers([opener] * CONNECTIONS))

    async with cluster.run(), trio.open_nursery() as nursery:
        for _ in range(5):  # no multiple of 3: then each would get one server only
            nursery.start_soon(count)
    # Those that meet again and again may take others' topics for their own, and count too few.
    assert 1 < min(found) <= max(found) == 3
