"""The connections on which runs are started.

The server answers ``workflow.start`` only when the run has ended, and answers nothing else on that
connection until then (protocol, "Session"). So the client never sends a start on the main
connection. Each start has a separate connection, which

- leads to the server of the main connection, because another address may lead to another store;
- is subscribed to ``workflows`` before the start, because behind a load balancer only this
  connection certainly receives the run's events (recording ``run_connection_hears``);
- is pinged while the run blocks it, so that no proxy treats it as idle. The pongs arrive after the
  run, so a missing pong has no meaning there.

At most ``max_concurrent_runs`` starts have a place at once, and further ones wait in order. When a
start is over, its connection is kept for half a minute, and reused if the server still answers.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Final

import attrs
import trio

from trio_dispatch._link.reconnecting import Reconnecting
from trio_dispatch._link.requests import Request
from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.channels import WORKFLOWS
from trio_dispatch._wire.errors import (
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    RequestError,
)
from trio_dispatch._wire.frames import Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.session import Ready
from trio_dispatch._wire.url import Address

IDLE_TIME: Final = 30.0
"""Seconds for which an idle connection is kept."""

CHECK_TIME: Final = 2.0
"""Seconds in which an idle connection must answer to be reused."""


class Start:
    """One ``workflow.start`` on its way.

    Args:
        frame: what to send.
        text: its JSON text.
    """

    def __init__(self, frame: Frame, text: bytes) -> None:
        self._frame = frame
        self._text = text
        self.request = Request(frame, text)
        self.scope = trio.CancelScope()
        """The cancel scope around all work for this start."""
        self.under_way = trio.Event()
        """Set when a connection has taken it, or when none will."""

    def renew(self) -> None:
        """It was never written, so it goes to another connection."""
        self.request = Request(self._frame, self._text)

    def abandon(self) -> None:
        """Stop waiting for it: if it is not written yet, it is never sent."""
        if not self.request.written:
            self.scope.cancel()


class RunConnection:
    """One connection on which runs are started, one after another.

    Args:
        settings: how it behaves.
        address: the address to connect to.
        ping_interval: seconds between pings while a run blocks it; None for no pings.
    """

    def __init__(
        self, settings: LinkSettings, address: Address, ping_interval: float | None
    ) -> None:
        self.address = address
        self.hears = False
        """Whether it is subscribed to ``workflows``."""
        self.blocked = False
        """Whether a start was sent and is not answered yet."""
        self.on_event: Callable[[WireFrame], None] | None = None
        """Called with the events that arrive."""
        self.in_use = False
        self.idle_until = 0.0
        """When it has been idle for long enough (`trio.current_time`)."""
        self._ping_interval = ping_interval
        self._scope = trio.CancelScope()
        self._link = Supervisor(attrs.evolve(settings, addresses=(address,)), self)

    # What is asked of it.

    @property
    def closed(self) -> bool:
        """Whether it is lost or closed."""
        return self._link.closed

    async def live(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Connect, and run until the connection is lost, closed or cancelled.

        It reports that it has started when it is connected. If that fails, it raises a
        `DispatchError`.
        """
        with self._scope:
            await self._link.run(task_status=task_status)

    async def subscribe(self, within: float) -> bool:
        """Begin to use it: subscribe to ``workflows``, and check whether the server answers.

        Any answer is enough: a token without the scope to subscribe can still start runs.
        """
        self.in_use = True
        request = _about_workflows(Method.SUBSCRIBE)
        with trio.move_on_after(within):
            try:
                await self._link.ask(request)
                self.hears = True
            except RequestError:
                self.hears = False
            except DispatchError:
                return False
            return True
        return False

    async def start(self, start: Start) -> WireFrame:
        """Send a start and wait for its answer, for as long as the run takes.

        Raises:
            RequestError: the server refused it, or it failed.
            ConnectionLost: the connection was lost; ``maybe_delivered`` is whether it was sent.
        """
        request = start.request
        await trio.lowlevel.checkpoint_if_cancelled()
        if self.closed:
            raise ConnectionLost(f"the connection to {self.address.shown} was lost")
        try:
            self._link.submit(request)
            self.blocked = True
            start.under_way.set()
            answer: WireFrame | None = await request.wait(self._link.withdraw)
        finally:
            answered = request.answer is not None or isinstance(request.error, RequestError)
            self.blocked = request.written and not answered
        assert answer is not None
        return answer

    def rest(self) -> None:
        """Stop using it for now: unsubscribe from ``workflows``."""
        self.on_event = None
        self.in_use = False
        self.idle_until = trio.current_time() + IDLE_TIME
        if self.hears:
            self.hears = False
            self._link.submit(_about_workflows(Method.UNSUBSCRIBE))

    def close(self) -> None:
        """Close it politely, in the background."""
        self._link.close()

    def abort(self) -> None:
        """Close it at once, because its server does not answer, or only after the end of a run."""
        self._scope.cancel()

    # What its link reports.

    async def run(self) -> None:
        """Write a ping at intervals while it is in use."""
        while self._ping_interval is not None:
            await trio.sleep(self._ping_interval)
            if self.in_use:
                self._link.ping()

    def on_push(self, frame: WireFrame) -> None:
        """An event arrived."""
        if self.on_event is not None:
            self.on_event(frame)

    def on_ready(self, ready: Ready) -> None:
        """The connection is established."""

    def on_lost(self, since: datetime | None) -> None:
        """The connection is lost, and the link ends with it."""

    def on_channel_lost(self, channel: str) -> None:
        """Not used here: only event streams over HTTP end one by one."""

    def on_stray(self, frame: WireFrame) -> None:
        """A frame arrived that is not an answer."""

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended: wake the task that waits for an answer."""


def _about_workflows(method: str) -> Request:
    return Request(Frame(type=FrameType.REQUEST, method=method, data={"channel": WORKFLOWS}))


class RunConnections:
    """Connections for starts, in use or idle, all of them to the server of the main connection.

    Args:
        main: the link of the main connection.
        main_settings: how often the main connection reconnects, and how often it is pinged.
        settings: the settings of each connection for runs.
        limit: how many starts have a place at once.
    """

    def __init__(
        self, main: Supervisor, main_settings: LinkSettings, settings: LinkSettings, limit: int
    ) -> None:
        self._main = main
        self._main_settings = main_settings
        self._settings = settings
        self._log = settings.logger
        self._idle: list[RunConnection] = []
        """Idle connections; the last one is the one that was used last."""
        self._became_idle = trio.lowlevel.ParkingLot()
        self._nursery: trio.Nursery | None = None
        self.places = trio.CapacityLimiter(limit)
        """One place for each start, from before it has a connection until it is over."""

    async def run(self) -> None:
        """Run the nursery of the connections, and close idle ones when it is time."""
        async with trio.open_nursery() as self._nursery:
            while True:
                if not self._idle:
                    await self._became_idle.park()
                await trio.sleep_until(self._idle[0].idle_until if self._idle else 0)
                while self._idle and self._idle[0].idle_until <= trio.current_time():
                    self._idle.pop(0).close()

    async def carry(self, start: Start, use: Callable[[RunConnection], Awaitable[None]]) -> None:
        """Call *use* with a connection for *start*, and again if it is lost before the start.

        Waits while there is no connection.

        Raises:
            DispatchError: no connection can be made, the client has ended, or *use* raises it.
        """
        while True:
            async with self._connection() as connection:
                try:
                    await use(connection)
                except DispatchError as exc:
                    if start.request.maybe_delivered or isinstance(exc, RequestError):
                        raise
                else:
                    return
            start.renew()
            await trio.sleep(self._settings.min_reconnect_delay)

    @asynccontextmanager
    async def _connection(self) -> AsyncGenerator[RunConnection, None]:
        connection = await self._take_idle() or await self._open()
        try:
            yield connection
        finally:
            if connection.blocked:
                connection.abort()
            elif not connection.closed:
                connection.rest()
                self._idle.append(connection)
                self._became_idle.unpark_all()

    async def _take_idle(self) -> RunConnection | None:
        """Return an idle connection on which the server answers; None if there is none."""
        await self._main.wait_connected()
        while self._idle:
            connection = self._idle.pop()
            if connection.address != self._main.address:
                connection.close()
            elif not connection.closed and await self._is_ready(connection, CHECK_TIME):
                return connection
        return None

    async def _open(self) -> RunConnection:
        """Make a connection to the main connection's server; retry as often as that would."""
        reconnecting = Reconnecting(self._main_settings, first=False)
        while True:
            await self._main.wait_connected()
            try:
                return await self._connect(self._main.address)
            except InternalError:
                raise  # another attempt would fail the same way
            except DispatchError as exc:
                error = reconnecting.failed(exc)
                if error is not None:
                    raise error from exc.__cause__
                delay = reconnecting.delay(exc)
                self._log.info("no connection for a run: %s; trying again in %.3g s", exc, delay)
            await trio.sleep(delay)

    async def _connect(self, address: Address) -> RunConnection:
        heartbeat = self._main_settings.heartbeat
        connection = RunConnection(
            self._settings, address, None if heartbeat is None else heartbeat.interval
        )
        assert self._nursery is not None
        try:
            await self._nursery.start(connection.live)
        except RuntimeError:  # the client is just ending, and its nursery is closed
            raise self._main.why_ended(self._main.error) from None
        except trio.Cancelled:
            connection.abort()
            raise
        if not await self._is_ready(connection, self._settings.dial.connect_timeout):
            raise ConnectFailed(f"{address.shown} accepted a connection and did not answer on it")
        return connection

    async def _is_ready(self, connection: RunConnection, within: float) -> bool:
        """Return whether the server answers on *connection*; if not, close it."""
        ready = False
        try:
            ready = await connection.subscribe(within)
        finally:
            if not ready:
                connection.abort()
        return ready
