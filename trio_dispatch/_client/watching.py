"""Watching a run, whoever started it: its events, and asking for its state."""

from __future__ import annotations

from typing import Final

import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.polling import PollSchedule
from trio_dispatch._client.subscriptions import Subscription
from trio_dispatch._wire.errors import (
    ConnectionLost,
    PermissionDenied,
    RequestError,
    RequestTimeout,
)
from trio_dispatch._wire.models import Event, WorkflowRun

WATCH_BUFFER: Final = 10_000
"""Events of one run that wait to be read; then the oldest are dropped."""

END_EVENTS: Final = frozenset({"workflow.completed", "workflow.failed"})


async def finished_run(calls: Calls, run_id: str) -> WorkflowRun:
    """Wait until a run has ended, and return it."""
    try:
        run = await calls.get_workflow(run_id)
        if run.finished:
            return run
    except (ConnectionLost, RequestTimeout):
        if calls.closed:
            raise
    async with RunWatch(calls, run_id) as watch:
        async for _ in watch:
            """The state decides, and the watch asks for it."""
    assert watch.run is not None
    return watch.run


class RunWatch(trio.abc.ReceiveChannel[Event]):
    """The events of one run, until it has ended; see `Client.watch`.

    An async context manager, and inside the block a `trio.abc.ReceiveChannel`.

    Attributes:
        run: the run as the server told it last; after the end, as it ended.
    """

    def __init__(self, calls: Calls, run_id: str) -> None:
        self._calls = calls
        self._run_id = run_id
        self._events: Subscription | None = None
        self._schedule = PollSchedule()
        self._ask_at = -float("inf")
        self._entered = self._closed = False
        self.run: WorkflowRun | None = None

    @property
    def dropped(self) -> int:
        """How many events were lost because nobody read them."""
        return self._events.dropped if self._events is not None else 0

    async def __aenter__(self) -> RunWatch:
        """Subscribe to the run's channel. Without the scope for that, the watch only polls."""
        if self._entered:
            raise RuntimeError("a watch can be entered once; call watch() again")
        self._entered = True
        events = self._calls.subscribe(
            f"workflow:{self._run_id}", buffer=WATCH_BUFFER, overflow="drop_oldest"
        )
        events.patient = True
        try:
            self._events = await events.__aenter__()
        except PermissionDenied:
            self._events = None
        return self

    async def aclose(self) -> None:
        """Stop watching."""
        self._closed = True
        if self._events is not None:
            await self._events.aclose()
        else:
            await trio.lowlevel.checkpoint()

    async def receive(self) -> Event:
        """Wait for the run's next event. Cancelled, it takes nothing.

        Raises:
            trio.EndOfChannel: the run has ended, and `run` is its last state.
            NotFound: there is no such run.
            trio.ClosedResourceError: the block has been left.
            DispatchError: the client ended, by this error.
        """
        if not self._entered:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("enter the watch first: async with client.watch(…)")
        while True:
            event = await self._next_event()
            if event is not None:
                if event.type in END_EVENTS or event.type == "stream.gap":
                    self._ask_at = -float("inf")
                return event
            if self.run is not None and self.run.finished:
                raise trio.EndOfChannel
            await self._ask()

    async def _next_event(self) -> Event | None:
        """The next event; None when it is time to ask, or the run has ended."""
        if self._closed:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this watch has been left")
        if self._events is None:
            if self.run is None or not self.run.finished:
                await trio.sleep_until(self._ask_at)
            return None
        try:
            event = self._events.receive_nowait()
        except trio.WouldBlock:
            if self.run is not None and self.run.finished:
                await trio.lowlevel.checkpoint()
                return None
        except RequestError:
            self._events = None  # not restored after a reconnect: ask now and then instead
            return None
        else:
            await trio.lowlevel.checkpoint()
            return event
        with trio.move_on_at(self._ask_at):
            return await self._events.receive()
        return None

    async def _ask(self) -> None:
        try:
            self.run = await self._calls.get_workflow(self._run_id)
        except (ConnectionLost, RequestTimeout):
            if self._calls.closed:
                raise
        self._ask_at = self._schedule.next_time()
