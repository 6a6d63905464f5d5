"""How many random schedules a test plays: a few in the suite, thousands in ``nox -s fuzz``.

A schedule is drawn from its seed, which is the name of its test case. The suite plays the same few
each time, and a fresh one. ``TRIO_DISPATCH_SCHEDULES=2000`` plays so many, from a fresh seed on, or
from ``TRIO_DISPATCH_SEED`` on.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

MANY: Final = int(os.environ.get("TRIO_DISPATCH_SCHEDULES", "0"))
FRESH: Final = int(os.environ.get("TRIO_DISPATCH_SEED", secrets.randbelow(2**31)))
"""A seed that nobody has tried; ``TRIO_DISPATCH_SEED`` chooses it."""


def seeds(few: int) -> list[int]:
    """The seeds to play: *few* in the suite."""
    return list(range(FRESH, FRESH + MANY)) if MANY else [*range(few - 1), FRESH]
