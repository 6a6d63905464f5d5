"""What the registry knows about one subscriber: whether it is complete, and where its gaps are.

A subscriber is *entered* when the servers have confirmed all its channels. After that each loss
opens a gap, which closes when the lost server has confirmed all channels again:

    ============ ======================= ========================== =========================
    subscriber   a server confirms all   a server is lost           a server refuses
    ============ ======================= ========================== =========================
    entering     entered, if the others  goes on waiting, or is     the entry fails
                 have confirmed too,     entered without it if the
                 or are away             others have confirmed
    entered      its gap closes          a gap opens                ends with the error
    over         nothing                 nothing                    nothing
    ============ ======================= ========================== =========================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Protocol

import attrs
import trio

from trio_dispatch._client.feed import Feed
from trio_dispatch._wire.models import Event, StreamGap


class Sink(Protocol):
    """The destination of a subscriber's events, such as a `Mailbox`."""

    def put(self, item: Event, size: int = 0, server: str = "") -> int:
        """Take an event. Returns how many events are lost because of it."""
        ...

    def open_gap(self, since: datetime | None, server: str = "") -> None:
        """Mark that events of *server* are missing from now on."""

    def close_gap(self, until: datetime | None, server: str = "") -> None:
        """Mark that events of *server* are no longer missing."""

    def end(self, error: Exception | None = None) -> None:
        """End the stream: no more events will arrive."""


class CallbackSink:
    """Calls a function with events as they arrive.

    Args:
        on_event: called with every event, and with a `StreamGap` if some may be missing.
    """

    def __init__(self, on_event: Callable[[Event], None]) -> None:
        self._on_event = on_event
        self._gaps: dict[str, datetime | None] = {}

    def put(self, item: Event, size: int = 0, server: str = "") -> int:  # noqa: ARG002
        """Pass *item* on."""
        self._on_event(item)
        return 0

    def open_gap(self, since: datetime | None, server: str = "") -> None:
        """Remember since when events are missing."""
        self._gaps.setdefault(server, since)

    def close_gap(self, until: datetime | None, server: str = "") -> None:
        """Pass a gap on, if there was one."""
        if server in self._gaps:
            since = self._gaps.pop(server)
            self._on_event(StreamGap(since=since, until=until, server=server))

    def end(self, error: Exception | None = None) -> None:
        """Do nothing: `Subscriber.error` is the reason."""


@attrs.define(eq=False)
class _Share:
    """The state of a subscriber on one feed."""

    unconfirmed: set[str] = attrs.field(factory=set[str])
    """The server's channels that are not delivered, or not again."""
    gap: bool = False
    confirmed_at: datetime | None = None
    """When the server last confirmed a channel, by its clock."""


class Subscriber:
    """A receiver of the events of some channels.

    Args:
        channels: what it wants, as users name it.
        sink: where its events go.
        complete: whether it is in vain if one of several servers cannot be heard for good.
    """

    def __init__(self, channels: Iterable[str], sink: Sink, *, complete: bool = True) -> None:
        self.channels = tuple(channels)
        self.complete = complete
        self.sources: tuple[str, ...] = ()
        """The server's channels that include their events."""
        self.sink = sink
        self.put = sink.put
        """The sink's own method, because there are many events."""
        self.entered = False
        """Whether the servers have ever confirmed all its channels."""
        self.settled = trio.Event()
        """Set when it is entered, or when it never will be."""
        self.error: Exception | None = None
        """The reason why no more events will arrive."""
        self._shares: dict[Feed, _Share] = {}

    @property
    def confirmed(self) -> bool:
        """Whether all its events arrive now."""
        if not self.entered or self.error is not None:
            return False
        return not any(share.unconfirmed for share in self._shares.values())

    def unconfirmed(self) -> list[tuple[Feed, str]]:
        """Return the channels that it waits for."""
        return [(feed, name) for feed, share in self._shares.items() for name in share.unconfirmed]

    # Reports of the registry. Each may end the wait.

    def begin(self, feeds: Iterable[Feed]) -> None:
        """Its channels have been asked for on all *feeds*."""
        for feed in feeds:
            missing = {name for name in self.sources if not feed.delivers(name)}
            self._shares[feed] = _Share(missing)
        self._look()

    def confirm(self, feed: Feed, name: str, ts: datetime | None) -> None:
        """The server of *feed* delivers channel *name*."""
        share = self._shares[feed]
        share.unconfirmed.discard(name)
        share.confirmed_at = ts
        self._look()

    def lose(self, feed: Feed, names: Iterable[str], last_frame: datetime | None = None) -> None:
        """The server of *feed* has stopped delivering channels *names*."""
        share = self._shares[feed]
        share.unconfirmed.update(names)
        if self.entered:
            share.gap = True
            self.sink.open_gap(feed.missing_since(self.sources, last_frame), feed.server)
        self._look()

    def narrow(self, sources: tuple[str, ...]) -> None:
        """It needs fewer of the server's channels than before."""
        self.sources = sources
        for share in self._shares.values():
            share.unconfirmed.intersection_update(sources)
        if sources:
            self._look()

    def look_again(self) -> None:
        """A feed's server turned out to be unreachable."""
        self._look()

    def fail(self, error: Exception) -> None:
        """End the stream: no more events will arrive."""
        if self.error is None:
            self.error = error
            self.settled.set()
            self.sink.end(error)

    def _look(self) -> None:
        if self.error is not None:
            return
        if not self.entered:
            self._enter_if_possible()
            return
        for feed, share in self._shares.items():
            if share.gap and not share.unconfirmed:
                share.gap = False
                self.sink.close_gap(share.confirmed_at, feed.server)

    def _enter_if_possible(self) -> None:
        waited_for = [feed for feed, share in self._shares.items() if share.unconfirmed]
        if len(waited_for) == len(self._shares) or not all(feed.away for feed in waited_for):
            return
        self.entered = True
        for feed in waited_for:
            # It is missing from the start, so the time before is unknown.
            self._shares[feed].gap = True
            self.sink.open_gap(None, feed.server)
        self.settled.set()
