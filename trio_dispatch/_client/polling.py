"""When to ask the server again for something that an event should report, but may not.

Behind a load balancer most events are never heard (protocol, "Several servers on one store"), so
every wait also asks by the clock: often at first, and less often the longer it has waited.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import trio

FIRST_PAUSE: Final = 0.010
"""Seconds until the second question."""

SHARE_OF_WAIT: Final = 1 / 8
"""The pause before a question, as a share of the time waited so far: how late a wait may end."""

LAST_PAUSE: Final = 5.0
"""Seconds between questions at most."""

QUESTIONS_PER_SECOND: Final = 2_000
"""Of one wait, without an event that calls for them, and answered "not yet"."""


def next_question(began: float) -> float:
    """The time of the next question of a wait that began at *began* (`trio.current_time`)."""
    now = trio.current_time()
    return now + min(max(FIRST_PAUSE, SHARE_OF_WAIT * (now - began)), LAST_PAUSE)


class PollSchedule:
    """The times of one wait's questions: 10 ms, then an eighth of the time waited, then 5 s."""

    def __init__(self) -> None:
        self._began = trio.current_time()

    def next_time(self) -> float:
        """The time of the next question (`trio.current_time`)."""
        return next_question(self._began)


class QuestionLimit:
    """How many questions all of a client's waits may have under way, so that calls get through."""

    LIMIT: Final = 64

    def __init__(self) -> None:
        self._under_way = 0
        self._waiting: OrderedDict[Callable[[], None], None] = OrderedDict()

    def take(self, ring: Callable[[], None]) -> bool:
        """Take a place, or have *ring* called when one is free. Returns whether it was taken."""
        if self._under_way >= self.LIMIT:
            self._waiting[ring] = None
            return False
        self._under_way += 1
        return True

    def give_back(self) -> None:
        """A question is answered, or nobody waits for its answer any more."""
        self._under_way -= 1
        self.pass_on()

    def pass_on(self) -> None:
        """Ring the next that waits if there is a place; whoever is rung passes on in turn."""
        if self._waiting and self._under_way < self.LIMIT:
            ring, _ = self._waiting.popitem(last=False)
            ring()

    def forget(self, ring: Callable[[], None]) -> None:
        """Do not call *ring* any more."""
        self._waiting.pop(ring, None)
        self.pass_on()
