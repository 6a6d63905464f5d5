"""When a schedule is due."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Final

from trio_dispatch.server._clock import NS_PER_SECOND

_NAMED: Final = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_EVERY: Final = re.compile(r"@every\s+((?:\d+(?:\.\d+)?(?:ms|h|m|s))+)")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(ms|h|m|s)")
_UNITS_S: Final = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Schedule:
    """Five fields as in crontab, one of the names such as ``@daily``, or ``@every 30s``. In UTC.

    Raises:
        ValueError: the text is none of these, or of a time that never comes.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self._every_ns = _read_every(text)
        self._fields = _NAMED.get(text, text)
        if self._every_ns is None:
            self.next_after(0)

    def next_after(self, now: int) -> int:
        """The first time after *now*, both in nanoseconds since 1970."""
        if self._every_ns is not None:
            return now + self._every_ns
        from cronsim import CronSim, CronSimError

        if len(self._fields.split()) != 5:
            raise ValueError(f"{self.text!r} is no schedule: it has five fields, as in crontab")
        moment = _EPOCH + timedelta(seconds=now // NS_PER_SECOND)
        try:
            found = next(CronSim(self._fields, moment))
        except (CronSimError, StopIteration) as exc:
            raise ValueError(
                f"{self.text!r} is no schedule: {str(exc) or 'it never comes'}"
            ) from None
        return int(found.timestamp()) * NS_PER_SECOND


def _read_every(text: str) -> int | None:
    if not text.startswith("@every"):
        return None
    found = _EVERY.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no schedule: @every needs a time such as 30s, 5m or 1h30m")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(found[1]))
    if seconds < 1:
        raise ValueError(f"{text!r} is no schedule: a second is the shortest")
    return int(seconds * NS_PER_SECOND)
