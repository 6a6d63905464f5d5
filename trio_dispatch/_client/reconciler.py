"""One channel on one server: whether it is wanted, what the server does, and what to send next.

A connection's requests are answered in order, but subscribers come and go in between: one leaves
while its ``subscribe`` is unanswered, and the next one arrives before the ``unsubscribe`` is
written. So subscribers do not send these requests themselves. They only set whether the channel is
wanted, and this module alone decides what to send. At most one request of a channel is in flight:

    ====== ============ ============ ==================================================
    wanted acknowledged in flight    next
    ====== ============ ============ ==================================================
    yes    no           nothing      send ``subscribe``
    yes    no           a request    wait for the answer to ``subscribe``
    yes    yes          nothing      nothing: the events arrive
    yes    yes          not written  withdraw the ``unsubscribe``
    yes    yes          written      wait for the answer to ``unsubscribe``
    no     yes          nothing      send ``unsubscribe``
    no     yes          a request    wait for the answer to ``unsubscribe``
    no     no           nothing      forget the channel
    no     no           not written  withdraw the ``subscribe``
    no     no           written      wait for the answer to ``subscribe``
    ====== ============ ============ ==================================================

After every change the reconciler consults the table again. The request in flight is a ``subscribe``
exactly if the channel is not acknowledged, because the answer to either request changes that. When
the connection is lost, the channel becomes *not acknowledged, nothing in flight*.
"""

from __future__ import annotations

from datetime import datetime
from enum import Enum
from typing import Final, Protocol

from trio_dispatch._link.requests import Lane, Request
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import Frame, FrameType, Method


class FeedLink(Protocol):
    """The part of a link that a channel needs."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        ...

    @property
    def closed(self) -> bool:
        """Whether the link has ended, so that there is no further connection."""
        ...

    def check_open(self) -> None:
        """Raise `ClientClosed` if the link has ended."""

    def submit(self, request: Request) -> None:
        """Queue a request."""

    def withdraw(self, request: Request) -> None:
        """Withdraw a request that is queued."""

    def why_ended(self, error: DispatchError | None, request: Request | None = None) -> Exception:
        """Make the error for a task that was waiting when the link ended."""
        ...


class ChannelOwner(Protocol):
    """The owner of a channel, to which the channel reports."""

    @property
    def link(self) -> FeedLink:
        """Where to send. It may be disconnected, and another one after a loss."""
        ...

    def on_acknowledged(self, name: str, ts: datetime | None) -> None:
        """The server delivers the channel, as of *ts* by its clock."""

    def on_refused(self, name: str, error: Exception) -> None:
        """The server refuses to deliver the channel, because of *error*."""

    def on_forgotten(self, channel: Reconciler) -> None:
        """Nothing is left to do for *channel*. This may be reported twice."""


class InFlight(Enum):
    """The progress of the last request."""

    NOTHING = "nothing"
    QUEUED = "queued"
    """It waits to be written, and can be withdrawn."""
    WRITTEN = "written"
    """It will be answered."""


class Step(Enum):
    """What to do next."""

    SUBSCRIBE = "subscribe"
    UNSUBSCRIBE = "unsubscribe"
    WITHDRAW = "withdraw"
    WAIT = "wait"
    FORGET = "forget"


_, Q, W = InFlight.NOTHING, InFlight.QUEUED, InFlight.WRITTEN

NEXT_STEP: Final = {
    # (wanted, acknowledged, in flight): what to do next
    (True, False, _): Step.SUBSCRIBE,
    (True, False, Q): Step.WAIT,
    (True, False, W): Step.WAIT,
    (True, True, _): Step.WAIT,
    (True, True, Q): Step.WITHDRAW,
    (True, True, W): Step.WAIT,
    (False, True, _): Step.UNSUBSCRIBE,
    (False, True, Q): Step.WAIT,
    (False, True, W): Step.WAIT,
    (False, False, _): Step.FORGET,
    (False, False, Q): Step.WITHDRAW,
    (False, False, W): Step.WAIT,
}


class Reconciler:
    """Subscribes to one channel, or unsubscribes from it, as wanted.

    Args:
        name: the channel.
        owner: says where to send, and is told what the server does.
    """

    def __init__(self, name: str, owner: ChannelOwner) -> None:
        self.name = name
        self._owner = owner
        self._wanted = False
        self._acknowledged = False
        self._request: Request | None = None

    @property
    def delivers(self) -> bool:
        """Whether the server delivers the channel and no ``unsubscribe`` has been sent."""
        return self._acknowledged and self._request is None

    @property
    def in_flight(self) -> InFlight:
        """The progress of the last request."""
        if self._request is None:
            return InFlight.NOTHING
        return InFlight.WRITTEN if self._request.maybe_delivered else InFlight.QUEUED

    def set_wanted(self, wanted: bool) -> None:
        """Set whether anybody wants the channel."""
        self._wanted = wanted
        self.reconcile()

    def reconcile(self) -> None:
        """Do the next step of the table. Sends nothing while there is no connection."""
        step = NEXT_STEP[self._wanted, self._acknowledged, self.in_flight]
        if step is Step.WITHDRAW:
            assert self._request is not None
            self._drop_request()
            step = NEXT_STEP[self._wanted, self._acknowledged, InFlight.NOTHING]
        if step is Step.FORGET:
            self._owner.on_forgotten(self)
        elif step in (Step.SUBSCRIBE, Step.UNSUBSCRIBE):
            self._send(Method.SUBSCRIBE if step is Step.SUBSCRIBE else Method.UNSUBSCRIBE)

    def lose(self) -> None:
        """The server has forgotten the channel: the connection, or only its stream, has ended."""
        self._acknowledged = False
        if self._request is not None:
            self._drop_request()
        if not self._wanted:
            self._owner.on_forgotten(self)

    def _drop_request(self) -> None:
        request, self._request = self._request, None
        assert request is not None
        self._owner.link.withdraw(request)
        request.cancel()

    def _send(self, method: str) -> None:
        link = self._owner.link
        if link.closed or not link.connected:
            return  # `reconcile` is called when there is a connection
        self._request = Request(
            Frame(type=FrameType.REQUEST, method=method, data={"channel": self.name}),
            lane=Lane.RESTORE,
            on_done=self._answered,
        )
        link.submit(self._request)

    def _answered(self, request: Request) -> None:
        if self._request is not request:
            return
        self._request = None
        subscribed = not self._acknowledged
        self._acknowledged = subscribed and request.error is None
        if subscribed and request.error is not None:
            self._wanted = False
            self._owner.on_refused(self.name, request.error)
        elif subscribed and self._wanted:
            self._owner.on_acknowledged(self.name, request.answer.ts if request.answer else None)
        self.reconcile()
