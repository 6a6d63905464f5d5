"""When to ask the server again, because an event that should report an end may not arrive.

Behind a load balancer a client does not receive most events (protocol, "Several servers on one
store"). So every wait also asks at intervals: often at first, and less often the longer it waits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

FIRST_PAUSE: Final = 0.010
"""Seconds until a wait asks for the second time."""

LEAST_PAUSE: Final = 0.004
"""The fewest seconds between later questions: a job of 20 ms ends late by a fifth at most."""

SHARE_OF_WAIT: Final = 1 / 8
"""The pause before a question as a share of the time waited so far, so a wait ends at most this
much later than its job or run."""

LAST_PAUSE: Final = 5.0
"""The most seconds between questions."""

QUESTIONS_PER_SECOND: Final = 2_000
"""The most questions a second of one wait, not counting questions that an event calls for."""


def next_question(began: float) -> float:
    """Return when a wait that began at *began* asks next (`trio.current_time`)."""
    now = trio.current_time()
    pause = min(max(LEAST_PAUSE, SHARE_OF_WAIT * (now - began)), LAST_PAUSE)
    return max(began + FIRST_PAUSE, now + pause)


class PollSchedule:
    """The times of one wait's questions: 10 ms, then an eighth of the time waited, then 5 s."""

    def __init__(self) -> None:
        self._began = trio.current_time()

    def next_time(self) -> float:
        """The time of the next question (`trio.current_time`)."""
        return next_question(self._began)


class QuestionLimit:
    """Limits how many questions all waits of a client have under way, so that calls get through."""

    LIMIT: Final = 64

    def __init__(self) -> None:
        self._under_way = 0
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()

    def take(self, ring: Callable[[], None]) -> bool:
        """Take a place if one is free; else call *ring* later. Returns whether it was taken."""
        if self._under_way >= self.LIMIT:
            self._waiting[ring] = None
            return False
        self._under_way += 1
        return True

    def give_back(self) -> None:
        """Free the place of a question that is answered or withdrawn."""
        self._under_way -= 1
        self.pass_on()

    def pass_on(self) -> None:
        """Ring the next waiter if a place is free; that waiter then rings the next one."""
        if self._waiting and self._under_way < self.LIMIT:
            ring, _ = self._waiting.popitem(last=False)
            ring()

    def forget(self, ring: Callable[[], None]) -> None:
        """Do not call *ring* any more."""
        self._waiting.pop(ring, None)
        self.pass_on()
