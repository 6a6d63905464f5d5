"""Ctrl-C and SystemExit: wherever they arrive they come out, alone, and soon.

An interrupt is raised in whatever task has the next turn, at each turn of a client's life: in the
body, in the reader, the writer and the heartbeat, in a run's connection, inside the WebSocket
library, and in the embedded server.
"""

from __future__ import annotations

import math
import signal
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from typing import Final

import pytest
import trio
import trio.testing

from tests.client.support import make_server, memory_client, through
from tests.shares import EVERYTHING, FIRST
from trio_dispatch import Client
from trio_dispatch._client.opening import running
from trio_dispatch._transport.block import open_background
from trio_dispatch._transport.websocket.trio_websocket_transport import _Guarding
from trio_dispatch.server import Server
from trio_dispatch.testing import FaultyProxy

STRIDE: Final = 1 if EVERYTHING else 61
"""Of the turns of a life, every so-manieth is tried."""

NURSERY_EXIT: Final = trio.Nursery._nested_child_finished

SOON: Final = 2.0
"""Seconds after which an interrupt is out."""


class InterruptAtTurn(trio.abc.Instrument):
    """Raises *interrupt* in the task that has the turn number *turn*, counted from `arm`."""

    def __init__(self, turn: int, interrupt: type[BaseException]) -> None:
        self.left = turn
        self.interrupt = interrupt
        self.by_signal = interrupt is KeyboardInterrupt and turn % 2 == 0
        self.where = "by a signal" if self.by_signal else "nowhere"
        self.at = math.inf
        self._root: trio.lowlevel.Task | None = None

    def arm(self) -> None:
        """Begin to count the turns of the calling task, and of all tasks below it."""
        self._root = trio.lowlevel.current_task()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self.left <= 0 or not self._is_ours(task):
            return
        self.left -= 1
        if self.left == 0:
            self.at = trio.current_time()
            if self.by_signal:
                # trio raises it in the main task, where that waits.
                signal.raise_signal(signal.SIGINT)
                return
            self.where = task.name
            if in_nursery_exit(task):
                self.left = -1  # trio lets no interrupt in there
            else:
                task._next_send_fn = task.coro.throw
                task._next_send = self.interrupt()

    def _is_ours(self, task: trio.lowlevel.Task | None) -> bool:
        while task is not None and self._root is not None:
            if task is self._root:
                return True
            task = task.parent_nursery.parent_task if task.parent_nursery else None
        return False


def in_nursery_exit(task: trio.lowlevel.Task) -> bool:
    """Whether *task* waits in trio's own code that joins the tasks of a nursery."""
    return any(frame.f_code is NURSERY_EXIT.__code__ for frame, _ in task.iter_await_frames())


async def live(client: Client, server: Server) -> None:
    """Do a bit of everything."""
    async with running(client):
        job = await client.enqueue("noop")
        async with client.subscribe("jobs") as events, client.connection_events() as changes:
            await client.wait_job(await client.enqueue("noop"))
            await events.receive()
            await changes.receive()
        if client.transport != "http":
            await client.run_workflow("nap")
        server.drop_connections()
        await job.refresh()
        await trio.sleep(40)  # pings go out


@asynccontextmanager
async def elsewhere(server: Server) -> AsyncGenerator[None, None]:
    """Run *server* where no interrupt arrives."""
    started, over = trio.Event(), trio.Event()

    async def serve() -> None:
        async with server.run():
            started.set()
            await over.wait()

    trio.lowlevel.spawn_system_task(serve)
    await started.wait()
    try:
        yield
    finally:
        over.set()


def interrupted(turn: int, interrupt: type[BaseException], server_is: str) -> bool:
    """Live once, with an interrupt at *turn*. Returns whether there was such a turn."""
    instrument = InterruptAtTurn(turn, interrupt)
    ended_at = 0.0

    async def main() -> None:
        """Say when it ended."""
        nonlocal ended_at
        server = make_server()
        with trio.fail_after(3600):
            async with AsyncExitStack() as stack:
                if server_is == "elsewhere":
                    await stack.enter_async_context(elsewhere(server))
                instrument.arm()
                try:
                    if server_is == "behind a proxy":
                        async with server.run(), FaultyProxy.in_memory(server.open_stream) as net:

                            async def connect(address: object) -> trio.abc.Stream:
                                return await net.open_stream()

                            await live(through(memory_client(server), connect), server)
                    else:
                        async with server.run():
                            await live(memory_client(server), server)
                finally:
                    ended_at = trio.current_time()

    clock = trio.testing.MockClock(autojump_threshold=0)
    try:
        trio.run(main, clock=clock, instruments=[instrument])
    except BaseException as exc:
        if type(exc) is not interrupt:
            raise AssertionError(f"turn {turn}, {instrument.where}: {exc!r}") from exc
    else:
        if instrument.left < 0:
            return True
        assert instrument.left > 0, f"turn {turn}, {instrument.where}: swallowed"
        return False
    assert ended_at - instrument.at <= SOON, f"turn {turn}, {instrument.where}: took long"
    return True


@pytest.mark.parametrize("server_is", ["beside", "elsewhere", "behind a proxy"])
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_at_any_turn_comes_out_alone_and_soon(
    interrupt: type[BaseException], server_is: str
) -> None:
    turns = 0
    for turn in count(1 + FIRST, STRIDE):
        if not interrupted(turn, interrupt, server_is):
            break
        turns += 1
    assert turns > 300 / STRIDE


@pytest.mark.wires("trio-websocket-json")
@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_the_librarys_reader_is_not_replaced_while_it_is_cancelled(
    interrupt: type[BaseException],
) -> None:
    send, receive = trio.open_memory_channel[None](0)

    async def read() -> None:
        async with send:  # which is closed with a checkpoint
            try:
                await trio.sleep_forever()
            finally:
                raise interrupt

    with pytest.raises(interrupt):
        async with open_background() as nursery:
            _Guarding(nursery).start_soon(read)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    receive.close()
