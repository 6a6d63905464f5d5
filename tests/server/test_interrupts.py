"""KeyboardInterrupt and SystemExit come out of every block alone, wherever they were raised."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS
from trio_dispatch import Client
from trio_dispatch.server import Cluster, Server, Workflow
from trio_dispatch.testing import FaultyProxy

Interrupt = type[BaseException]
Block = Callable[[Server], AbstractAsyncContextManager[Client]]


def register(server: Server | Cluster, interrupt: Interrupt) -> None:
    @server.job("raises")
    async def raises(payload: Any) -> None:
        raise interrupt

    @server.workflow("raises")
    async def raises_too(workflow: Workflow, input: Any) -> None:
        await workflow.step("step", raises, None)

    @server.workflow("in-parallel")
    async def in_parallel(workflow: Workflow, input: Any) -> None:
        async def raise_it() -> None:
            raise interrupt

        await workflow.parallel("group", trio.sleep_forever, raise_it)

    @server.workflow("undoes")
    async def undoes(workflow: Workflow, input: Any) -> None:
        await workflow.step("step", trio.lowlevel.checkpoint, compensate=raises)
        raise ValueError("boom")


@asynccontextmanager
async def plain(server: Server) -> AsyncGenerator[Client, None]:
    async with server.open_client() as client:
        yield client


@asynccontextmanager
async def nested(server: Server) -> AsyncGenerator[Client, None]:
    async with server.run(), server.serve(), server.open_client() as client:
        yield client


@asynccontextmanager
async def behind_a_proxy(server: Server) -> AsyncGenerator[Client, None]:
    async with (
        server.run(),
        FaultyProxy.in_memory(server.open_stream) as proxy,
        server.open_client(open_stream=proxy.open_stream) as client,
    ):
        yield client


@asynccontextmanager
async def of_a_cluster(server: Server) -> AsyncGenerator[Client, None]:
    cluster = Cluster(TOKENS, seed=1)
    cluster._registry.jobs.update(server._registry.jobs)
    cluster._registry.workflows.update(server._registry.workflows)
    async with cluster.open_client() as client:
        yield client


BLOCKS: list[Block] = [plain, nested, behind_a_proxy, of_a_cluster]


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("place", ["body", "job", "raises", "in-parallel", "undoes"])
async def test_an_interrupt_comes_out_alone(
    block: Block, interrupt: Interrupt, place: str, autojump_clock: MockClock
) -> None:
    server = Server(TOKENS, seed=1)
    register(server, interrupt)
    with pytest.raises(interrupt) as caught:
        async with block(server) as client:
            if place == "body":
                raise interrupt
            if place == "job":
                await client.enqueue("raises", {})
            else:
                await client.start_workflow(place, {})
            await trio.sleep(60)
    assert type(caught.value) is interrupt


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_an_authenticator_comes_out_alone(
    interrupt: Interrupt, autojump_clock: MockClock
) -> None:
    def authenticate(token: str) -> None:
        raise interrupt

    with pytest.raises(interrupt) as caught:
        async with Server(authenticate).open_client(token="t"):
            await trio.sleep(60)
    assert type(caught.value) is interrupt


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_wins_over_what_the_block_raises(
    interrupt: Interrupt, autojump_clock: MockClock
) -> None:
    server = Server(TOKENS, seed=1)
    register(server, interrupt)
    with pytest.raises(interrupt):
        async with server.open_client() as client:
            try:
                await client.enqueue("raises", {})
                await trio.sleep(60)
            finally:
                raise ValueError("mine")


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupted_run_is_resumed_by_the_next_block(
    interrupt: Interrupt, autojump_clock: MockClock
) -> None:
    server = Server(TOKENS, seed=1)
    calls: list[str] = []

    @server.workflow("once")
    async def once(workflow: Workflow, input: Any) -> None:
        calls.append("called")
        if len(calls) == 1:
            raise interrupt

    with pytest.raises(interrupt):
        async with server.open_client() as client:
            await client.start_workflow("once")
            await trio.sleep(60)
    async with server.run():
        await server.idle()
    assert [run.state for run in server.runs()] == ["completed"]
