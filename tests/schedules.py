"""How many random schedules a test plays: a few in the suite, thousands in ``nox -s fuzz``.

A schedule is drawn from its seed, which is the name of its test case. The suite plays the same few
each time. ``TRIO_DISPATCH_SCHEDULES=2000`` plays so many, from a fresh seed on, or from
``TRIO_DISPATCH_SEED`` on.
"""

from __future__ import annotations

import os
import secrets
from typing import Final

MANY: Final = int(os.environ.get("TRIO_DISPATCH_SCHEDULES", "0"))

_RUN: Final = os.environ.get("PYTEST_XDIST_TESTRUNUID", secrets.token_hex(4))
"""The same for all workers of one run, which must agree on the names of the cases."""

FIRST: Final = int(os.environ.get("TRIO_DISPATCH_SEED", int(_RUN[:7], 16)))
"""The first seed of a long search; ``TRIO_DISPATCH_SEED`` chooses it."""


def seeds(few: int) -> list[int]:
    """The seeds to play: *few* in the suite."""
    return list(range(FIRST, FIRST + MANY)) if MANY else list(range(few))
