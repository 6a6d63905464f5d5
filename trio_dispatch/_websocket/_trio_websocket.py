"""WebSockets by trio-websocket."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Final

import trio
import trio_websocket

from trio_dispatch._groups import leaves
from trio_dispatch._session import Payload
from trio_dispatch._url import Address
from trio_dispatch._websocket._base import TransportClosed, UpgradeRefused
from trio_dispatch._websocket._stream import WireStream

_log = logging.getLogger("trio_dispatch.transport")

QUEUED_MESSAGES: Final = 256
"""Messages that the library's reader may be ahead of ours."""

READ_SIZE: Final = 64 * 1024


async def upgrade(
    nursery: trio.Nursery,
    stream: WireStream,
    address: Address,
    headers: Sequence[tuple[str, str]],
    max_message_size: int,
) -> TrioWebSocketTransport:
    """Do the handshake on *stream*; the library's reader task stays in *nursery*."""

    async def host(
        task_status: trio.TaskStatus[trio_websocket.WebSocketConnection],
    ) -> None:
        # A nursery around the library's reader task, so that what it raises ends here: a refusal
        # before `started`, and after that a dropped connection, which `get_message` tells as well.
        started = False
        try:
            async with trio.open_nursery() as inner:
                async with trio.open_nursery() as handshake:
                    handshake.start_soon(_raise_when_broken, stream)
                    connection = await trio_websocket.wrap_client_stream(
                        inner,
                        stream,  # type: ignore[arg-type]  # any Stream will do, says its docstring
                        address.host_header,
                        address.resource,
                        extra_headers=[(name.encode(), value.encode()) for name, value in headers],
                        message_queue_size=QUEUED_MESSAGES,
                        max_message_size=max_message_size,
                        receive_buffer_size=READ_SIZE,
                    )
                    handshake.cancel_scope.cancel()
                stream.upgraded = started = True
                task_status.started(connection)
        except Exception as exc:  # noqa: BLE001 - told apart below
            if started:
                _log.debug("the WebSocket library failed", exc_info=True)
                return
            cause = next(leaves(exc))
            if isinstance(cause, trio_websocket.ConnectionRejected):
                raise UpgradeRefused(cause.status_code, cause.body or b"") from cause
            raise TransportClosed(f"the WebSocket handshake failed: {cause}") from cause

    return TrioWebSocketTransport(stream, await nursery.start(host))


async def _raise_when_broken(stream: WireStream) -> None:
    await stream.broken.wait()
    raise TransportClosed("the connection ended during the handshake")


class TrioWebSocketTransport:
    """A `Transport` on trio-websocket."""

    def __init__(self, stream: WireStream, ws: trio_websocket.WebSocketConnection) -> None:
        self._stream = stream
        self._ws = ws

    @property
    def stuck_since(self) -> float | None:
        """Since when a write makes no progress."""
        return self._stream.stuck_since

    @property
    def pending(self) -> bool:
        """The library's own task answers control frames."""
        return False

    async def flush(self) -> None:
        """Nothing is pending."""
        await trio.lowlevel.checkpoint()

    async def send(self, payloads: Sequence[Payload]) -> None:
        """Write *payloads* at once: all but the last are held back and go along with it."""
        *most, last = payloads
        try:
            if most:
                self._stream.cork()
                try:
                    for payload in most:
                        await self._ws.send_message(_message(payload))
                finally:
                    self._stream.uncork()
            await self._ws.send_message(_message(last))
        except trio_websocket.ConnectionClosed as exc:
            raise TransportClosed(self._how_it_ended()) from exc

    async def receive(self) -> Sequence[bytes | str]:
        """Wait for one message."""
        try:
            return (await self._ws.get_message(),)
        except trio_websocket.ConnectionClosed as exc:
            raise TransportClosed(self._how_it_ended()) from exc

    async def aclose(self) -> None:
        """Close politely."""
        try:
            await self._ws.aclose()
        finally:
            await self.abort()

    async def abort(self) -> None:
        """Close the socket. The library leaves it open after a close by the peer."""
        with contextlib.suppress(trio.BrokenResourceError):
            await trio.aclose_forcefully(self._stream)

    def _how_it_ended(self) -> str:
        reason = self._ws.closed
        if reason is None or reason.code == 1006:
            return "the connection broke without a close frame"
        text = f": {reason.reason}" if reason.reason else ""
        return f"the WebSocket was closed with code {reason.code}{text}"


def _message(payload: Payload) -> str | bytes:
    return payload.data if payload.binary else payload.data.decode()
