"""One connection: a session, a transport, and the tasks that carry bytes between them.

The writer alone waits on the sending side (measured: cancelling a caller inside trio-websocket's
``send_message`` breaks the connection for everybody), the reader alone on the receiving side, and
the heartbeat only looks at the clock. While the writer writes nothing, a caller may write what goes
without waiting: a plain call, which is over before anything can cancel it. None of them raises for
a lost connection: they record why in `Connection.ending` and end the connection's own cancel scope.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final

import trio

from trio_dispatch._link.auth import apply_auth
from trio_dispatch._link.interfaces import Owner, Session
from trio_dispatch._link.life import Life
from trio_dispatch._link.requests import Request
from trio_dispatch._link.settings import DialSettings, Heartbeat
from trio_dispatch._link.tokens import explain_refusal
from trio_dispatch._transport.reasons import why
from trio_dispatch._transport.websocket import (
    Transport,
    TransportClosed,
    UpgradeRefused,
    open_transport,
)
from trio_dispatch._wire.answers import retry_after
from trio_dispatch._wire.errors import (
    AuthError,
    ConnectFailed,
    ConnectionLost,
    ProtocolError,
    RequestError,
)
from trio_dispatch._wire.frames import ErrorCode, Message
from trio_dispatch._wire.session import (
    Answer,
    Failure,
    Outcome,
    Part,
    Pong,
    Push,
    Ready,
    Refused,
    Skipped,
    State,
    Stray,
)
from trio_dispatch._wire.url import Address

BATCH: Final = 64 * 1024
"""How many bytes of requests the writer takes at a time; a taken one can no longer be withdrawn."""

MANY: Final = 8
"""Requests in flight from which on the writer waits for company."""

GROUP: Final = 16
"""Waiting requests that are written without waiting for the writer's turn."""

LOG_PAUSE: Final = 60.0
"""Seconds between two lines in the log about messages that are skipped."""

CLOSING_TIME: Final = 2.0
"""Seconds for the exchange of close frames."""


class Connection:
    """A connection from its dialling to its end. `run` it once."""

    def __init__(
        self,
        session: Session,
        owner: Owner,
        address: Address,
        settings: DialSettings,
        heartbeat: Heartbeat | None,
        logger: logging.Logger,
    ) -> None:
        self.session = session
        self.written: dict[str, Request] = {}
        """Requests that are owed an answer, by their ids on the wire, oldest first."""
        self.ending: Exception | None = None
        """Why it ended; None when it was closed on purpose."""
        self.was_ready = False
        self.frames_sent = 0
        self.frames_received = 0
        self._owner = owner
        self._room = owner.room
        self._window = float("inf") if session.window is None else session.window
        self._preparing = False
        """Whether the connection is not yet for what waits: only for what prepares it."""
        self._skipped_told_at = -float("inf")
        self._nursery: trio.Nursery | None = None
        self._address = address
        self._settings = settings
        self._heartbeat = heartbeat
        self._log = logger
        self._scope = trio.CancelScope()
        self._token: str | None = None
        self._transport: Transport | None = None
        self._established = trio.Event()
        self._closing = False
        self._idle_writer: trio.lowlevel.Task | None = None
        self.life = Life(self)

    @property
    def last_ts(self) -> datetime | None:
        """The server's clock at the last frame that named it."""
        return self.session.last_ts

    @property
    def ready(self) -> bool:
        """Whether requests can be written."""
        return self.session.state is State.READY and not self._closing

    # From outside: plain calls.

    def wake(self) -> None:
        """There is something to write.

        The writer takes all that waits at once. But a request that is alone on the connection is
        written here and now, which saves it two turns of the scheduler; and so is a group, which
        lets the server begin while other callers are still to have their turn.
        """
        session, transport = self.session, self._transport
        if not session.in_flight or len(self._owner.queue) == GROUP:
            if transport is not None and transport.can_send_now and self.ready:
                if not session.has_urgent_data:
                    messages = self._take()
                    self.frames_sent += len(messages)
                    transport.send_now(messages)
                    if not transport.pending:
                        return
        if self._idle_writer is not None:
            task, self._idle_writer = self._idle_writer, None
            trio.lowlevel.reschedule(task)

    def ping(self) -> None:
        """Write a ping, unless one waits to be written; whatever answers it is a sign of life."""
        if self.ready and not self.session.has_urgent_data:
            self.session.ping()
            self.wake()

    def forget(self, request: Request) -> None:
        """Nobody waits any more for the answer to *request*, which was written here."""
        if self.written.get(request.id) is request:
            del self.written[request.id]
            self.session.forget(request.id)

    def leave(self, request: Request) -> None:
        """Tell a server that wants to know that nobody reads further answers to *request*."""
        if self.ready:
            self.session.leave(request.frame)
            self.wake()

    def forget_all(self) -> list[Request]:
        """Nobody waits any more for anything that was written here; returns what that was."""
        requests = list(self.written.values())
        for id in self.written:
            self.session.forget(id)
        self.written.clear()
        return requests

    def close(self) -> None:
        """Begin to close politely; `run` returns within `CLOSING_TIME` seconds."""
        if self._transport is None or not self.was_ready:
            self._end(None)
            return
        if not self._closing:
            self._closing = True
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSING_TIME)
            self.wake()

    # The life of a connection.

    async def run(self, get_token: Callable[[], Awaitable[str | None]]) -> None:
        """Dial, serve, and return when the connection is over, for whatever reason.

        Cancelled, it leaves no socket behind and does not wait for the peer.
        """
        self._scope.deadline = trio.current_time() + self._settings.connect_timeout
        with self._scope:
            try:
                async with trio.open_nursery() as nursery:
                    await self._begin(nursery, get_token)
            finally:
                if self._transport is not None:
                    await self._transport.abort()
        if self._scope.cancelled_caught and not self.was_ready and self.ending is None:
            if not self._closing and self._scope.deadline <= trio.current_time():
                self.ending = ConnectFailed(
                    f"no session at {self._address.shown} within "
                    f"{self._settings.connect_timeout:g} s"
                )

    async def _begin(
        self, nursery: trio.Nursery, get_token: Callable[[], Awaitable[str | None]]
    ) -> None:
        try:
            token = self._token = await get_token()
        except ConnectFailed as exc:
            self._end(exc)
            return
        settings = self._settings
        self._nursery = nursery
        address, headers = apply_auth(
            settings.auth, self._address, token, settings.headers, settings.user_agent
        )
        try:
            self._transport = await open_transport(
                nursery,
                address,
                headers=headers,
                max_message_size=settings.max_message_size,
                library=settings.library,
                text_is_utf8=settings.text_is_utf8,
                subprotocols=settings.subprotocols,
                ssl_context=settings.ssl_context,
                connector=settings.connector,
                proxy=settings.proxies.get(self._address),
            )
        except UpgradeRefused as exc:
            self._end(self._upgrade_error(exc, token))
            return
        except (OSError, TransportClosed, trio.BrokenResourceError) as exc:
            self._end(self._dial_error(exc))
            return
        self.life.last = trio.current_time()
        outcome = self.session.start(token)
        nursery.start_soon(self._write)
        nursery.start_soon(self._read)
        if outcome is not None:
            self._act(outcome)
        if settings.idle_timeout is not None:
            nursery.start_soon(self.life.watch_for_silence, settings.idle_timeout)
        if self._heartbeat is not None:
            await self._established.wait()
            nursery.start_soon(self.life.watch, self._heartbeat)

    def _end(self, reason: Exception | None) -> None:
        if not self._scope.cancel_called:
            self.ending = reason
            self._scope.cancel()

    def _dial_error(self, cause: BaseException) -> ConnectFailed:
        reason = why(cause, self._address.host)
        error = ConnectFailed(f"cannot connect to {self._address.shown}: {reason}")
        error.__cause__ = cause
        return error

    def _upgrade_error(self, cause: UpgradeRefused, token: str | None) -> Exception:
        if cause.status == ErrorCode.UNAUTHORIZED:
            refused = AuthError(cause.status, "the WebSocket upgrade was refused", None, "auth")
            return explain_refusal(refused, token)
        how = cause.describe(token or "", *self._address.secrets)
        hint = self._address.hint_for(cause.status)
        error = ConnectFailed(
            f"cannot connect to {self._address.shown}: {how}{hint}", retry_after(cause.headers)
        )
        if not token and not self._address.secrets:
            error.__cause__ = cause  # which holds all that the server said
        return error

    # The writer.

    async def _write(self) -> None:
        assert self._transport is not None
        try:
            while True:
                ping_goes_along = self.life.ping_written_at is None
                if self.session.in_flight > MANY:
                    # More callers are about to be woken by answers that have arrived, and their
                    # requests can go along (measured: 15 % less CPU on trio-websocket).
                    for _ in range(2):
                        await trio.lowlevel.checkpoint()
                messages = self._take()
                if messages:
                    await self._transport.send(messages)
                    self.frames_sent += len(messages)
                    if ping_goes_along:
                        self.life.ping_written_at = trio.current_time()
                elif self._closing:
                    break
                elif self._transport.pending:
                    await self._transport.flush()
                else:
                    await self._wait_for_work()
            await self._transport.aclose()
        except TransportClosed as exc:
            self._lost(str(exc))
        else:
            self._end(None)

    def _take(self) -> list[Message]:
        """Take what may be written now. From here on it counts as written."""
        session = self.session
        if self.ready:
            queue = self._owner.queue
            debug = self._log.isEnabledFor(logging.DEBUG)
            while session.bytes_to_send < BATCH and session.in_flight < self._window:
                request = queue.take(window_full=self._preparing)
                if request is None:
                    break
                self._put_on_the_wire(request)
                if debug:
                    self._log.debug("-> %r", request.frame)
        return session.data_to_send()

    def _put_on_the_wire(self, request: Request) -> None:
        try:
            if request.answered:
                request.id = self.session.request(request.frame, request.text)
                self.written[request.id] = request
                request.written = True
            else:
                self.session.send(request.frame)
                request.written = True
                self._owner.on_settled(request, None, None)
        except (TypeError, ValueError) as exc:
            self._owner.on_settled(request, None, exc)

    async def _wait_for_work(self) -> None:
        def abort(_: object) -> trio.lowlevel.Abort:
            self._idle_writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._idle_writer = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    # The reader.

    async def _read(self) -> None:
        assert self._transport is not None
        try:
            while True:
                messages = await self._transport.receive()
                self.life.last = trio.current_time()
                self.frames_received += len(messages)
                debug = self._log.isEnabledFor(logging.DEBUG)
                for message in messages:
                    for outcome in self.session.receive(message):
                        if debug:
                            self._log.debug("<- %r", outcome)
                        self._act(outcome)
                if (
                    self.session.has_urgent_data
                    or self._transport.pending
                    or len(self._owner.queue)
                ):
                    self.wake()
                if self._room is not None and self._room.is_full:
                    await self._room.wait()
        except TransportClosed as exc:
            self._lost(str(exc))
        except ProtocolError as exc:
            self._end(exc)

    def _act(self, outcome: Outcome) -> None:
        if isinstance(outcome, Push):
            self._owner.on_push(outcome.frame)
        elif isinstance(outcome, Answer):
            request = self.written.pop(outcome.id)
            self._owner.on_settled(request, outcome.frame, None)
        elif isinstance(outcome, Failure):
            request = self.written.pop(outcome.id)
            error = self.session.error_for(outcome, request.frame)
            self._owner.on_settled(request, None, error)
        elif isinstance(outcome, Part):
            self._on_part(outcome)
        elif isinstance(outcome, Ready):
            self._on_ready(outcome)
        elif isinstance(outcome, Refused):
            refusal = self.session.refusal(outcome)
            if isinstance(refusal, RequestError):
                refusal = explain_refusal(refusal, self._token)
            self._end(refusal)
        elif isinstance(outcome, Stray):
            self._owner.on_stray(outcome.frame)
        elif isinstance(outcome, Skipped):
            self._tell_of_skipped(outcome.why)
        else:
            assert isinstance(outcome, Pong)  # a sign of life like any other frame

    def _on_ready(self, ready: Ready) -> None:
        self.was_ready = True
        self._established.set()
        self._scope.deadline = float("inf")
        on_connect = self._owner.on_connect
        self._preparing = on_connect is not None
        self._owner.on_ready(ready)
        if on_connect is not None:
            assert self._nursery is not None
            self._nursery.start_soon(self._prepare, on_connect)
        self.wake()

    async def _prepare(self, on_connect: Callable[[], Awaitable[None]]) -> None:
        """Let users prepare the connection, and then send what waits."""
        try:
            await on_connect()
        except Exception as exc:  # noqa: BLE001 - users' code
            if not self._scope.cancel_called:
                self._log.exception("on_connect failed")
                self._lost(f"on_connect failed: {exc}")
        else:
            self._preparing = False
            self.wake()

    def _on_part(self, part: Part) -> None:
        request = self.written[part.id]
        if request.on_part is not None:
            request.on_part(part.frame)
            return
        # Whoever asked expects one answer, and this is the first.
        del self.written[part.id]
        self.session.answered(part.id)
        self._owner.on_settled(request, part.frame, None)

    def _tell_of_skipped(self, why: str) -> None:
        now = trio.current_time()
        if now >= self._skipped_told_at + LOG_PAUSE:
            self._skipped_told_at = now
            self._log.warning("%s; it is skipped", why)

    def _lost(self, how: str) -> None:
        if self._closing:
            return  # the peer may go first; the writer sees the close through
        if self.was_ready:
            self._end(ConnectionLost(f"the connection to {self._address.shown} was lost: {how}"))
        else:
            self._end(ConnectFailed(f"cannot connect to {self._address.shown}: {how}"))

    # What the heartbeat asks for.

    @property
    def stuck_since(self) -> float | None:
        """Since when a write makes no progress."""
        return None if self._transport is None else self._transport.stuck_since

    @property
    def held_up(self) -> bool:
        """Whether nothing is read because nobody has room for it: then nobody is dead."""
        return self._room is not None and self._room.is_full

    def send_ping(self, *, by_session: bool) -> None:
        """Send a ping of the session's, or a WebSocket ping."""
        if by_session:
            self.session.ping()
        else:
            assert self._nursery is not None
            self.life.ping_written_at = trio.current_time()
            self._nursery.start_soon(self._ping_transport)
        self.wake()

    async def _ping_transport(self) -> None:
        assert self._transport is not None
        await self._transport.ping(self.wake)
        self.life.last = trio.current_time()

    def on_dead(self, how: str) -> None:
        """The peer is dead."""
        self._lost(how)
