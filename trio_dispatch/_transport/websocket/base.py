"""What every WebSocket transport can do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from trio_dispatch._wire.answers import Headers, describe_answer
from trio_dispatch._wire.frames import Message


class TransportClosed(Exception):
    """The connection is over; the message says how it ended."""


class UpgradeRefused(Exception):
    """The server answered the upgrade with an HTTP status of its own."""

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

    `send` belongs to one task and `receive` to one task; cancelling `send` may leave half a
    message behind, so after that the transport can only be closed.
    """

    async def send(self, messages: Sequence[Message]) -> None:
        """Write *messages*, in as few writes as possible.

        Raises:
            TransportClosed: the connection is over.
        """

    @property
    def can_send_now(self) -> bool:
        """Whether `send_now` may be called: it can, and nothing else is being written."""
        ...

    def send_now(self, messages: Sequence[Message]) -> None:
        """Write *messages* without waiting, from any task; what does not go is `pending`."""

    async def flush(self) -> None:
        """Write what is `pending`. For the task that sends.

        Raises:
            TransportClosed: the connection is over.
        """

    async def receive(self) -> Sequence[bytes | str]:
        """Wait until something comes, and return the messages in it, in order.

        There may be none in it: a control frame, or a part of a message.

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
        """Close politely: a close frame, and the peer's. Only deadlines bound this wait.

        Cancelled or not, the socket is closed afterwards.
        """

    async def abort(self) -> None:
        """Close the socket at once, without a word. Does not block."""

    @property
    def pending(self) -> bool:
        """Whether there is something to `flush`: answers to control frames that came."""
        ...

    @property
    def stuck_since(self) -> float | None:
        """Since when (`trio.current_time`) a write makes no progress; None when none is stuck."""
