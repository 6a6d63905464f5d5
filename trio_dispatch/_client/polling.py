"""When to ask the server again for something that an event should report, but may not.

Behind a load balancer most events are never heard (protocol, "Several servers on one store"), so
every wait also asks by the clock: often at first, and less often the longer it has waited.
"""

from __future__ import annotations

from typing import Final

import trio

FIRST_PAUSE: Final = 0.010
"""Seconds until the second question."""

SHARE_OF_WAIT: Final = 1 / 8
"""The pause before a question, as a share of the time waited so far: how late a wait may end."""

LAST_PAUSE: Final = 5.0
"""Seconds between questions at most."""

QUESTIONS_PER_SECOND: Final = 2_000
"""By the clock, for one wait for many things: beyond it their pauses grow, up to `LAST_PAUSE`."""


class PollSchedule:
    """The times of one wait's questions: 10 ms, then an eighth of the time waited, then 5 s."""

    def __init__(self) -> None:
        self.started_at = trio.current_time()
        """When the wait began (`trio.current_time`)."""

    def next_time(self, things: int = 1) -> float:
        """The time of the next question (`trio.current_time`).

        Args:
            things: how many this wait asks for, one by one.
        """
        now = trio.current_time()
        pause = max(
            FIRST_PAUSE, SHARE_OF_WAIT * (now - self.started_at), things / QUESTIONS_PER_SECOND
        )
        return now + min(pause, LAST_PAUSE)
