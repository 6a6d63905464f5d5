"""The answer to the upgrade: finds the end of its head, and reads a refusal.

The WebSocket libraries wait for the end of a refusal's body, which a proxy may never send, or they
drop the part that they have when the connection ends. So this module reads refusals for both.
"""

from __future__ import annotations

from typing import Final

import h11
import trio

from trio_dispatch._transport.websocket.base import TransportClosed, UpgradeRefused

MAX_HEAD: Final = 64 * 1024
"""The most bytes of the head of the answer."""

REFUSAL_TIME: Final = 1.0
"""The most seconds to wait for the body of a refusal, whose beginning is shown."""

REFUSAL_SIZE: Final = 4096
"""The most bytes of the body of a refusal that are read."""


_TLS_ALERT: Final = b"\x15\x03"


class ResponseHead:
    """Finds the end of the head of the response to the upgrade, in any split of the bytes."""

    def __init__(self) -> None:
        self._head = b""

    @property
    def accepts(self) -> bool:
        """Whether it is 101: frames follow."""
        return self._head.split(b" ")[1:2] == [b"101"]

    def find_end(self, data: bytes | bytearray) -> int:
        """Process received bytes. Returns how many of them belong to the head.

        Returns -1 if all of them do and the head is not complete yet.

        Raises:
            TransportClosed: the answer is not HTTP, or its head is larger than `MAX_HEAD`.
        """
        before = len(self._head)
        self._head += data
        if self._head.startswith(_TLS_ALERT):
            raise self.broken()
        # A bare LF also ends a line for the libraries that read this next.
        ends = [
            at + len(mark)
            for mark in (b"\n\r\n", b"\n\n")
            if (at := self._head.find(mark, max(before - 2, 0))) >= 0
        ]
        if not ends and len(self._head) > MAX_HEAD:
            raise TransportClosed("the answer to the upgrade has no end")
        return min(ends) - before if ends else -1

    def broken(self) -> TransportClosed:
        """Make the error for a connection that ends before the answer does."""
        if self._head.startswith(_TLS_ALERT):
            return TransportClosed("the server speaks TLS there: did you mean wss://?")
        where = "in the middle of the answer to" if self._head else "before the answer to"
        return TransportClosed(f"the connection ended {where} the upgrade")

    async def read_refusal(self, stream: trio.abc.ReceiveStream) -> UpgradeRefused:
        """Read the rest of a refusal, and return it as an error.

        Raises:
            TransportClosed: it is not HTTP.
        """
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
        connection.send(h11.EndOfMessage())
        status, reason, headers, body = 0, "", [], b""
        connection.receive_data(self._head)
        with trio.move_on_after(REFUSAL_TIME):
            while len(body) < REFUSAL_SIZE:
                try:
                    event = connection.next_event()
                except h11.RemoteProtocolError as exc:
                    if status:
                        break  # the body is incomplete; its beginning is enough
                    raise TransportClosed(f"the answer to the upgrade is not HTTP: {exc}") from exc
                if event is h11.NEED_DATA:
                    try:
                        data = await stream.receive_some()
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        data = b""
                    connection.receive_data(bytes(data))
                elif isinstance(event, h11.Response):
                    status, reason = event.status_code, event.reason.decode("latin-1")
                    headers = [
                        (name.decode("latin-1"), value.decode("latin-1"))
                        for name, value in event.headers
                    ]
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif not isinstance(event, h11.InformationalResponse):
                    break
        if not status:
            raise TransportClosed("the answer to the upgrade has no end")
        return UpgradeRefused(status, reason, headers, body)
