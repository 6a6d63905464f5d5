"""Watching any run: its events, and its state."""

from __future__ import annotations

from typing import Final

import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.polling import PollSchedule
from trio_dispatch._client.subscription import Subscription
from trio_dispatch._transport.receiving import BlockChannel
from trio_dispatch._wire.errors import (
    ConnectionLost,
    PermissionDenied,
    RequestError,
    RequestTimeout,
)
from trio_dispatch._wire.models import Event, WorkflowRun

WATCH_BUFFER: Final = 10_000
"""How many events of one run wait to be read; beyond that, the oldest are dropped."""

END_EVENTS: Final = frozenset({"workflow.completed", "workflow.failed"})


class RunWatch(BlockChannel[Event]):
    """The events of one run, until it has ended; see `Client.watch`.

    This is an async context manager, and inside the block a `trio.abc.ReceiveChannel`.

    Attributes:
        run: the run as the server last returned it; after the end, in its last state.
    """

    def __init__(self, calls: Calls, run_id: str) -> None:
        super().__init__("client.watch(…)")
        self._calls = calls
        self._run_id = run_id
        self._events: Subscription | None = None
        self._schedule = PollSchedule()
        self._ask_at = -float("inf")
        self.run: WorkflowRun | None = None

    @property
    def dropped(self) -> int:
        """How many events were lost because nobody read them."""
        return self._events.dropped if self._events is not None else 0

    async def _open(self) -> None:
        """Subscribe to the run's channel. If the token lacks the scope, the watch only polls."""
        events = self._calls.subscribe(
            f"workflow:{self._run_id}", buffer=WATCH_BUFFER, overflow="drop_oldest", patient=True
        )
        try:
            self._events = await events.__aenter__()
        except PermissionDenied:
            self._events = None

    def _close(self) -> None:
        if self._events is not None:
            self._events._leave()

    async def receive(self) -> Event:
        """Wait for the run's next event. If it is cancelled, no event is lost.

        Raises:
            trio.EndOfChannel: the run has ended, and `run` is its last state.
            NotFound: there is no such run.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
            DispatchError: the client ended, by this error.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_inside()
            event = self._stored_event()
            if event is None and self._over:
                raise trio.EndOfChannel
            if event is None:
                event = await self._next_event()
            if event is not None:
                if event.type in END_EVENTS or event.type == "stream.gap":
                    self._ask_at = -float("inf")
                return event
            if not self._over:
                await self._ask()

    @property
    def _over(self) -> bool:
        return self.run is not None and self.run.finished

    def _stored_event(self) -> Event | None:
        """Return an event that has already arrived, if there is one."""
        if self._events is None:
            return None
        try:
            return self._events.receive_nowait()
        except trio.WouldBlock:
            return None
        except RequestError:
            self._events = None  # not restored after a reconnect: poll instead
            return None

    async def _next_event(self) -> Event | None:
        """Wait for an event. Returns None when it is time to ask."""
        if self._events is None:
            await trio.sleep_until(self._ask_at)
            return None
        with trio.move_on_at(self._ask_at):
            try:
                # No checkpoint between taking and returning it, so a cancellation loses no event.
                return await self._events.receive()
            except RequestError:
                self._events = None
        return None

    async def _ask(self) -> None:
        try:
            self.run = await self._calls.get_workflow(self._run_id)
        except (ConnectionLost, RequestTimeout):
            if self._calls.closed:
                raise
        self._ask_at = self._schedule.next_time()
