"""What a link tells about itself, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Final, cast

import attrs
import trio

from trio_dispatch._link.mailbox import Mailbox

EVENTS_KEPT: Final = 1_024
"""Connection events kept for a reader that is behind; then the oldest is dropped."""


@attrs.frozen
class Connected:
    """A connection is established.

    Attributes:
        url: where to, without secrets.
        session_id: the server's name for the session; None where it gives none.
    """

    url: str
    session_id: str | None = None

    @property
    def connected(self) -> bool:
        """True."""
        return True


@attrs.frozen
class Disconnected:
    """There is no connection.

    Attributes:
        reason: why not; None before the first connection and after an orderly close.
        retry_in: seconds until the next dial; None when there will be none, or one is under way.
    """

    reason: Exception | None = None
    retry_in: float | None = None

    @property
    def connected(self) -> bool:
        """False."""
        return False


ConnectionEvent = Connected | Disconnected


class Announcer:
    """Tells every listener; none of them can hold up another, or the link."""

    def __init__(self) -> None:
        self._state: ConnectionEvent = Disconnected()
        self._ended: tuple[Exception | None] | None = None
        self._listeners: set[LinkEvents] = set()

    def tell(self, event: ConnectionEvent) -> None:
        """Something changed."""
        self._state = event
        for listener in self._listeners:
            listener.mailbox.put(event)

    def end(self, error: Exception | None) -> None:
        """Nothing will change any more."""
        self._ended = (error,)
        for listener in self._listeners:
            listener.mailbox.end(error)
        self._listeners.clear()

    def listen(self) -> LinkEvents:
        """A new stream, which begins with the state at the time when its block is entered."""
        return LinkEvents(self._attach, self._listeners.discard)

    def _attach(self, events: LinkEvents) -> None:
        events.mailbox.put(self._state)
        if self._ended is None:
            self._listeners.add(events)
        else:
            events.mailbox.end(*self._ended)


class LinkEvents(trio.abc.ReceiveChannel[ConnectionEvent]):
    """A stream of `Connected` and `Disconnected`, for use as an async context manager.

    It begins, with the present state, when its block is entered, and can be entered once.
    """

    def __init__(
        self, attach: Callable[[LinkEvents], None], detach: Callable[[LinkEvents], None]
    ) -> None:
        self._attach = attach
        self._detach = detach
        self._entered = False
        self.mailbox: Mailbox[ConnectionEvent] = Mailbox(EVENTS_KEPT, "drop_oldest")

    @property
    def dropped(self) -> int:
        """Events lost because nobody read them."""
        return self.mailbox.dropped

    async def __aenter__(self) -> LinkEvents:
        """Begin to listen. A checkpoint."""
        if self._entered:
            raise RuntimeError("a stream of connection events can be entered once; open another")
        self._entered = True
        await trio.lowlevel.checkpoint()
        self._attach(self)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._leave()
        # No checkpoint: leaving never turns what the body raised into Cancelled.

    async def receive(self) -> ConnectionEvent:
        """Wait for the next event. Cancelled, it takes nothing.

        Raises:
            RuntimeError: its block has not been entered.
            trio.EndOfChannel: the link was closed.
            DispatchError: the link ended by this error.
            trio.ClosedResourceError: the block has been left.
        """
        if not self._entered:
            await trio.lowlevel.checkpoint()
            raise RuntimeError(
                "enter the stream first: async with client.connection_events() as events"
            )
        return cast("ConnectionEvent", await self.mailbox.receive())

    async def aclose(self) -> None:
        """Stop listening. Idempotent."""
        self._entered = True
        self._leave()
        await trio.lowlevel.checkpoint()

    def _leave(self) -> None:
        self._detach(self)
        self.mailbox.close()
