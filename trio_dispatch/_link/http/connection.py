"""A "connection" of HTTP: what `Connection` is to a WebSocket, for a `Link` above it.

There is none on the wire, so it is a state of mind: it begins when the server has answered one
request, and is lost when the server cannot be reached. Requests go out side by side, each on a
connection of httpx's pool, and each has a fate of its own. A ``subscribe`` opens an event stream
instead (`ChannelStream`), an ``unsubscribe`` closes it.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Final, cast

import msgspec
import trio

from trio_dispatch._link.delivery import is_sent_again, lost, prepare_again
from trio_dispatch._link.http.stream import ChannelStream
from trio_dispatch._link.http.wire import HttpWire, Interrupted, NotAFrame, NotDelivered
from trio_dispatch._link.interfaces import Owner
from trio_dispatch._link.requests import Lane, Request
from trio_dispatch._link.settings import DialSettings
from trio_dispatch._wire.errors import (
    AuthError,
    ConnectFailed,
    ConnectionLost,
    ProtocolError,
    request_error,
)
from trio_dispatch._wire.frames import ErrorCode, Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.session import Ready
from trio_dispatch._wire.url import Address

WINDOW: Final = 32
"""Requests in flight at once; each takes a connection."""

UNWANTED_TIME: Final = 5.0
"""Seconds that a request may still take when nobody waits for it any more."""

BAD_GATEWAY: Final = 500
"""From this status on, an answer that is no frame is a proxy's word for a server that is away."""


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
        self._restoring = True
        """Whether the channels that are wanted go first: what waits may cause events in them."""
        self._work = trio.Event()
        self._ids = itertools.count(1)
        self._over = False
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
        with self._scope:
            token = await self._get_token(get_token)
            async with HttpWire(self._address, self._settings, token) as self._wire:
                try:
                    with trio.fail_after(self._settings.connect_timeout):
                        await self._begin()
                except trio.TooSlowError:
                    self._end(
                        ConnectFailed(
                            f"no answer from {self._address.shown} within "
                            f"{self._settings.connect_timeout:g} s"
                        )
                    )
                async with trio.open_nursery() as self._nursery:
                    await self._serve(self._nursery)

    async def _get_token(self, get_token: Callable[[], Awaitable[str | None]]) -> str | None:
        with trio.move_on_after(self._settings.connect_timeout):
            return await get_token()
        self._end(
            ConnectFailed(
                f"the token provider gave none within {self._settings.connect_timeout:g} s"
            )
        )
        await trio.lowlevel.checkpoint()
        return None  # pragma: no cover - the checkpoint raises

    async def _begin(self) -> None:
        """Ask anything, to see whether the server is there and knows the token."""
        frame = Frame(id="t0", type=FrameType.REQUEST, method=Method.STATS)
        try:
            answer = await self._post(frame)
        except (NotDelivered, Interrupted, NotAFrame) as exc:
            error = ConnectFailed(f"cannot connect to {self._address.shown}: {exc}")
            error.__cause__ = exc
            self._end(error)
        else:
            if answer.error is not None and answer.error.code == ErrorCode.UNAUTHORIZED:
                self._end(request_error(answer.error, "auth"))
                return
            # Any other error, of a missing scope perhaps, is an answer.
            self.was_ready = True
            self._owner.on_ready(Ready(None, "json", answer.ts))

    async def _serve(self, nursery: trio.Nursery) -> None:
        outbox = self._owner.outbox
        while True:
            request = None
            if not self._over:
                full = self._restoring or len(self._scopes) >= WINDOW
                request = outbox.take(window_full=full)
            if request is None and self._restoring and not self._scopes:
                self._restoring = False
            elif request is None:
                self._work = trio.Event()
                await self._work.wait()
            else:
                self._send(request, nursery)

    def _send(self, request: Request, nursery: trio.Nursery) -> None:
        """Send *request*, in a task of its own."""
        request.id = f"t{next(self._ids)}"
        request.written = True
        self.written[request.id] = request
        # What is wanted of a channel is settled here, in order; only waiting goes side by side.
        if request.frame.method == Method.UNSUBSCRIBE:
            self._unsubscribe(request)
            return
        stream = None
        if request.frame.method == Method.SUBSCRIBE:
            stream = self._channels[_channel(request)] = ChannelStream(
                self._wire, _channel(request), self._on_event, self._on_stream_lost, self._log
            )
        self._scopes[request.id] = trio.CancelScope()
        nursery.start_soon(self._carry, request, stream)

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

    async def _carry(self, request: Request, stream: ChannelStream | None) -> None:
        """Send one request, and settle it. For a ``subscribe``, open its *stream*."""
        id, method = request.id, request.frame.method
        try:
            with self._scopes[id]:
                if stream is not None and not await self._open(stream):
                    self._finish(request, _done(request), None)
                    return
                answer = await self._post(msgspec.structs.replace(request.frame, id=id))
                if stream is not None:
                    self._confirm(stream, answer)
                self._settle(request, answer)
        except NotDelivered as exc:
            self._put_back(request)
            self._lose(ConnectionLost(f"{self._address.shown} cannot be reached: {exc}"))
        except Interrupted as exc:
            self._interrupted(request, str(exc))
        except NotAFrame as exc:
            if exc.status >= BAD_GATEWAY:
                self._interrupted(request, str(exc), exc)
            else:
                self._finish(request, None, ProtocolError(f"{method}: {exc}"))
        finally:
            if stream is not None and not stream.confirmed:
                self._close(stream)
            del self._scopes[id]
            if self._over:
                self._end_when_idle()
            else:
                self.wake()

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
        self._owner.outbox.put(request)
        return True

    def _interrupted(self, request: Request, how: str, error: Exception | None = None) -> None:
        """Nobody knows what became of *request* (rule 4)."""
        again = is_sent_again(request) or (request.lane is Lane.RESTORE and request.drops == 1)
        if again and self._put_back(request):
            return
        if request.lane is Lane.RESTORE:
            # As over a WebSocket: the connection is lost, and then the channel is wanted again.
            self._put_back(request)
            self._lose(ConnectionLost(f"{request.frame.method}: {how}"))
            return
        failure = lost(request, how)
        failure.__cause__ = error
        self._finish(request, None, failure)

    # Subscriptions.

    # A stream is opened first, and then the server is asked whether it meant it (protocol, "HTTP
    # RPC"): so the stream has had one more round trip to be in force.

    async def _open(self, stream: ChannelStream) -> bool:
        """Open *stream*. Returns False if it was closed meanwhile, because nobody wants it."""
        assert self._nursery is not None
        try:
            await self._nursery.start(stream.run)
        except RuntimeError:  # it ended before it had begun
            if self._channels.get(stream.channel) is stream:
                raise
            return False
        return True

    def _confirm(self, stream: ChannelStream, answer: WireFrame) -> None:
        if answer.error is None:
            if stream.lost:
                raise Interrupted("the event stream ended at once")
            stream.confirmed = True

    def _unsubscribe(self, request: Request) -> None:
        stream = self._channels.get(_channel(request))
        if stream is not None:
            self._close(stream)
        self._finish(request, _done(request), None)

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
            del self._channels[stream.channel]
            self._owner.on_channel_lost(stream.channel)


def _done(request: Request) -> WireFrame:
    """The answer to a request that needs no server."""
    return WireFrame(type=FrameType.RESPONSE, correl_id=request.id)


def _channel(request: Request) -> str:
    """The channel that a ``subscribe`` or ``unsubscribe`` is about."""
    data: object = request.frame.data
    assert isinstance(data, dict)
    return str(cast("dict[str, object]", data)["channel"])
