"""Event streams that overlap: when the next one is due, what is new, and which of two is dead.

A stream goes silent after 1,000 events and knows no replay and no keepalive (protocol, "Server-sent
events"), and a proxy may cut one that is idle. So each stream gets a successor in time, and for a
while both run. They bring the same events, as the same text, which gives two things:

- Each event is delivered once, whichever stream is ahead.
- An event that both have brought proves that both are alive, and that the older one has missed
  nothing. Until there is such a proof, the older stream leads: what only the successor has brought
  is held back. If the older one does not bring it in time, it is dead, and has been for an unknown
  time: events are missing. If the successor does not bring what the older one brings, the successor
  is the dead one.

No I/O, and no clock: times are passed in, in seconds.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from enum import Enum
from typing import Final

CREDITS: Final = 1_000
"""Events that a stream brings before it is silent."""

RENEW_AT: Final = 800
"""Events after which the next stream is opened, when they come slowly."""

RENEW_AFTER: Final = 25.0
"""Seconds after which it is opened at the latest: common proxies cut idle streams from 30 s on."""

OPENING_TIME: Final = 0.25
"""Seconds that opening a stream may take before the old one is silent."""

OVERLAP_TIME: Final = 1.0
"""Seconds for which a stream goes on at least when its successor is open."""

GRACE: Final = 5.0
"""Seconds that one stream may be behind the other."""

PROOF_TIME: Final = 20.0
"""Seconds after which a stream is closed although no event has proved anything."""

MAX_HELD: Final = 4 * 1024 * 1024
"""Characters of events that are held back at most."""


def renewal_due(events: int, age: float) -> bool:
    """Whether a stream that brought *events* in *age* seconds needs its successor now.

    The quicker they come, the earlier: what is left of its credits must last while the next one
    is opened.
    """
    if events >= RENEW_AT:
        return True
    pace = events / age if age > 0 else float("inf")
    return events >= CREDITS // 4 and CREDITS - events < pace * OPENING_TIME


class Verdict(Enum):
    """What follows from a comparison."""

    WAIT = "wait"
    """Nothing yet: ask again at `Overlap.next_look`."""
    CHANGE = "change"
    """Go on with the successor."""
    OLD_IS_DEAD = "old is dead"
    """Events may be missing."""
    NEW_IS_DEAD = "new is dead"
    """Go on with the older stream, and open another successor."""


class Overlap:
    """Compares a stream with its successor, from when the successor is being opened."""

    def __init__(self) -> None:
        self._opened_at: float | None = None
        """When the successor was open."""
        self._proved = False
        """Whether both have brought the same event."""
        self._only_old: Counter[bytes] = Counter()
        """What only the older stream has brought; it is delivered."""
        self._only_new: Counter[bytes] = Counter()
        """What only the successor has brought."""
        self._held: list[str] = []
        """The texts of that, in order, until they may be delivered."""
        self._held_size = 0
        self._new_owes_since: float | None = None
        self._old_owes_since: float | None = None

    def opened(self, now: float) -> None:
        """The successor is open."""
        self._opened_at = now

    def old_brought(self, text: str, now: float) -> list[str]:
        """The older stream brought *text*. Returns what is to be delivered."""
        key = key_of(text)
        if take(self._only_new, key):
            self._proved = True
            return self.release()  # this one is among them, or was delivered before
        self._only_old[key] += 1
        if self._opened_at is not None and now >= self._opened_at + OVERLAP_TIME:
            # Earlier ones the successor may have missed before it was in force.
            if self._new_owes_since is None:
                self._new_owes_since = now
        return [text]

    def new_brought(self, text: str, now: float) -> list[str]:
        """The successor brought *text*. Returns what is to be delivered."""
        key = key_of(text)
        if take(self._only_old, key):
            self._proved = True
            return self.release()
        self._only_new[key] += 1
        if self._proved:
            return [text]
        self._held.append(text)
        self._held_size += len(text)
        if self._old_owes_since is None:
            self._old_owes_since = now
        return []

    def release(self) -> list[str]:
        """Take what was held back, to deliver it."""
        texts, self._held = self._held, []
        self._held_size = 0
        return texts

    def judge(self, now: float, *, due: bool = False) -> Verdict:
        """Judge both streams, which have not ended.

        Args:
            now: the time.
            due: whether the successor needs a successor itself.
        """
        assert self._opened_at is not None
        if self._proved:
            late_enough = due or now >= self._opened_at + OVERLAP_TIME
            return Verdict.CHANGE if late_enough else Verdict.WAIT
        if self._old_owes_since is not None:
            if due or self._held_size > MAX_HELD or now >= self._old_owes_since + GRACE:
                return Verdict.OLD_IS_DEAD
        if self._new_owes_since is not None and now >= self._new_owes_since + GRACE:
            return Verdict.NEW_IS_DEAD
        if due or now >= self._opened_at + PROOF_TIME:
            return Verdict.CHANGE if self._old_owes_since is None else Verdict.OLD_IS_DEAD
        return Verdict.WAIT

    def next_look(self) -> float:
        """When time alone may change the verdict."""
        assert self._opened_at is not None
        if self._proved:
            return self._opened_at + OVERLAP_TIME
        owing = [t + GRACE for t in (self._old_owes_since, self._new_owes_since) if t is not None]
        return min([self._opened_at + PROOF_TIME, *owing])

    def old_ended(self, *, broken: bool) -> Verdict:
        """Judge an older stream that has ended, or has used up its credits.

        Args:
            broken: whether its connection broke. Then it may have been dead for some time.
        """
        return Verdict.OLD_IS_DEAD if broken and not self._proved else Verdict.CHANGE

    def new_ended(self) -> Verdict:
        """Judge a successor that has ended. What it alone has brought is lost with it."""
        return Verdict.OLD_IS_DEAD if self._held else Verdict.NEW_IS_DEAD

    def repeats(self, *, by_new: bool) -> Counter[bytes]:
        """What one stream is still to bring of what was delivered already."""
        return self._only_old if by_new else self._only_new


def key_of(text: str) -> bytes:
    """What stands for a text in a comparison."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def take(counter: Counter[bytes], key: bytes) -> bool:
    """Take one of *key* out of *counter*. Returns whether there was one."""
    if key not in counter:
        return False
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
    return True
