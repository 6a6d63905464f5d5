"""What time it is, for those who write and read times of the wire in one process.

Calls carry times of day, and deadlines are moments of trio's clock. Under a virtual clock the two
must advance together, or nothing ever expires, and each signature is from the future.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Final

import trio
import trio.testing

_start: Final = trio.lowlevel.RunVar[tuple[datetime, float]]("trio_dispatch.remote.start")


def now() -> datetime:
    """The time of day, in UTC. Under a `trio.testing.MockClock` it advances with that clock."""
    time = datetime.now(timezone.utc)
    if not isinstance(trio.lowlevel.current_clock(), trio.testing.MockClock):
        return time
    current = trio.current_time()
    try:
        start, first = _start.get()
    except LookupError:
        start, first = time, current
        _start.set((start, first))
    return start + timedelta(seconds=current - first)
