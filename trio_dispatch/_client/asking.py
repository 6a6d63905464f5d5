"""When to ask again for something that events should tell, but may not."""

from __future__ import annotations

import random
from typing import Final

import trio

FIRST_PAUSE: Final = 1.0
"""Seconds until the second asking; each pause is twice the one before."""

LAST_PAUSE: Final = 30.0


class Asking:
    """Pauses that double from a second to half a minute, with jitter."""

    def __init__(self) -> None:
        self._pause = FIRST_PAUSE

    def next_time(self) -> float:
        """The time of the next asking (`trio.current_time`); the pause after that is longer."""
        pause = random.uniform(0.75, 1.0) * self._pause
        self._pause = min(2 * self._pause, LAST_PAUSE)
        return trio.current_time() + pause
