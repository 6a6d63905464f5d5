r"""Staying connected: one supervisor for each link and each client.

It connects, and when the connection is lost it connects again; it keeps what waits to be sent while
there is no connection. What frames mean is the session's business (``_wire/session``), what happens
on one connection the connection's (``_link/connection``), when to try again and when to give up is
in ``_link/reconnecting``, and whether a request is sent again in ``_link/delivery``.

The supervisor, in one picture::

    connect -- refused token -------------------------------> end, unless a provider may help
     |  \-- failed ---> back off ---> connect (next URL)      end, if first or one too many
     v
    serve ---- lost ---> back off ---> connect                end, if reconnecting is off
     |
     \-------- closed --------------------------------------> end
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

import trio

from trio_dispatch._link.connection import Connection
from trio_dispatch._link.delivery import is_sent_again, lost, prepare_again
from trio_dispatch._link.events import (
    Announcer,
    Connected,
    ConnectionEvent,
    Disconnected,
    LinkEvents,
)
from trio_dispatch._link.interfaces import AnyConnection, Observer
from trio_dispatch._link.reconnecting import Reconnecting, together
from trio_dispatch._link.requests import Lane, Request, RequestQueue, timed_out
from trio_dispatch._link.settings import DialSettings, LinkSettings
from trio_dispatch._link.statistics import LinkStatistics
from trio_dispatch._link.tokens import Tokens
from trio_dispatch._transport.block import Blocks, interrupt_in
from trio_dispatch._wire.errors import (
    AuthError,
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    fresh,
)
from trio_dispatch._wire.session import Ready
from trio_dispatch._wire.url import Address

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup


class Supervisor:
    """Keeps one connection to a server, and replaces it when it is lost."""

    def __init__(self, settings: LinkSettings, observer: Observer) -> None:
        self._settings = settings
        self._log = settings.logger
        self._timeout = settings.request_timeout
        self._instruments = settings.instruments
        self._observer = observer
        self.on_push = observer.on_push
        """An event arrived. The observer's own method, because events are many."""
        self.queue = RequestQueue()
        self.room = settings.room
        self.on_connect: Callable[[], Awaitable[None]] | None = None
        """Runs on each new connection, before what waits is sent."""
        self._connection: AnyConnection | None = None
        self._scope = trio.CancelScope()
        self._closing = False
        self._ended = False
        self._error: DispatchError | None = None
        self._finished = trio.Event()
        self._settled = trio.Event()
        self._up = trio.Event()
        self._lost_at: float | None = None
        self._up_since = 0.0
        self._address = settings.addresses[0]
        self._tokens = Tokens(
            settings.token,
            settings.token_provider,
            settings.dial.connect_timeout / 2,
            settings.logger,
        )
        self._announcer = Announcer()
        self._sweeper = trio.lowlevel.ParkingLot()
        self._blocks = Blocks()
        self._connections = self._dials = self._strays = 0
        self._frames_sent = self._frames_received = 0

    def describe(self, name: str) -> str:
        """A repr for the object called *name* that this belongs to."""
        state = "closed" if self._ended else "connected" if self.connected else "disconnected"
        return f"<{name} {self._settings.addresses[0].shown} {state}>"

    # What links and clients show of it.

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._connection is not None and self._connection.ready

    @property
    def closed(self) -> bool:
        """Whether the link has ended, for good."""
        return self._ended or self._closing

    @property
    def error(self) -> DispatchError | None:
        """The error that ended the link, if one did."""
        return self._error

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            DispatchError: the link ends instead; `ClientClosed` if it has ended before.
        """
        await trio.lowlevel.checkpoint()
        while not self.connected:
            self.check_open()
            if self._up.is_set():  # there was one, which is about to end
                self._up = trio.Event()
            await self._up.wait()
            if self._error is not None:
                raise fresh(self._error)

    def events(self) -> LinkEvents:
        """Open a stream of `Connected` and `Disconnected`, for the length of a block.

        It begins with the state at the time when the block is entered.
        Every caller gets a stream of its own, and a slow one holds up nobody: the oldest events
        beyond 1,024 unread ones are dropped, and `LinkEvents.dropped` counts them.
        """
        return self._announcer.listen()

    async def wait_closed(self) -> None:
        """Wait until the link has ended, for whatever reason, and nothing of it is left."""
        await self._finished.wait()

    async def aclose(self) -> None:
        """Close the link, and wait until nothing of it is left (2 s at most). Idempotent."""
        self.close()
        await self._finished.wait()

    def statistics(self) -> LinkStatistics:
        """Count what the link has done and is doing."""
        now = self._connection
        return LinkStatistics(
            connected=self.connected,
            connections=self._connections,
            dials=self._dials,
            queued=len(self.queue),
            in_flight=len(now.written) if now else 0,
            frames_sent=self._frames_sent + (now.frames_sent if now else 0),
            frames_received=self._frames_received + (now.frames_received if now else 0),
            strays=self._strays,
            handler_dropped=getattr(self._observer, "dropped", 0),
        )

    async def __aenter__(self) -> Supervisor:
        self._blocks.enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._blocks.leave(exc, self.aclose, lambda: self._error)

    # Requests.

    @property
    def used_as_block(self) -> bool:
        """Whether a block raises, or has raised, the error that ended the link."""
        return self._blocks.used

    def check_frame(self, frame: Any) -> bytes:
        """Refuse what could not be written, before it is queued. Returns its text."""
        text = self._settings.encode(frame)
        if len(text) > self._settings.dial.max_message_size:
            raise ValueError(
                f"the frame is {len(text):,} bytes, more than max_message_size "
                f"({self._settings.dial.max_message_size:,})"
            )
        return text

    def ask(self, request: Request) -> Awaitable[Any]:
        """`call` for a request that is answered."""
        assert request.answered
        return self.call(request)

    async def call(self, request: Request) -> Any:
        """Queue *request* and wait for its answer; None if it expects none."""
        # What is submitted may be written on the spot: a caller that is cancelled already sends
        # nothing.
        await trio.lowlevel.checkpoint_if_cancelled()
        self.submit(request)
        answer = await request.wait(self.withdraw)
        assert answer is not None or not request.answered
        return answer

    def submit(self, request: Request, *, timed: bool = True) -> None:
        """Queue *request*. Whoever waits for it is woken when it is done."""
        if self._ended or self._closing:
            self.check_open()
        if timed:
            self.watch(request)
        if self._instruments:
            self._instruments.watch(request)
        self.queue.put(request)
        if self._connection is not None:
            self._connection.wake()

    def watch(self, request: Request) -> None:
        """Let *request* fail when `request_timeout` is over."""
        if self._timeout is not None and request.lane is not Lane.RESTORE:
            self.queue.watch(request, self._timeout)
            if self._sweeper:
                self._sweeper.unpark_all()

    def ping(self) -> None:
        """Write a ping ahead of all requests, without waiting for its answer."""
        if self._connection is not None:
            self._connection.ping()

    def withdraw(self, request: Request) -> None:
        """Nobody waits for *request* any more: unwritten, it is never sent."""
        request.report_end("cancelled")
        self.queue.unwatch(request)
        self.queue.remove(request)
        if request.written and self._connection is not None:
            self._connection.forget(request)

    def leave(self, request: Request) -> None:
        """Nobody reads the further answers to *request*."""
        if request.written and self._connection is not None:
            self._connection.leave(request)
        self.withdraw(request)

    def close(self) -> None:
        """Begin to close. A plain call; `aclose` waits as well."""
        if self._ended or self._closing:
            return
        self._closing = True
        self._reject_all(None)
        if self._connection is None:
            self._scope.cancel()
        else:
            self._connection.close()

    def end(self, error: DispatchError) -> None:
        """End the link, for good, by *error*."""
        if not self._ended and not self._closing:
            self._closing = True
            self._error = error
            self._reject_all(error)
            self._up.set()
            self._scope.cancel()

    def check_open(self) -> None:
        """Raise `ClientClosed` if the link has ended, or is closing."""
        if self._ended or self._closing:
            error = ClientClosed(
                f"the connection to {self._settings.addresses[0].shown} is closed"
                + (f": {self._error}" if self._error else "")
            )
            raise error from (fresh(self._error) if self._error else None)

    # What the connection reports.

    def on_ready(self, ready: Ready) -> None:
        """A connection is established."""
        connection = self._connection
        assert connection is not None
        self._connections += 1
        self._up_since = trio.current_time()
        shown = self._address.shown
        self._observer.on_ready(ready)
        session = f" (session {ready.session_id})" if ready.session_id else ""
        if self._lost_at is None:
            self._log.info("connected to %s%s", shown, session)
        else:
            away = trio.current_time() - self._lost_at
            self._log.info("connected to %s%s, back after %.3g s", shown, session, away)
        self._lost_at = None
        self._announce(Connected(shown, ready.session_id))
        self._up.set()
        self._settled.set()

    def on_settled(self, request: Request, answer: Any, error: Exception | None) -> None:
        """A request is done."""
        self.queue.unwatch(request)
        request.finish(answer, error)

    def on_channel_lost(self, channel: str) -> None:
        """A channel's events come no more."""
        self._observer.on_channel_lost(channel)

    def on_stray(self, frame: Any) -> None:
        """A frame came that nobody waits for."""
        self._strays += 1
        self._observer.on_stray(frame)

    # Its life.

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Stay connected until closed, ended or cancelled.

        With ``fail_first_connect`` it counts as started when the first connection is established,
        and raises the error of the first dial if that fails. After that it raises nothing; `error`
        tells what ended it.
        """
        try:
            with self._scope:
                try:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(self._supervise)
                        if self._settings.request_timeout is not None:
                            nursery.start_soon(self._sweep, self._settings.request_timeout)
                        nursery.start_soon(self._observer.run)
                        if self._settings.fail_first_connect:
                            await self._settled.wait()
                        task_status.started()
                except Exception as exc:  # noqa: BLE001 - whatever it is, it ends the link
                    self._error = InternalError(
                        "a bug in trio_dispatch ended the connection; please report it"
                    )
                    self._error.__cause__ = exc
        except BaseExceptionGroup as group:
            interrupt = interrupt_in(group)
            if interrupt is None:
                raise
            raise interrupt from None
        finally:
            self._finish()
        if self._error is not None and not self._settled.is_set():
            if self._settings.fail_first_connect:
                raise self._error

    def _finish(self) -> None:
        self._ended = self._closing = True
        # Requests that are written to the connection are settled too: their callers may live in
        # other nurseries than the one that was cancelled.
        self._reject_all(self._error)
        self._connection = None
        self._up.set()
        self._announce(Disconnected(self._error))
        self._announcer.end(self._error)
        self._observer.on_end(self._error)
        if self._error is not None:
            self._blocks.cancel()
        self._finished.set()

    def _announce(self, event: ConnectionEvent) -> None:
        self._announcer.tell(event)
        if self._instruments:
            self._instruments.connection(event)

    async def _supervise(self) -> None:
        settings = self._settings
        reconnecting = Reconnecting(settings)
        failed: list[DispatchError] = []
        """Why the addresses could not be reached that this turn round the list has tried."""
        for self._address in itertools.cycle(settings.addresses):
            self._dials += 1
            connection = self._connection = self._new_connection()
            try:
                await connection.run(self.get_token)
            except ConnectFailed as exc:  # there is no token
                connection.ending = exc
            self._connection = None
            self._frames_sent += connection.frames_sent
            self._frames_received += connection.frames_received
            if self._closing:
                self._scope.cancel()
                return
            reason = self._tokens.judge(_as_error(connection.ending))
            if connection.was_ready:
                failed.clear()
                self._after_loss(connection)
                error = reconnecting.lost(reason, trio.current_time() - self._up_since)
            else:
                failed.append(reason)
                if len(failed) < len(settings.addresses) and not isinstance(reason, AuthError):
                    self._log.info("%s; trying the next address", reason)
                    self._announce(Disconnected(reason, 0.0))
                    continue
                reason = together(failed)
                failed.clear()
                error = reconnecting.failed(reason)
            if error is not None:
                self.end(error)
                return
            delay = reconnecting.delay(reason)
            self._log.info("%s; connecting again in %.3g s", reason, delay)
            self._announce(Disconnected(reason, delay))
            await trio.sleep(delay)

    def _new_connection(self) -> AnyConnection:
        settings = self._settings
        if settings.new_connection is not None:
            return settings.new_connection(self, self._address, settings.dial, self._log)
        return Connection(
            settings.new_session(), self, self._address, settings.dial, settings.heartbeat,
            self._log,
        )  # fmt: skip

    @property
    def address(self) -> Address:
        """Where the present connection leads, or the last one led."""
        return self._address

    @property
    def dial(self) -> DialSettings:
        """What every connection attempt needs."""
        return self._settings.dial

    async def get_token(self) -> str | None:
        """Ask the provider for a token; the fixed one if there is none, or it fails."""
        return await self._tokens.get()

    def _after_loss(self, connection: AnyConnection) -> None:
        """Decide the fate of everything that had been written to *connection*."""
        if self._up.is_set():
            self._up = trio.Event()
        self._lost_at = trio.current_time()
        for request in self.queue.clear(Lane.RESTORE):
            request.report_end("cancelled")
        self._observer.on_lost(connection.last_ts)
        reason = str(connection.ending)
        for request in connection.written.values():
            again = is_sent_again(request)
            if request.lane is Lane.RESTORE:
                request.finish(error=ConnectionLost(reason, True))
            elif again:
                prepare_again(request)
                self.queue.put(request)
            else:
                self.queue.unwatch(request)
                request.finish(error=lost(request, reason))
        connection.written.clear()

    async def _sweep(self, timeout: float) -> None:
        """Let requests fail whose time is over.

        Requests that come while this sleeps have later deadlines, so nobody needs to wake it;
        only when nothing was in flight for a whole timeout does it wait to be woken.
        """
        idle = False
        while True:
            deadline = self.queue.next_deadline()
            if deadline is None and idle:
                await self._sweeper.park()
            idle = deadline is None
            await trio.sleep_until(trio.current_time() + timeout if deadline is None else deadline)
            for request in self.queue.expired(trio.current_time()):
                request.finish(error=timed_out(request, timeout))
                self.withdraw(request)

    def _reject_all(self, error: DispatchError | None) -> None:
        """Settle everything that waits: with *error*, or because the link is closed."""
        written: list[Request] = []
        if self._connection is not None:
            written = self._connection.forget_all()
        for request in itertools.chain(written, self.queue.drain()):
            self.queue.unwatch(request)
            request.finish(error=self.why_ended(error, request))

    def why_ended(self, error: DispatchError | None, request: Request | None = None) -> Exception:
        """The error for somebody who was waiting when the link ended."""
        maybe = request is not None and request.maybe_delivered
        if error is None:
            return ClientClosed("the client was closed while this call was waiting", maybe)
        if isinstance(error, ConnectionLost):
            return ConnectionLost(str(error), maybe)
        return fresh(error)


def _as_error(ending: Exception | None) -> DispatchError:
    """Why a connection ended, as an error of ours."""
    if ending is None:
        return ConnectionLost("the connection was closed")
    return ending if isinstance(ending, DispatchError) else ConnectFailed(str(ending))
