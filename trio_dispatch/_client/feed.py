"""The events of one server: its wanted channels, and since when their events arrive.

A client has one feed for each server that it gets events from. The registry (``subscriptions``)
decides which channels are wanted, the same for every feed. The feed makes its server deliver them,
with one `Reconciler` for each channel, and passes on the events.

Over a WebSocket the server sends an event once for all matching channels. Over HTTP each channel
has its own event stream, which may be lost while the others continue.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import Final, Protocol

from trio_dispatch._client.reconciler import FeedLink, InFlight, Reconciler
from trio_dispatch._wire.channels import CopyFilter, Occurrence
from trio_dispatch._wire.errors import DispatchError
from trio_dispatch._wire.frames import WireFrame

LAG: Final = timedelta(seconds=1)
"""How long an event may wait in the server while answers overtake it. It keeps at most 256."""


class FeedOwner(Protocol):
    """The receiver of a feed's reports."""

    def on_acknowledged(self, feed: Feed, name: str, ts: datetime | None) -> None:
        """The server delivers channel *name*, as of *ts* by its clock."""

    def on_refused(self, feed: Feed, name: str, error: Exception) -> None:
        """The server does not deliver channel *name*, because of *error*."""

    def on_lost(self, feed: Feed, since: datetime | None) -> None:
        """The server does not deliver any events at present."""

    def on_channel_lost(self, feed: Feed, name: str) -> None:
        """The server has stopped delivering channel *name*, although it is connected."""

    def on_away(self, feed: Feed) -> None:
        """The server cannot be reached now."""

    @property
    def on_push(self) -> Callable[[Feed, WireFrame], None]:
        """What is called when an event has arrived."""
        ...

    def on_end(self, feed: Feed, error: Exception) -> None:
        """The server will not deliver any more events."""


class Feed:
    """The events of one server.

    Args:
        owner: gets the reports about the server.
        shared: whether the server sends an event once for all channels, as over a WebSocket.
        server: the server's URL, for gaps; empty if there is only one.
    """

    def __init__(self, owner: FeedOwner, *, shared: bool = True, server: str = "") -> None:
        self.server = server
        self.shared = shared
        self.away = False
        """Whether the last attempt to connect has failed, or the connection is lost."""
        self.ended = False
        """Whether it will deliver nothing any more."""
        self._owner = owner
        self.on_push: Callable[[WireFrame], None] = partial(owner.on_push, self)
        """An event arrived. The owner's own function, because events are many."""
        self.link: FeedLink
        """Where to send."""
        self._channels: dict[str, Reconciler] = {}
        self._acknowledged_at: dict[str, datetime] = {}
        self._copies = CopyFilter()
        self._last_event: dict[str, datetime] = {}
        """The time of the last event: by channel, or for all (``""``) if they are shared."""

    def __repr__(self) -> str:
        return f"<Feed {self.server} {', '.join(self._channels)}>"

    def send_over(self, link: FeedLink) -> None:
        """Use *link*, which reports to this feed from now on."""
        self.link = link

    def check_open(self) -> None:
        """Raise `ClientClosed` if the server will not deliver any more events."""
        self.link.check_open()

    # What is wanted.

    def want(self, name: str) -> None:
        """Subscribe to channel *name*, now or when the server is connected."""
        channel = self._channels.get(name)
        if channel is None:
            channel = self._channels[name] = Reconciler(name, self)
        channel.set_wanted(True)

    def unwant(self, name: str) -> None:
        """Unsubscribe from channel *name*. The request is queued; nobody waits for the answer."""
        if (channel := self._channels.get(name)) is not None:
            channel.set_wanted(False)

    def delivers(self, name: str) -> bool:
        """Return whether the server delivers channel *name*."""
        channel = self._channels.get(name)
        return channel is not None and channel.delivers

    def was_asked(self, name: str) -> bool:
        """Return whether the server may have received the request for channel *name*."""
        channel = self._channels.get(name)
        return channel is not None and channel.in_flight is InFlight.WRITTEN

    def missing_since(self, names: tuple[str, ...], last_frame: datetime | None) -> datetime | None:
        """Return the time before which no event of channels *names* is missing (server's clock).

        This is not simply the time of the last frame, because an answer can overtake published
        events (protocol, "Events"). The last event is more reliable. If the last event is long ago,
        the time is `LAG` before the last frame: no event waits longer than that in a server.
        """
        acknowledged = [at for name in names if (at := self._acknowledged_at.get(name)) is not None]
        known = [max(acknowledged)] if acknowledged else []
        keys = ("",) if self.shared else names
        known += [at for key in keys if (at := self._last_event.get(key)) is not None]
        # Answers to requests do not show that an event stream is alive.
        if self.shared and last_frame is not None:
            try:
                known.append(last_frame - LAG)
            except OverflowError:  # the clock is at the first moment of the calendar
                known.append(last_frame)
        return max(known, default=None)

    # What the link reports.

    def on_ready(self) -> None:
        """A new connection is established: subscribe to all wanted channels at once."""
        self.away = False
        for channel in list(self._channels.values()):
            channel.reconcile()

    def on_lost(self, since: datetime | None) -> None:
        """The connection is lost: the server has forgotten everything."""
        self.away = True
        for channel in list(self._channels.values()):
            channel.lose()
        self._owner.on_lost(self, since)
        self._acknowledged_at.clear()
        self._last_event.clear()

    def on_failed(self) -> None:
        """An attempt to connect has failed."""
        self.away = True
        self._owner.on_away(self)

    def on_channel_lost(self, name: str) -> None:
        """A channel's event stream has ended, but not the connection: subscribe to it again."""
        channel = self._channels.get(name)
        if channel is None:
            return
        channel.lose()
        self._owner.on_channel_lost(self, name)
        self._acknowledged_at.pop(name, None)
        self._last_event.pop(name, None)
        channel.reconcile()

    def on_end(self, error: DispatchError | None) -> None:
        """The link has ended; there will be no further connection."""
        self.away = self.ended = True
        self._owner.on_end(self, self.link.why_ended(error))
        self._channels.clear()

    def is_new(self, occurrence: Occurrence) -> bool:
        """Note an event that arrived. Returns whether to deliver it."""
        if self.shared:
            if occurrence.flat and self._copies.is_copy(occurrence):
                return False
            if occurrence.ts is not None:
                self._last_event[""] = occurrence.ts
            return True
        if occurrence.channel not in self._channels:
            return False
        if occurrence.ts is not None:
            self._last_event[occurrence.channel] = occurrence.ts
        return True

    # What its channels report.

    def on_acknowledged(self, name: str, ts: datetime | None) -> None:
        """The server delivers channel *name*."""
        if ts is not None:
            self._acknowledged_at[name] = ts
        self._owner.on_acknowledged(self, name, ts)

    def on_refused(self, name: str, error: Exception) -> None:
        """The server refused channel *name*."""
        self._owner.on_refused(self, name, error)

    def on_forgotten(self, channel: Reconciler) -> None:
        """Nothing is left to do for *channel*."""
        if self._channels.get(channel.name) is channel:
            del self._channels[channel.name]
            self._acknowledged_at.pop(channel.name, None)
            self._last_event.pop(channel.name, None)
