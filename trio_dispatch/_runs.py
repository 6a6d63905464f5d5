"""Workflow runs: the connections that start them, their handles, watching them.

The server answers ``workflow.start`` when the run has ended, and answers nothing else on that
connection meanwhile (protocol, "Session"). So a start never travels on the main connection: each
has one of its own, out of at most ``max_concurrent_runs``, and further starts wait in order.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

import attrs
import msgspec
import trio

from trio_dispatch._arguments import check_text, encode_payload
from trio_dispatch._asking import Asking
from trio_dispatch._block import in_background
from trio_dispatch._codecs import decode_leniently
from trio_dispatch._errors import (
    ClientClosed,
    ConnectionLost,
    DispatchError,
    PermissionDenied,
    ProtocolError,
    RequestError,
    RequestTimeout,
    WorkflowFailed,
    fresh,
)
from trio_dispatch._frames import Frame, FrameType, Method, WireFrame
from trio_dispatch._link import Link
from trio_dispatch._models import Event, Started, TimelineStep, WorkflowRun
from trio_dispatch._requests import Request
from trio_dispatch._session import Ready
from trio_dispatch._settings import LinkSettings
from trio_dispatch._websocket import Connector

if TYPE_CHECKING:
    from trio_dispatch._client import Client
    from trio_dispatch._subscriptions import Subscription

WATCH_BUFFER: Final = 10_000
"""Events of one run that wait to be read; then the oldest are dropped."""

END_EVENTS: Final = frozenset({"workflow.completed", "workflow.failed"})

_started: Final = msgspec.json.Decoder(Started)


class _StartData(msgspec.Struct, frozen=True):
    name: str
    input: msgspec.Raw


def start_frame(name: str, input: object) -> Frame:
    """Build the frame that starts a workflow. Raises for what no server can make sense of."""
    check_text(name, "a workflow's name")
    data = _StartData(name, encode_payload(input, f"the input of {name!r}"))
    return Frame(type=FrameType.REQUEST, method=Method.WORKFLOW_START, data=data)


def read_started(answer: WireFrame) -> Started:
    """Read the answer to ``workflow.start``."""
    try:
        return decode_leniently(bytes(answer.data), _started)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise ProtocolError(f"the answer to {Method.WORKFLOW_START} cannot be read: {exc}") from exc


class _Unobserved:
    """A run connection has neither subscriptions nor strays that anybody wants."""

    async def run(self) -> None:
        """Nothing to do."""

    def on_ready(self, ready: Ready) -> None:
        """Nothing to restore."""

    def on_lost(self, since: datetime | None) -> None:
        """Nothing to mark."""

    def on_push(self, frame: WireFrame) -> None:
        """Run connections never subscribe."""

    def on_stray(self, frame: WireFrame) -> None:
        """Nothing was sent besides."""

    def on_end(self, error: DispatchError | None) -> None:
        """The start has its own answer."""


class CarriedRequest:
    """A request on a connection of its own, in a task of its own."""

    def __init__(self, frame: Frame) -> None:
        self.request = Request(frame)
        self.answer: WireFrame | None = None
        self.error: Exception | None = None
        self.done = trio.Event()
        self.scope = trio.CancelScope()

    def settle(self, answer: WireFrame | None, error: Exception | None) -> None:
        """It is answered, or never will be. Only the first word counts."""
        if not self.done.is_set():
            self.answer, self.error = answer, error
            self.done.set()

    async def wait(self) -> WireFrame:
        """Wait for the answer. Cancelled before the request is written, it is never sent."""
        try:
            await self.done.wait()
        except trio.Cancelled:
            if not self.request.written:
                self.scope.cancel()
            raise
        if self.error is not None:
            raise fresh(self.error)
        assert self.answer is not None
        return self.answer


class RunConnections:
    """The connections that carry ``workflow.start``, each in the client's nursery.

    Args:
        settings: the main connection's; a run connection is neither kept alive nor dialled again.
        limit: how many there may be at once.
        why_ended: makes the error for a request that was waiting when the client ended.
    """

    def __init__(
        self, settings: LinkSettings, limit: int, why_ended: Callable[[Request], Exception]
    ) -> None:
        self._why_ended = why_ended
        self._settings = attrs.evolve(
            settings,
            reconnect=False,
            fail_first_connect=True,
            heartbeat=None,
            request_timeout=None,
        )
        self._slots = trio.Semaphore(limit, max_value=limit)
        self.limit = limit
        self.waiting = 0
        """Starts that wait for a connection."""
        self._nursery: trio.Nursery | None = None

    def use_connector(self, connector: Connector) -> None:
        """Reach the server by *connector* instead of TCP. Before the client runs."""
        dial = attrs.evolve(self._settings.dial, connector=connector)
        self._settings = attrs.evolve(self._settings, dial=dial)

    @property
    def in_use(self) -> int:
        """Connections that carry a run."""
        return self.limit - self._slots.value

    async def run(self) -> None:
        """Keep the nursery that the run connections live in."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await trio.sleep_forever()

    def carry(self, frame: Frame) -> CarriedRequest:
        """Send *frame* on a connection of its own, as soon as there may be one more."""
        if self._nursery is None:
            raise ClientClosed("the client is not running")
        carried = CarriedRequest(frame)
        self._nursery.start_soon(self._carry, carried)
        return carried

    async def _carry(self, carried: CarriedRequest) -> None:
        try:
            with carried.scope:
                self.waiting += 1
                try:
                    await self._slots.acquire()
                finally:
                    self.waiting -= 1
                try:
                    link = Link(self._settings, _Unobserved())
                    async with in_background(link.run, link):
                        carried.settle(await link.ask(carried.request), None)
                finally:
                    self._slots.release()
        except DispatchError as exc:
            carried.settle(None, exc)
        finally:
            if not carried.done.is_set():
                carried.settle(None, self._why_ended(carried.request))


class RunHandle:
    """A workflow run that this client has started.

    Attributes:
        run_id: the server's id.
        name: the workflow's name.
        state: the last state that this handle has heard of; `refresh` and `wait` renew it.
    """

    def __init__(self, client: Client, started: Started) -> None:
        self._client = client
        self.run_id = started.run_id
        self.name = started.name
        self.state = started.state

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id} of {self.name!r}: {self.state}>"

    @property
    def known(self) -> bool:
        """Whether the server has named the run."""
        return True

    async def wait_known(self) -> None:
        """Wait until the server has named the run."""
        await trio.lowlevel.checkpoint()

    def events(self) -> RunWatch:
        """Watch the run's events. See `Client.watch`."""
        return self._client.watch(self.run_id)

    async def wait(self) -> WorkflowRun:
        """Wait until the run has ended, and return it.

        Cancelling ends the wait and leaves the run alone.

        Raises:
            WorkflowFailed: the run failed.
        """
        run = await wait_run(self._client, self.run_id)
        self.state = run.state
        if run.state == "failed":
            raise WorkflowFailed(run)
        return run

    async def timeline(self) -> list[TimelineStep]:
        """Ask which steps the run has finished. See `Client.workflow_timeline`."""
        return await self._client.workflow_timeline(self.run_id)

    async def refresh(self) -> WorkflowRun:
        """Ask the server for the run's present state, and return it."""
        run = await self._client.get_workflow(self.run_id)
        self.state = run.state
        return run


async def wait_run(client: Client, run_id: str) -> WorkflowRun:
    """Wait until a run has ended."""
    async with RunWatch(client, run_id) as watch:
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

    def __init__(self, client: Client, run_id: str) -> None:
        self._client = client
        self._run_id = run_id
        self._events: Subscription | None = None
        self._asking = Asking()
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
        events = self._client.subscribe(
            f"workflow:{self._run_id}", buffer=WATCH_BUFFER, overflow="drop_oldest"
        )
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
            self.run = await self._client.get_workflow(self._run_id)
        except (ConnectionLost, RequestTimeout):
            if self._client.closed:
                raise
        self._ask_at = self._asking.next_time()
