"""`Link`: a WebSocket that stays connected, for any server whose messages are correlated."""

from __future__ import annotations

import itertools
from types import TracebackType
from typing import Generic, TypeVar

from trio_dispatch._link.dialects import Dialect
from trio_dispatch._link.events import LinkEvents
from trio_dispatch._link.interfaces import Room
from trio_dispatch._link.requests import Lane, Request
from trio_dispatch._link.statistics import LinkStatistics
from trio_dispatch._link.stream import MessageStream
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.errors import DispatchError

M = TypeVar("M")


class Messages(Generic[M]):
    """Sends messages of one dialect over a supervisor's connections."""

    def __init__(
        self, supervisor: Supervisor, dialect: Dialect[M], numbers: itertools.count[int], lane: Lane
    ) -> None:
        self._supervisor = supervisor
        self._dialect = dialect
        self._numbers = numbers
        self._lane = lane

    async def send(self, message: M) -> None:
        """Write *message*."""
        text = self._supervisor.check_frame(message)
        await self._supervisor.call(Request(message, text, answered=False, lane=self._lane))

    async def request(self, message: M) -> M:
        """Write *message* and return its answer."""
        message = self.with_id(message)
        text = self._supervisor.check_frame(message)
        answer: M = await self._supervisor.ask(Request(message, text, lane=self._lane))
        return answer

    def with_id(self, message: M) -> M:
        """Give *message* an id, if it has none."""
        if self._dialect.id_of(message) is None:
            return self._dialect.with_id(message, next(self._numbers))
        return message

    def lane(self, lane: Lane) -> Messages[M]:
        """The same, with what is sent in *lane*."""
        return Messages(self._supervisor, self._dialect, self._numbers, lane)


class LinkConnection(Generic[M]):
    """A new connection, before anything that waits is sent on it: what ``on_connect`` gets."""

    def __init__(self, messages: Messages[M], url: str) -> None:
        self._messages = messages
        self.url = url
        """Where it leads, without secrets."""

    async def send(self, message: M) -> None:
        """Send *message* ahead of what waits. As `Link.send`."""
        await self._messages.send(message)

    async def request(self, message: M) -> M:
        """Send *message* ahead of what waits, and return its answer. As `Link.request`."""
        return await self._messages.request(message)


class Link(Generic[M]):
    """A connection that is replaced whenever it is lost.

    Made by `open_link` and `run_link`. `M` is the type of its dialect's messages.
    """

    def __init__(self, supervisor: Supervisor, messages: Messages[M], room: Room) -> None:
        self._supervisor = supervisor
        self._messages = messages
        self._room = room

    def __repr__(self) -> str:
        return self._supervisor.describe("Link")

    @property
    def connected(self) -> bool:
        """Whether there is a connection right now."""
        return self._supervisor.connected

    @property
    def closed(self) -> bool:
        """Whether the link has ended, for good."""
        return self._supervisor.closed

    @property
    def error(self) -> DispatchError | None:
        """The error that ended the link, if one did."""
        return self._supervisor.error

    async def wait_connected(self) -> None:
        """Wait until there is a connection.

        Raises:
            DispatchError: the link ends instead; `ClientClosed` if it has ended before.
        """
        await self._supervisor.wait_connected()

    def events(self) -> LinkEvents:
        """Open a stream of `Connected` and `Disconnected`, for the length of a block.

        It begins with the state at the time when the block is entered. Every caller gets a stream
        of its own, and a slow one holds up nobody: the oldest events beyond 1,024 unread ones are
        dropped, and `LinkEvents.dropped` counts them.
        """
        return self._supervisor.events()

    async def send(self, message: M) -> None:
        """Send *message* without waiting for an answer. Returns when it is written.

        Waits for a connection if there is none, and never for answers to requests. Cancelled before
        it is written, it is never sent. Whatever answers it goes to the handler.

        Raises:
            TypeError, ValueError: *message* cannot be encoded, or is larger than the maximum.
            DispatchError: the link ended.
        """
        await self._messages.send(message)

    async def request(self, message: M) -> M:
        """Send *message* and return the message that answers it, whole.

        Waits for a connection if there is none. Cancelled before it is written, it is never
        sent; cancelled later, its answer goes to the handler when it arrives.

        Args:
            message: without an id it gets one from the dialect.

        Raises:
            TypeError, ValueError: *message* cannot be sent, or has an id that is in use.
            RequestError: the answer is an error.
            RequestTimeout: there was no answer within ``request_timeout``.
            ConnectionLost: the connection was lost after it was written; `maybe_delivered`.
            DispatchError: the link ended.
        """
        return await self._messages.request(message)

    def stream(self, message: M) -> MessageStream[M]:
        """Send *message* and receive many answers, for the length of a block.

        ``async with link.stream(message) as answers: async for answer in answers:`` ends with the
        last answer by `Dialect.is_last`. If the block is left before, further answers are dropped
        or go to the handler, as late ones do.

        Raises:
            TypeError, ValueError: *message* cannot be sent.
        """
        message = self._messages.with_id(message)
        text = self._supervisor.check_frame(message)
        return MessageStream(self._supervisor, message, text, self._room)

    async def wait_closed(self) -> None:
        """Wait until the link has ended, for whatever reason, and nothing of it is left."""
        await self._supervisor.wait_closed()

    async def aclose(self) -> None:
        """Close the link, and wait until nothing of it is left (2 s at most). Idempotent."""
        await self._supervisor.aclose()

    def statistics(self) -> LinkStatistics:
        """Count what the link has done and is doing."""
        return self._supervisor.statistics()

    async def __aenter__(self) -> Link[M]:
        await self._supervisor.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return await self._supervisor.__aexit__(exc_type, exc, traceback)
