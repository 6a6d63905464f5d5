"""Work that is shared out among the supported Pythons, which together do all of it.

The tests of the lower layers run on every Python. Of all others, each case runs on one: `nox -s
tests` says in ``TRIO_DISPATCH_SHARE`` which share (``2/4``: the second of four) a session takes.
Without that, as for ``pytest`` alone, a session takes everything.

``TRIO_DISPATCH_ALL=1`` plays the long forms: all commands in all surroundings, thousands of calls.
"""

from __future__ import annotations

import os
import zlib
from typing import Final

EVERYTHING: Final = bool(os.environ.get("TRIO_DISPATCH_ALL"))

_share, _shares = os.environ.get("TRIO_DISPATCH_SHARE", "1/1").split("/")
SHARES: Final = int(_shares)
SHARE: Final = int(_share) - 1

STEP: Final = min(SHARES, 2)
FIRST: Final = SHARE % STEP
"""Of long rows of cases inside one test, each Python takes every second."""

ON_EVERY_PYTHON: Final = (
    "tests/wire/",
    "tests/transport/",
    "tests/link/test_",
    "tests/test_api.py",
)


def is_ours(case: str) -> bool:
    """Whether a test case, by its name, belongs to this session's share."""
    if SHARES == 1 or case.startswith(ON_EVERY_PYTHON):
        return True
    return zlib.crc32(case.encode()) % SHARES == SHARE
