"""A "connection" of HTTP: what `Connection` is to a WebSocket, for a `Link` above it.

There is none on the wire, so it is a state of mind: it begins when the server has answered one
request, and is lost when the server cannot be reached. Requests go out side by side, each on a
connection of httpx's pool, and each has a fate of its own. A ``subscribe`` opens an event stream
instead (`ChannelStream`), an ``unsubscribe`` closes it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from typing import Final, cast

import msgspec
import trio

from trio_dispatch._link.delivery import is_sent_again, lost, prepare_again
from trio_dispatch._link.http.stream import ChannelStream
from trio_dispatch._link.http.wire import (
    HttpWire,
    Interrupted,
    NotAFrame,
    NotDelivered,
    error_of,
)
from trio_dispatch._link.interfaces import Owner
from trio_dispatch._link.requests import Lane, Request
from trio_dispatch._link.settings import DialSettings
from trio_dispatch._link.tokens import explain_refusal
from trio_dispatch._wire.errors import (
    AuthError,
    ConnectFailed,
    ConnectionLost,
    request_error,
)
from trio_dispatch._wire.frames import ErrorCode, Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.session import Ready
from trio_dispatch._wire.url import Address

WINDOW: Final = 32
"""Requests in flight at once; each takes a connection."""

UNWANTED_TIME: Final = 5.0
"""Seconds that a request may still take when nobody waits for it any more."""

RESTORE_TIME: Final = 2.0
"""Seconds for which other requests wait while a new connection opens its event streams."""

SUBSCRIBE_PAUSES: Final = (1.0, 2.0)
"""Seconds until an event stream that was not answered is tried again, before the server is lost."""

SHORT_LIFE: Final = 30.0
"""Seconds; a channel that is lost sooner, time and again, is asked for less and less often."""

PAUSE: Final = 1.0
"""Seconds until a request that a proxy has refused is sent again, if the proxy names no time."""

MAX_PAUSE: Final = 60.0
"""The most of that."""

_DONE: Final = WireFrame(type=FrameType.RESPONSE)
"""The answer to what needs none of the server's."""


class HttpConnection:
    """Serves a link's requests from the first answer to the loss of the server. `run` it once."""

    def __init__(
        self, owner: Owner, address: Address, settings: DialSettings, logger: logging.Logger
    ) -> None:
        self.written: dict[str, Request] = {}
        """Requests that are owed an answer, by id."""
        self.ending: Exception | None = None
        """Why it ended; None when it was closed on purpose."""
        self.was_ready = False
        self.frames_sent = 0
        self.frames_received = 0
        self.last_ts: datetime | None = None
        """The server's clock at the last frame that named it."""
        self._owner = owner
        self._address = address
        self._settings = settings
        self._log = logger
        self._scope = trio.CancelScope()
        self._scopes: dict[str, trio.CancelScope] = {}
        self._channels: dict[str, ChannelStream] = {}
        self._short_lived: dict[str, int] = {}
        """How often in a row a channel's events came for a short time only."""
        self._restoring = True
        """Whether the channels that are wanted go first: what waits may cause events in them."""
        self._work = trio.Event()
        self._ids = itertools.count(1)
        self._over = False
        self._token: str | None = None
        self._wire: HttpWire
        self._nursery: trio.Nursery | None = None

    @property
    def ready(self) -> bool:
        """Whether requests can be sent."""
        return self.was_ready and not self._over

    # From outside: plain calls.

    def wake(self) -> None:
        """There is something to send."""
        self._work.set()

    def ping(self) -> None:
        """Requests by HTTP have no pings."""

    def forget(self, request: Request) -> None:
        """Nobody waits any more for the answer to *request*."""
        if self.written.get(request.id) is request:
            del self.written[request.id]
            self._scopes[request.id].deadline = trio.current_time() + UNWANTED_TIME

    def leave(self, request: Request) -> None:
        """No request by HTTP has several answers."""

    def forget_all(self) -> list[Request]:
        """Nobody waits any more for anything that was sent here; returns what that was."""
        requests = list(self.written.values())
        self.written.clear()
        return requests

    def close(self) -> None:
        """End at once: there is nothing to say goodbye to."""
        self._end(None)

    # Its life.

    async def run(self, get_token: Callable[[], Awaitable[str | None]]) -> None:
        """Serve, and return when the server cannot be reached or does not want us."""
        deadline = trio.current_time() + self._settings.connect_timeout
        with self._scope:
            with self._until(deadline, "the token provider gave none"):
                self._token = await get_token()
            await trio.lowlevel.checkpoint_if_cancelled()
            async with HttpWire(self._address, self._settings, self._token) as self._wire:
                with self._until(deadline, f"no answer from {self._address.shown}"):
                    await self._begin()
                async with trio.open_nursery() as self._nursery:
                    await self._serve(self._nursery)

    @contextmanager
    def _until(self, deadline: float, what: str) -> Generator[None, None, None]:
        """End the connection when *deadline* passes: *what* was the matter."""
        try:
            with trio.fail_at(deadline):
                yield
        except trio.TooSlowError:
            timeout = self._settings.connect_timeout
            self._end(ConnectFailed(f"{what} within {timeout:g} s"))

    async def _begin(self) -> None:
        """Ask anything, to see whether the server is there and knows the token."""
        frame = Frame(id="t0", type=FrameType.REQUEST, method=Method.STATS)
        try:
            answer = await self._post(frame)
        except (NotDelivered, Interrupted, NotAFrame) as exc:
            hint = self._address.hint_for(exc.status) if isinstance(exc, NotAFrame) else ""
            error = ConnectFailed(
                f"cannot connect to {self._address.shown}: {exc}{hint}",
                exc.retry_after if isinstance(exc, NotAFrame) else None,
            )
            error.__cause__ = exc
            self._end(error)
        else:
            if answer.error is not None and answer.error.code == ErrorCode.UNAUTHORIZED:
                self._end(explain_refusal(request_error(answer.error, "auth"), self._token))
                return
            # Any other error, of a missing scope perhaps, is an answer.
            self.was_ready = True
            self._owner.on_ready(Ready(None, "json", answer.ts))

    async def _serve(self, nursery: trio.Nursery) -> None:
        queue = self._owner.queue
        restoring_until = trio.current_time() + RESTORE_TIME
        while True:
            # What waits may cause events in the channels that are wanted, so these go first. But
            # a stream that is not answered must not hold up everything else.
            restoring = self._restoring and trio.current_time() < restoring_until
            request = None
            if not self._over:
                full = restoring or len(self._scopes) >= WINDOW
                request = queue.take(window_full=full)
            if request is not None:
                self._send(request, nursery)
            elif restoring and not self._scopes:
                self._restoring = False
            else:
                self._work = trio.Event()
                with trio.move_on_at(restoring_until if restoring else float("inf")):
                    await self._work.wait()

    def _send(self, request: Request, nursery: trio.Nursery) -> None:
        """Send *request*, in a task of its own."""
        request.id = f"t{next(self._ids)}"
        request.written = True
        self.written[request.id] = request
        # What is wanted of a channel is settled here, in order; only waiting goes side by side.
        if request.frame.method == Method.UNSUBSCRIBE:
            self._unsubscribe(request)
            return
        if request.frame.method == Method.SUBSCRIBE:
            channel = _channel(request)
            self._channels[channel] = self._new_stream(channel)
        self._scopes[request.id] = trio.CancelScope()
        nursery.start_soon(self._carry, request)

    def _end(self, reason: Exception | None) -> None:
        """It is over. What is under way is cut off."""
        if not self._over:
            self._over = True
            self.ending = reason
        self._scope.cancel()

    def _lose(self, reason: Exception) -> None:
        """Send nothing more, and see what is under way through."""
        if not self._over:
            self._over = True
            self.ending = reason
            self._scope.deadline = trio.current_time() + UNWANTED_TIME
            for request in self.written.values():
                if request.frame.method == Method.SUBSCRIBE:
                    self._scopes[request.id].cancel()  # wanted anew of the next connection
        self._end_when_idle()

    def _end_when_idle(self) -> None:
        if self._over and not self._scopes:
            self._scope.cancel()

    # Requests.

    async def _post(self, frame: Frame) -> WireFrame:
        self.frames_sent += 1
        answer = await self._wire.post(frame)
        self.frames_received += 1
        if answer.ts is not None:
            self.last_ts = answer.ts
        return answer

    async def _carry(self, request: Request) -> None:
        """Send one request, and settle it."""
        id = request.id
        try:
            with self._scopes[id]:
                if request.frame.method == Method.SUBSCRIBE:
                    await self._subscribe(request)
                else:
                    self._settle(request, await self._post_patiently(request))
        except NotDelivered as exc:
            self._put_back(request)
            self._lose(ConnectionLost(f"{self._address.shown} cannot be reached: {exc}"))
        except Interrupted as exc:
            self._interrupted(request, str(exc))
        except NotAFrame as exc:
            self._finish(request, None, error_of(exc, request.frame.method, safe=request.safe))
        finally:
            del self._scopes[id]
            if self._over:
                self._end_when_idle()
            else:
                self.wake()

    async def _post_patiently(self, request: Request) -> WireFrame:
        """Post *request*; once more, later, if it is safe and was refused for the time being."""
        frame = msgspec.structs.replace(request.frame, id=request.id)
        try:
            return await self._post(frame)
        except NotAFrame as exc:
            if not (request.safe and exc.for_now):
                raise
            await trio.sleep(min(PAUSE if exc.retry_after is None else exc.retry_after, MAX_PAUSE))
        return await self._post(frame)

    def _settle(self, request: Request, answer: WireFrame) -> None:
        if answer.error is None:
            self._finish(request, answer, None)
            return
        error = request_error(answer.error, request.frame.method)
        if isinstance(error, AuthError):
            # The token was good once. It was not carried out, so a better one may try it again.
            if request.lane is not Lane.AGAIN and self._put_back(request):
                self._lose(error)
                return
        self._finish(request, None, error)

    def _finish(self, request: Request, answer: WireFrame | None, error: Exception | None) -> None:
        if self.written.pop(request.id, None) is request:
            self._owner.on_settled(request, answer, error)

    def _put_back(self, request: Request) -> bool:
        """*request* was not carried out: it waits for a better time. False: nobody waits for it."""
        if self.written.pop(request.id, None) is not request:
            return False
        prepare_again(request)
        self._owner.queue.put(request)
        return True

    def _interrupted(self, request: Request, how: str) -> None:
        """Nobody knows what became of *request* (design rule 4)."""
        if is_sent_again(request) and self._put_back(request):
            return
        self._finish(request, None, lost(request, how))

    # Subscriptions.

    async def _subscribe(self, request: Request) -> None:
        """Open an event stream; try again a few times if the server does not answer."""
        channel = _channel(request)
        stream = self._channels[channel]
        short_lived = self._short_lived.get(channel, 0)
        try:
            if short_lived > 1:
                await trio.sleep(min(2.0 ** (short_lived - 2), MAX_PAUSE))
            for pause in (*SUBSCRIBE_PAUSES, None):
                try:
                    answer = await self._open(stream, request)
                    break
                except (Interrupted, NotAFrame) as exc:
                    asked = exc.retry_after if isinstance(exc, NotAFrame) else None
                    if isinstance(exc, NotAFrame) and not exc.for_now:
                        raise
                    if pause is None:
                        # As over a WebSocket: the connection is lost, and then the channel is
                        # wanted again.
                        self._lose(ConnectionLost(f"{request.frame.method} {channel}: {exc}"))
                        return
                await trio.sleep(pause if asked is None else min(asked, MAX_PAUSE))
                if self._channels.get(channel) is not stream:
                    answer = _DONE  # nobody wants it any more
                    break
                stream = self._channels[channel] = self._new_stream(channel)
            else:  # pragma: no cover - the last attempt ends the loop by itself
                return
            self._settle(request, answer)
        finally:
            if not stream.confirmed:
                self._close(stream)

    async def _open(self, stream: ChannelStream, request: Request) -> WireFrame:
        """Open *stream*, and then ask the server whether it meant it (protocol, "HTTP RPC").

        So the stream has had one more round trip to be in force.
        """
        assert self._nursery is not None
        self._nursery.start_soon(stream.run)
        await stream.settled.wait()
        if stream.closed:
            return _DONE
        if stream.failure is not None:
            raise stream.failure
        try:
            with trio.move_on_after(self._settings.connect_timeout):
                answer = await self._post(msgspec.structs.replace(request.frame, id=request.id))
                if answer.error is None:
                    if stream.lost:
                        raise Interrupted("the event stream ended at once")
                    stream.confirm()
                return answer
            raise Interrupted(f"not answered within {self._settings.connect_timeout:g} s")
        finally:
            if not stream.confirmed:
                stream.close()

    def _new_stream(self, channel: str) -> ChannelStream:
        return ChannelStream(
            self._wire,
            channel,
            self._settings.connect_timeout,
            self._on_event,
            self._on_stream_lost,
            self._log,
        )

    def _unsubscribe(self, request: Request) -> None:
        channel = _channel(request)
        self._short_lived.pop(channel, None)
        stream = self._channels.get(channel)
        if stream is not None:
            self._close(stream)
        self._finish(request, _DONE, None)

    def _close(self, stream: ChannelStream) -> None:
        stream.close()
        if self._channels.get(stream.channel) is stream:
            del self._channels[stream.channel]

    def _on_event(self, channel: str, text: str) -> None:
        self.frames_received += 1
        data = msgspec.Raw(text.encode())
        self._owner.on_push(WireFrame(type=FrameType.EVENT, channel=channel, data=data))

    def _on_stream_lost(self, stream: ChannelStream) -> None:
        """Events of a channel may have been missed, and none come any more."""
        if self._channels.get(stream.channel) is stream and stream.confirmed and not self._over:
            channel = stream.channel
            del self._channels[channel]
            if trio.current_time() < stream.opened_at + SHORT_LIFE:
                self._short_lived[channel] = self._short_lived.get(channel, 0) + 1
            else:
                self._short_lived.pop(channel, None)
            self._owner.on_channel_lost(channel)


def _channel(request: Request) -> str:
    """The channel that a ``subscribe`` or ``unsubscribe`` is about."""
    data: object = request.frame.data
    assert isinstance(data, dict)
    return str(cast("dict[str, object]", data)["channel"])
