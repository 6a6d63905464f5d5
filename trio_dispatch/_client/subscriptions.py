"""Subscriptions: which channels are wanted, who gets an event, and what a loss leaves behind.

The server forgets a connection's channels with the connection, so the wanted ones are kept here,
with a count, and asked for again on every new connection. For each channel that the server is
asked for there is one `_Channel`, whose life is this table:

    ============ ============================= ==========================================
    state        what was asked last           what follows
    ============ ============================= ==========================================
    not asked    nothing, or ``unsubscribe``   wanted again: ask
    asked        ``subscribe``, unanswered     answer: in force; error: its users get it
    in force     ``subscribe``, answered       not wanted any more: ``unsubscribe``
    ============ ============================= ==========================================

A lost connection brings all of them back to *not asked*, and opens a gap in every subscription; a
gap closes, and its reader may go on, when all channels of that subscription are in force again.

Over a WebSocket one delivery serves everybody whom it matches. Over HTTP each channel has an event
stream of its own, so a subscription there has one source, a channel that covers all of its own,
and gets the events of that alone; and a source may be lost while the others go on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from types import TracebackType
from typing import Final, Protocol

import attrs
import msgspec
import trio

from trio_dispatch._link.instruments import Instruments
from trio_dispatch._link.mailbox import Mailbox, Overflow
from trio_dispatch._link.requests import Lane, Request
from trio_dispatch._wire.channels import (
    CopyFilter,
    Occurrence,
    covering_channel,
    read_occurrence,
    server_channel,
    whole_channel,
)
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.models import Event, StreamGap

_log = logging.getLogger("trio_dispatch.subscriptions")

LAG: Final = timedelta(seconds=1)
"""How long an event may wait in the server while answers overtake it. It keeps 256 at most."""

MAX_NARROW: Final = 8
"""Sources of one entity each, of one kind; beyond them, all entities of the kind share one."""


class Sender(Protocol):
    """What subscriptions need of a link."""

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        ...

    def check_open(self) -> None:
        """Raise `ClientClosed` if there will be no connection any more."""

    def submit(self, request: Request) -> None:
        """Queue a request."""

    def watch(self, request: Request) -> None:
        """Let a request fail when its time is over."""

    def withdraw(self, request: Request) -> None:
        """Nobody waits for a request any more."""

    def why_ended(self, error: DispatchError | None, request: Request | None = None) -> Exception:
        """The error for somebody who was waiting when the link ended."""
        ...


@attrs.define(eq=False)
class _Channel:
    """One channel of the server's."""

    name: str
    users: dict[Subscription, None] = attrs.field(factory=dict["Subscription", None])
    request: Request | None = None
    """What was asked last on this connection, if it is unanswered."""
    asked: bool = False
    in_force: bool = False
    last_event: datetime | None = None
    """When the last event happened that came from it, where it is a source of its own."""


@attrs.frozen(kw_only=True)
class SubscriptionStatistics:
    """What a subscription holds and has lost."""

    stored: int
    """Events that wait to be read."""
    buffer: int
    """How many it stores at most."""
    dropped: int
    """Events lost so far because it was full."""


class Subscriptions:
    """All subscriptions of one client.

    Args:
        shared: whether one delivery serves all channels, as over a WebSocket.
        instruments: what is told of events.
    """

    def __init__(self, *, shared: bool = True, instruments: Instruments | None = None) -> None:
        self._shared = shared
        self._instruments = Instruments() if instruments is None else instruments
        self._link: Sender
        self._channels: dict[str, _Channel] = {}
        self._matching: dict[str, dict[Subscription, None]] = {}
        self._queues = 0
        self._copies = CopyFilter()
        self._last_event: datetime | None = None
        """When the last event happened that came over this connection."""
        self.undecodable = 0
        """Event frames that could not be read."""

    def use(self, link: Sender) -> None:
        """Send over *link*."""
        self._link = link

    def __len__(self) -> int:
        """How many subscriptions there are."""
        return len({user for channel in self._channels.values() for user in channel.users})

    @property
    def wanted(self) -> frozenset[str]:
        """The channels that somebody wants from the server."""
        return frozenset(name for name, channel in self._channels.items() if channel.users)

    def open(self, channels: Iterable[str], buffer: int, overflow: Overflow) -> Subscription:
        """Make a subscription, which attaches when its block is entered."""
        return Subscription(self, self._link, tuple(channels), buffer, overflow)

    def listen(self, *channels: str, on_event: Callable[[Event], None]) -> Listener:
        """Give the events of *channels* to *on_event*, from now on."""
        listener = Listener(self, self._link, channels, on_event)
        listener.attach()
        return listener

    # Wanting.

    def attach(self, subscription: Subscription) -> None:
        """Begin to deliver to *subscription*, and ask the server for what it lacks."""
        for name in subscription.channels:
            self._matching.setdefault(name, {})[subscription] = None
            self._queues += name.startswith("queue:")
        subscription.sources = self._sources_for(subscription.channels)
        for name in subscription.sources:
            channel = self._channels.setdefault(name, _Channel(name))
            channel.users[subscription] = None
            if not channel.asked:
                self._ask(channel, Method.SUBSCRIBE)
            if not channel.in_force:
                subscription.unconfirmed.add(name)

    def detach(self, subscription: Subscription, channels: Iterable[str]) -> None:
        """Deliver no more of *channels* to *subscription*; what nobody wants is unsubscribed.

        A plain call: the request is queued, and nobody waits for its answer.
        """
        left = tuple(channels)
        for name in left:
            users = self._matching.get(name, {})
            if subscription in users:
                del users[subscription]
                self._queues -= name.startswith("queue:")
                if not users:
                    del self._matching[name]
        sources = subscription.sources
        if self._shared or not subscription.channels:
            subscription.sources = self._sources_for(subscription.channels)
        for name in sources:
            channel = self._channels.get(name)
            if channel is None or name in subscription.sources:
                continue
            if subscription in channel.users:
                del channel.users[subscription]
                subscription.unconfirmed.discard(name)
                if not channel.users:
                    self._let_go(channel)

    def _sources_for(self, channels: Iterable[str]) -> tuple[str, ...]:
        """Which of the server's channels bring the events of *channels*."""
        names = tuple(dict.fromkeys(map(server_channel, channels)))
        if self._shared or not names:
            return names
        source = covering_channel(names)
        whole = whole_channel(source)
        if whole != source and source not in self._channels:
            narrow = [name for name in self._channels if whole_channel(name) == whole]
            if len(narrow) >= MAX_NARROW:
                source = whole
        return (source,)

    def _let_go(self, channel: _Channel) -> None:
        if channel.asked:
            self._ask(channel, Method.UNSUBSCRIBE)
        elif channel.request is None:
            self._channels.pop(channel.name, None)

    def _ask(self, channel: _Channel, method: str) -> None:
        if not self._link.connected:
            if not channel.users:
                self._channels.pop(channel.name, None)
            return  # `on_ready` asks for all that is wanted
        subscribing = method == Method.SUBSCRIBE
        channel.asked = subscribing
        queued = channel.request
        if queued is not None and not queued.written:
            # The opposite has not been written yet: both are never sent.
            self._link.withdraw(queued)
            channel.request = None
            if not channel.users and not channel.in_force:
                self._channels.pop(channel.name, None)
            return
        if subscribing:
            channel.in_force = False
        channel.request = Request(
            Frame(type=FrameType.REQUEST, method=method, data={"channel": channel.name}),
            lane=Lane.RESTORE,
            on_done=lambda request: self._answered(channel, request),
        )
        self._link.submit(channel.request)

    def _answered(self, channel: _Channel, request: Request) -> None:
        if channel.request is not request:
            return  # something else has been asked since, or the connection is gone
        channel.request = None
        if not channel.asked:
            channel.in_force = False
            if not channel.users:
                self._channels.pop(channel.name, None)
        elif request.error is not None:
            channel.asked = False
            for user in list(channel.users):
                user.fail(request.error)
        else:
            channel.in_force = True
            ts = request.answer.ts if request.answer else None
            for user in list(channel.users):
                user.confirm(channel.name, ts)

    # What the link tells.

    def on_ready(self) -> None:
        """A new connection: ask for everything that is wanted, all at once."""
        for channel in list(self._channels.values()):
            if not channel.asked:
                self._ask(channel, Method.SUBSCRIBE)

    def on_lost(self, since: datetime | None) -> None:
        """The server has forgotten everything."""
        gapped: dict[Subscription, None] = {}
        for channel in list(self._channels.values()):
            channel.asked = channel.in_force = False
            channel.request = None
            if not channel.users:
                del self._channels[channel.name]
            for user in channel.users:
                user.unconfirmed.add(channel.name)
                gapped[user] = None
        for user in gapped:
            user.open_gap(self._missing_since(user, since))
        self._last_event = None

    def on_channel_lost(self, name: str) -> None:
        """A source has ended while the connection stays: ask for it again."""
        channel = self._channels.get(name)
        if channel is None or not channel.users:
            return
        channel.asked = channel.in_force = False
        channel.request = None
        for user in channel.users:
            user.unconfirmed.add(name)
            user.open_gap(channel.last_event or user.in_force_since)
        self._ask(channel, Method.SUBSCRIBE)

    def _missing_since(self, user: Subscription, last_frame: datetime | None) -> datetime | None:
        """The time before which *user* has missed nothing, by the server's clock.

        Not simply the last frame's: an answer overtakes events that are published already
        (protocol, "Events"), so the last event is a better witness. Where that is long ago, no
        event can have waited longer than `LAG` in a server that had others to send meanwhile.
        """
        if not self._shared:
            # What other requests are answered says nothing about a stream.
            events = [self._channels[name].last_event for name in user.sources]
            return next(filter(None, events), user.in_force_since)
        if last_frame is None:
            return user.in_force_since
        try:
            before = last_frame - LAG
        except OverflowError:  # a clock that stands at the first moment of the calendar
            before = last_frame
        known = [before, self._last_event, user.in_force_since]
        return max(time for time in known if time is not None)

    def on_end(self, error: DispatchError | None) -> None:
        """There will be no connection any more."""
        for user in {user for channel in self._channels.values() for user in channel.users}:
            user.fail(self._link.why_ended(error))
        self._channels.clear()
        self._matching.clear()

    def on_push(self, frame: WireFrame) -> None:
        """Deliver an event to everybody whom it matches, once each."""
        try:
            occurrence = read_occurrence(frame)
            if self._shared:
                if self._copies.is_copy(occurrence):
                    return
                self._last_event = occurrence.ts or self._last_event
                wanted = None
            else:
                source = self._channels.get(frame.channel)
                if source is None:
                    return
                source.last_event = occurrence.ts or source.last_event
                wanted = source.users
            names = occurrence.channels(with_queue=self._queues > 0)
            names = [name for name in names if name in self._matching]
            if not names:
                return
            fields = occurrence.fields()
        except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
            self.undecodable += 1
            _log.warning("an event could not be read and was dropped: %s", exc)
            return
        self._deliver(occurrence, fields, names, wanted)

    def _deliver(
        self,
        occurrence: Occurrence,
        fields: dict[str, object],
        names: list[str],
        wanted: dict[Subscription, None] | None,
    ) -> None:
        """Give an event to all that want one of *names*, and, where that matters, are *wanted*."""
        type, ts, topic = occurrence.type, occurrence.ts, occurrence.topic
        if len(names) == 1:
            # The usual case: one event serves everybody, as all of them matched the same.
            event = Event(type=type, ts=ts, topic=topic, data=fields, channels=(names[0],))
            self._put(event, self._matching[names[0]], wanted)
            return
        for user in dict.fromkeys(user for name in names for user in self._matching[name]):
            matched = tuple(name for name in user.channels if name in names)
            event = Event(type=type, ts=ts, topic=topic, data=fields, channels=matched)
            self._put(event, (user,), wanted)

    def _put(
        self,
        event: Event,
        users: Iterable[Subscription],
        wanted: dict[Subscription, None] | None,
    ) -> None:
        if wanted is not None:
            users = [user for user in users if user in wanted]
        if self._instruments:
            self._put_and_tell(event, list(users))
            return
        for user in users:
            user.put(event)

    def _put_and_tell(self, event: Event, users: list[Subscription]) -> None:
        self._instruments.event(event, len(users))
        for user in users:
            before = user.dropped
            user.put(event)
            if user.dropped > before:
                self._instruments.dropped(user.channels, user.dropped - before)


class Subscription(trio.abc.ReceiveChannel[Event]):
    """The events of some channels, from when its block is entered.

    An async context manager, and inside the block a `trio.abc.ReceiveChannel`. Several tasks may
    read from one subscription; each event goes to one of them.
    """

    def __init__(
        self,
        home: Subscriptions,
        link: Sender,
        channels: tuple[str, ...],
        buffer: int,
        overflow: Overflow,
    ) -> None:
        self.channels = channels
        """The channels that it is subscribed to."""
        self.sources: tuple[str, ...] = ()
        """The server's channels that bring their events."""
        self.unconfirmed: set[str] = set()
        """The server's channels that are not in force yet, or not again."""
        self._home = home
        self._link = link
        self._mailbox: Mailbox[Event] = Mailbox(buffer, overflow)
        self._waiter: Request | None = None
        self._entered = False
        self.patient = False
        """Whether entering may take any time: waits have no timeout (rule 12)."""
        self.in_force_since: datetime | None = None
        """When the server confirmed the last of its channels, by the server's clock."""

    def __repr__(self) -> str:
        channels = ", ".join(self.channels) or "to nothing"
        return f"<Subscription {channels}: {len(self._mailbox)} stored>"

    @property
    def dropped(self) -> int:
        """How many events were lost because the buffer was full."""
        return self._mailbox.dropped

    def statistics(self) -> SubscriptionStatistics:
        """Count what it holds and has lost."""
        return SubscriptionStatistics(
            stored=len(self._mailbox), buffer=self._mailbox.capacity, dropped=self.dropped
        )

    async def __aenter__(self) -> Subscription:
        """Subscribe, and wait until the server has confirmed all channels.

        Waits for a connection where there is none. Cancelled, it leaves no subscription behind.

        Raises:
            RequestError: the server refused a channel, for example `PermissionDenied`.
            RequestTimeout: it did not answer in time.
            ClientClosed: the client is closed.
        """
        if self._entered:
            raise RuntimeError("a subscription can be entered once; call subscribe() again")
        self._entered = True
        await trio.lowlevel.checkpoint()
        self._link.check_open()
        self._home.attach(self)
        try:
            if self.unconfirmed:
                self._waiter = Request(Frame(method=Method.SUBSCRIBE))
                if not self.patient:
                    self._link.watch(self._waiter)
                await self._waiter.wait(self._link.withdraw)
        except BaseException:
            self._leave(self.channels)
            raise
        finally:
            self._waiter = None
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.detach()
        # No checkpoint: leaving never waits, and never turns the body's result into Cancelled.

    async def receive(self) -> Event:
        """Wait for the next event, or a `StreamGap` where some may be missing.

        Cancelled, it takes nothing. A checkpoint.

        Raises:
            SubscriptionOverflow: the buffer was full, with ``overflow="raise"``. Reading on gives
                new events.
            RequestError: the server refused to restore a channel after a reconnect.
            trio.EndOfChannel: `unsubscribe` ended it.
            trio.ClosedResourceError: the block has been left.
            DispatchError: the client ended, by this error.
        """
        if not self._entered:
            await trio.lowlevel.checkpoint()
            raise RuntimeError("enter the subscription first: async with client.subscribe(…)")
        return await self._mailbox.receive()

    async def __anext__(self) -> Event:
        """`receive`, for loops: the end of the channel ends the loop.

        Each turn of the loop can be cancelled. Where events are stored, every 16th gives other
        tasks a turn.
        """
        if not self._entered:
            return await self.receive()
        try:
            return await self._mailbox.receive_in_a_row()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def receive_nowait(self) -> Event:
        """Take the next event if there is one; else raise `trio.WouldBlock`."""
        return self._mailbox.receive_nowait()

    async def unsubscribe(self, *channels: str) -> None:
        """Stop getting the events of *channels*, or of all.

        From now on nothing of them is stored; what is stored can still be read. With no channel
        left, reading then ends (`trio.EndOfChannel`). Does not wait for the server.

        Raises:
            ValueError: it is not subscribed to one of *channels*.
        """
        for channel in channels:
            if channel not in self.channels:
                raise ValueError(f"this subscription has no channel {channel!r}")
        self._leave(channels or self.channels)
        if not self.channels:
            self._mailbox.end()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Leave: nothing is stored any more, and reading raises `trio.ClosedResourceError`."""
        self.detach()
        await trio.lowlevel.checkpoint()

    def detach(self) -> None:
        """`aclose` as a plain call."""
        self._leave(self.channels)
        self._mailbox.close()

    def _leave(self, channels: Iterable[str]) -> None:
        leaving = tuple(channels)
        self.channels = tuple(name for name in self.channels if name not in leaving)
        self._home.detach(self, leaving)

    # For `Subscriptions`.

    def put(self, event: Event) -> None:
        """Store *event*."""
        self._mailbox.put(event)

    def open_gap(self, since: datetime | None) -> None:
        """The connection is lost. Who is still waiting to subscribe has missed nothing."""
        if self._waiter is None:
            self._mailbox.open_gap(since)

    def confirm(self, name: str, ts: datetime | None) -> None:
        """The server's channel *name* is in force, by an answer of time *ts*."""
        self.unconfirmed.discard(name)
        if not self.unconfirmed:
            self.in_force_since = ts
            if self._waiter is not None:
                self._waiter_done(None)
            else:
                self._mailbox.close_gap(ts)

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        if self._waiter is not None:
            self._waiter_done(error)
        else:
            self._mailbox.end(error)
            self._leave(self.channels)

    def _waiter_done(self, error: Exception | None) -> None:
        assert self._waiter is not None
        self._link.withdraw(self._waiter)
        self._waiter.finish(error=error)


class Listener(Subscription):
    """A subscription of the client's own, whose events go to a function as they come.

    Args:
        on_event: is given every event, and a `StreamGap` where some may be missing.
    """

    def __init__(
        self,
        home: Subscriptions,
        link: Sender,
        channels: tuple[str, ...],
        on_event: Callable[[Event], None],
    ) -> None:
        super().__init__(home, link, channels, 1, "drop_oldest")
        self._on_event = on_event
        self._gap_since: list[datetime | None] = []
        self.settled = trio.Event()
        """Set when the server has confirmed the channels, or never will."""
        self.error: Exception | None = None
        """Why it never will."""

    def attach(self) -> None:
        """Begin to listen."""
        self._entered = True
        self._home.attach(self)
        if not self.unconfirmed:
            self.settled.set()

    @property
    def in_force(self) -> bool:
        """Whether the server delivers to it now."""
        return self.settled.is_set() and self.error is None and not self.unconfirmed

    def put(self, event: Event) -> None:
        """Pass *event* on."""
        self._on_event(event)

    def open_gap(self, since: datetime | None) -> None:
        """Remember since when events are missing, if there were any before."""
        if self.settled.is_set() and not self._gap_since:
            self._gap_since.append(since)

    def confirm(self, name: str, ts: datetime | None) -> None:
        """The server delivers *name*."""
        self.unconfirmed.discard(name)
        if not self.unconfirmed:
            self.in_force_since = ts
            if self._gap_since:
                self._on_event(StreamGap(since=self._gap_since.pop(), until=ts))
            self.settled.set()

    def fail(self, error: Exception) -> None:
        """Nothing more will come."""
        self.error = error
        self.settled.set()
        self.detach()
