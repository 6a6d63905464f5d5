"""What a link tells about itself, and to whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, cast

import attrs

from trio_dispatch._link.mailbox import Mailbox
from trio_dispatch._transport.receiving import BlockChannel

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


class LinkEvents(BlockChannel[ConnectionEvent]):
    """A stream of `Connected` and `Disconnected`, for use as an async context manager.

    It begins, with the present state, when its block is entered, and can be entered once.
    """

    def __init__(
        self, attach: Callable[[LinkEvents], None], detach: Callable[[LinkEvents], None]
    ) -> None:
        super().__init__("client.connection_events()")
        self._attach = attach
        self._detach = detach
        self.mailbox: Mailbox[ConnectionEvent] = Mailbox(EVENTS_KEPT, "drop_oldest")

    @property
    def dropped(self) -> int:
        """Events lost because nobody read them."""
        return self.mailbox.dropped

    async def _open(self) -> None:
        self._attach(self)

    def _close(self) -> None:
        self._detach(self)
        self.mailbox.close()

    async def receive(self) -> ConnectionEvent:
        """Wait for the next event. Cancelled, it takes nothing.

        Raises:
            RuntimeError: the block has not been entered.
            trio.EndOfChannel: the link was closed.
            DispatchError: the link ended by this error.
            trio.ClosedResourceError: the block has exited.
        """
        self._check_inside()
        return cast("ConnectionEvent", await self.mailbox.receive())
