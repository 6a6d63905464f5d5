"""Runs that end with their caller's scope: they go by HTTP, beside any main connection."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.client.run_support import make_run_server, open_two_ways
from tests.client.support import memory_client, open_memory_client
from trio_dispatch import ConnectFailed, ProtocolError, WorkflowFailed
from trio_dispatch._client.opening import running


async def test_it_waits_for_a_host_that_is_not_available(autojump_clock: object) -> None:
    server = make_run_server()
    async with open_two_ways(server, max_reconnect_delay=2) as net:
        await trio.sleep(0.1)
        net.main.refuse()

        async def come_back() -> None:
            await trio.sleep(10)
            net.main.accept()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(come_back)
            run = await net.client.run_workflow("three-seconds", {}, cancel_with_scope=True)
        assert run.state == "completed"
        assert trio.current_time() < 20


async def test_without_reconnecting_it_fails_at_once(autojump_clock: object) -> None:
    async with open_two_ways(reconnect=False) as net:
        await trio.sleep(0.1)
        net.main.refuse()
        with pytest.raises(ConnectFailed, match="over HTTP"):
            await net.client.run_workflow("three-seconds", {}, cancel_with_scope=True)


async def test_a_token_provider_that_does_not_return_fails_it_in_time(
    autojump_clock: object,
) -> None:
    asked: list[float] = []

    async def provide() -> str:
        asked.append(trio.current_time())
        if len(asked) > 1:
            await trio.sleep_forever()
        return "demo-token"

    server = make_run_server()
    client = memory_client(server, None, token_provider=provide, connect_timeout=5)
    async with server.run(), running(client):
        with pytest.raises(ConnectFailed, match="token provider did not return within 5 s"):
            await client.run_workflow("three-seconds", {}, cancel_with_scope=True)
        assert trio.current_time() == pytest.approx(5, abs=0.1)
        with trio.move_on_after(1) as scope:
            await client.run_workflow("three-seconds", {}, cancel_with_scope=True)
        assert scope.cancelled_caught
        assert trio.current_time() == pytest.approx(6, abs=0.1)
        assert server.runs() == []


@pytest.mark.parametrize("by_http", [True, False])
async def test_a_store_that_contradicts_the_answer_ends_the_wait_after_ten_seconds(
    autojump_clock: object, by_http: bool, wire: str
) -> None:
    if wire == "http" and not by_http:
        pytest.skip("a run over HTTP ends with its request")
    server = make_run_server()
    table: Any = server._hub.methods._table
    get_run = table["workflow.get"]

    async def get_running_run(*args: Any) -> Any:
        return await get_run(*args) | {"state": "running"}

    table["workflow.get"] = get_running_run
    async with open_memory_client(server) as client:
        with pytest.raises(WorkflowFailed, match="failed") as caught:
            await client.run_workflow("order-pipeline", {}, cancel_with_scope=by_http)
        assert caught.value.run.input == {}
        assert trio.current_time() == pytest.approx(10, abs=2)


@pytest.mark.parametrize("by_http", [True, False])
@pytest.mark.parametrize("answer", [{}, {"run_id": ""}, {"run_id": 5}, [], None])
async def test_an_answer_that_names_no_run_fails_the_call_alone(
    autojump_clock: object, by_http: bool, answer: object, wire: str
) -> None:
    if wire == "http" and not by_http:
        pytest.skip("a run over HTTP ends with its request")
    server = make_run_server()

    async def start(*args: Any) -> Any:
        return answer

    table: Any = server._hub.methods._table
    table["workflow.start"] = start
    async with open_memory_client(server) as client:
        with pytest.raises(ProtocolError, match=r"workflow\.start"):
            await client.run_workflow("order-pipeline", {}, cancel_with_scope=by_http)
        assert not client.closed
        await client.stats()
