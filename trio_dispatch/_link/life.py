"""Whether a peer is alive: it answers (design rule 6).

Dead is a peer that shows no sign of life for a timeout after a ping was written, and one that takes
no byte of a write for a timeout, whatever else arrives. Any message is a sign of life. While
nothing is read because nobody has room for it, nobody is judged.
"""

from __future__ import annotations

from typing import Protocol

import trio

from trio_dispatch._link.settings import Heartbeat


class Watched(Protocol):
    """What is asked of a connection."""

    @property
    def ready(self) -> bool:
        """Whether it is established, and not closing."""
        ...

    @property
    def stuck_since(self) -> float | None:
        """Since when a write makes no progress; None when none is stuck."""
        ...

    @property
    def held_up(self) -> bool:
        """Whether nothing is read."""
        ...

    def send_ping(self, *, by_session: bool) -> None:
        """Send a ping ahead of everything else."""

    def on_dead(self, how: str) -> None:
        """The peer is dead."""


class Life:
    """The signs of life of one connection's peer, and who watches for them."""

    def __init__(self, connection: Watched) -> None:
        self._connection = connection
        self.last = 0.0
        """When the last sign of life was seen."""
        self.ping_written_at: float | None = None
        """When the last ping was written; None: it waits to be."""

    async def watch(self, heartbeat: Heartbeat) -> None:
        """Ping a peer that is silent for an interval; give up one that is dead."""
        connection = self._connection
        asked_at: float | None = None
        silent_since = self.last
        while True:
            if self.last != silent_since:
                silent_since, asked_at = self.last, None
            now = trio.current_time()
            if not connection.ready:
                return  # closing, which has a deadline of its own
            if asked_at is None and now >= silent_since + heartbeat.interval:
                asked_at, self.ping_written_at = now, None
                connection.send_ping(by_session=heartbeat.by_session)
            death = self._death(heartbeat, asked_at)
            if death <= now:
                if self._is_held_up() or not await self._is_dead(heartbeat, asked_at, silent_since):
                    continue
                return
            # A ping that is answered at once is followed by the next after an interval.
            pause = (now if asked_at is not None else silent_since) + heartbeat.interval
            # A write that gets stuck meanwhile is noticed after two timeouts at the latest.
            await trio.sleep_until(min(death, pause, now + heartbeat.timeout))

    async def watch_for_silence(self, timeout: float) -> None:
        """Give up a peer that sends nothing for *timeout* seconds."""
        while True:
            await trio.sleep_until(max(self.last + timeout, trio.current_time()))
            if trio.current_time() >= self.last + timeout and not self._is_held_up():
                self._connection.on_dead(f"nothing has arrived for {timeout:g} s")
                return

    def _is_held_up(self) -> bool:
        if self._connection.held_up:
            self.last = trio.current_time()
            return True
        return False

    def _death(self, heartbeat: Heartbeat, asked_at: float | None) -> float:
        """When the peer will be dead, if nothing happens until then."""
        stuck_since = self._connection.stuck_since
        since = float("inf") if stuck_since is None else stuck_since
        if asked_at is not None:
            # The time for an answer runs from when the ping is written. Until then a write is
            # under way, which has as long to advance.
            since = min(since, self.ping_written_at or stuck_since or asked_at)
        return since + heartbeat.timeout

    async def _is_dead(
        self, heartbeat: Heartbeat, asked_at: float | None, silent_since: float
    ) -> bool:
        """Judge a peer whose time is over, and report the verdict."""
        # Its answer may have arrived while this process was not running: let the reader, the
        # writer, and the library under them, have one more turn before judging.
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        if self.last != silent_since:
            asked_at = None
        now = trio.current_time()
        if self._death(heartbeat, asked_at) > now:
            return False
        stuck_since = self._connection.stuck_since
        if stuck_since is not None and stuck_since + heartbeat.timeout <= now:
            self._connection.on_dead(f"a write has made no progress for {now - stuck_since:.3g} s")
        else:
            self._connection.on_dead(f"no sign of life for {now - silent_since:.3g} s")
        return True
