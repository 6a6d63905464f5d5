"""Event streams that overlap: what has been delivered already, and when the next one is due.

A stream goes silent after 1,000 events and knows no replay (protocol, "Server-sent events"), so the
next one is opened while it still runs. From then on both bring the same events, as the same text;
each is delivered once, whichever stream is ahead.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

CREDITS: Final = 1_000
"""Events that a stream brings before it is silent."""

RENEW_AT: Final = 800
"""Events after which the next stream is opened, when they come slowly."""

RENEW_AFTER: Final = 60.0
"""Seconds after which it is opened at the latest; a stream that died in silence is noticed so."""

OPENING_TIME: Final = 0.25
"""Seconds that opening a stream may take before the old one is silent."""


def renewal_due(events: int, age: float) -> bool:
    """Whether a stream that brought *events* in *age* seconds needs its successor now.

    The quicker they come, the earlier: what is left of its credits must last while the next one
    is opened.
    """
    if events >= RENEW_AT:
        return True
    pace = events / age if age > 0 else float("inf")
    return events >= CREDITS // 4 and CREDITS - events < pace * OPENING_TIME


class Overlap:
    """Tells repeats from news while several streams bring the same events.

    An event that really happens twice comes twice over each stream, so what counts is how often a
    stream has brought a text, against how often that was delivered.
    """

    def __init__(self) -> None:
        self._brought: dict[object, Counter[str]] = {}
        self._delivered: Counter[str] = Counter()

    def begin(self, stream: object) -> None:
        """*stream* is being opened: all streams are compared from here on."""
        self._brought[stream] = Counter()

    def end(self, stream: object) -> None:
        """*stream* is over. With one left there is nothing to compare."""
        self._brought.pop(stream, None)
        if len(self._brought) < 2:
            self._delivered.clear()
            for brought in self._brought.values():
                brought.clear()

    def is_new(self, stream: object, text: str) -> bool:
        """Whether *text*, which came over *stream*, is still to be delivered."""
        if len(self._brought) < 2:
            return True
        brought = self._brought[stream]
        brought[text] += 1
        if brought[text] <= self._delivered[text]:
            return False
        self._delivered[text] += 1
        return True
