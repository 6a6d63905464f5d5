"""A client of the server's own, in memory."""

from __future__ import annotations

import pytest
import trio

from trio_dispatch import AuthError, JobFailed
from trio_dispatch.server import Identity, Server

EVERYTHING = Identity(subject="demo", app_id="app", org_id="org", scopes={"*"})


async def test_it_runs_the_server_and_reaches_it(autojump_clock: object) -> None:
    server = Server({"demo-token": EVERYTHING})

    @server.job("hello")
    async def hello(payload: object) -> None:
        await trio.sleep(3600)

    async with server.open_client(request_timeout=5) as client:
        async with server.open_client() as other:
            handle = await other.enqueue("hello")
            with pytest.raises(JobFailed, match="deadline"):
                await handle.wait()
        assert (await client.stats()).broker.subscriber_count == 1
    assert trio.current_time() > 300
    assert server.connections == []


async def test_the_token_is_the_first_or_the_one_that_is_named(autojump_clock: object) -> None:
    server = Server({"first": EVERYTHING, "second": EVERYTHING})
    async with server.open_client(token="second"):
        pass
    with pytest.raises(AuthError):
        async with server.open_client(token="third"):
            pytest.fail("entered")
    by_function = Server(lambda token: EVERYTHING)
    with pytest.raises(TypeError, match="name a token"):
        async with by_function.open_client():
            pytest.fail("entered")
    async with by_function.open_client(token="any"):
        pass


async def test_what_the_body_raises_comes_out_unchanged(autojump_clock: object) -> None:
    with pytest.raises(ValueError, match="mine"):
        async with Server({"t": EVERYTHING}).open_client():
            raise ValueError("mine")
