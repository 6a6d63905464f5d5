"""The interface of every WebSocket transport."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trio_dispatch._wire.answers import Headers, describe_answer
from trio_dispatch._wire.frames import Message


class TransportClosed(Exception):
    """The connection is over; the message describes how it ended."""


class UpgradeRefused(Exception):
    """The server answered the upgrade with another HTTP status than 101."""

    def __init__(self, status: int, reason: str, headers: Headers, body: bytes) -> None:
        super().__init__(status, reason, headers, body)
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    def __str__(self) -> str:
        return self.describe()

    def describe(self, *secrets: str) -> str:
        """Describe it in one line, without *secrets*."""
        answer = describe_answer(self.status, self.reason, self.headers, self.body, secrets=secrets)
        return f"the WebSocket upgrade was answered with {answer}"


class Transport(Protocol):
    """One WebSocket connection, upgraded.

    Only one task may call `send`, and only one may call `receive`. Cancelling `send` may leave half
    a message written, so after that the transport can only be closed.
    """

    async def send(self, messages: Sequence[Message]) -> None:
        """Write *messages*, in as few writes as possible.

        Raises:
            TransportClosed: the connection is over.
        """

    @property
    def can_send_now(self) -> bool:
        """Whether `send_now` may be called: it is supported, and no other write is under way."""
        ...

    def send_now(self, messages: Sequence[Message]) -> None:
        """Write *messages* without waiting, from any task; bytes that do not fit are `pending`."""

    async def flush(self) -> None:
        """Write the `pending` bytes. Only the sending task may call this.

        Raises:
            TransportClosed: the connection is over.
        """

    async def receive(self) -> Sequence[bytes | str]:
        """Wait until data arrives, and return the messages in it, in order.

        There may be none: the data may be a control frame, or part of a message.

        Raises:
            TransportClosed: the connection is over.
        """
        ...

    async def ping(self, wake: Callable[[], None]) -> None:
        """Send a WebSocket ping, and wait for its pong, or for the end of the connection.

        Args:
            wake: called when the ping is `pending`, for the task that sends.
        """

    async def aclose(self) -> None:
        """Close politely: send a close frame, and wait for the peer's. This has no own timeout.

        The socket is closed afterwards, even if this is cancelled.
        """

    async def abort(self) -> None:
        """Close the socket at once, without a close frame. Does not block."""

    @property
    def pending(self) -> bool:
        """Whether there is something to `flush`: answers to control frames that arrived."""
        ...

    @property
    def stuck_since(self) -> float | None:
        """Since when (`trio.current_time`) a write makes no progress; None if no write is stuck."""
