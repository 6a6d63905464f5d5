"""What ``trio-dispatch serve`` prints while it serves: what one wants to see, a line each."""

from __future__ import annotations

import contextlib
import logging
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Final

from trio_dispatch import Event
from trio_dispatch.cli.lines import clock, event_line
from trio_dispatch.cli.output import line_width, print_line
from trio_dispatch.cli.text import cut, readable

if TYPE_CHECKING:
    from trio_dispatch.server import Cluster, RequestRecord, Server

TOLD_BY_EVENTS: Final = frozenset({"job.enqueue", "workflow.start"})
"""Requests whose success is an event a moment later."""

QUESTIONS: Final = frozenset(
    {"job.get", "workflow.get", "workflow.timeline", "stats", "subscribe", "unsubscribe", "auth"}
)
"""Requests that change nothing; waits make many of them."""


class ActivityLog(logging.Handler):
    """Prints requests, jobs and runs, and failures with their tracebacks.

    Args:
        verbose: print every request, not only those that change something or are refused.
    """

    def __init__(self, *, verbose: bool) -> None:
        super().__init__()
        self._verbose = verbose

    def attach(self, server: Server | Cluster) -> None:
        """Listen to *server*."""
        server.activity.setLevel(logging.INFO)
        server.activity.propagate = False
        server.activity.addHandler(self)
        above = server.activity.parent
        if above is not None and above.name != "root":
            # Failures of functions, with their tracebacks.
            above.addHandler(self)
            above.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Print *record*; where nothing can be printed any more, serving goes on without."""
        with contextlib.suppress(OSError):
            self._print(record)

    def _print(self, record: logging.LogRecord) -> None:
        from trio_dispatch.server import PublishedEvent, RequestRecord

        activity = getattr(record, "activity", None)
        if isinstance(activity, PublishedEvent):
            event = Event(
                type=activity.type, ts=activity.ts, topic=activity.topic, data=activity.data
            )
            print_line(event_line(event, line_width()))
        elif isinstance(activity, RequestRecord):
            if self._wants(activity.method, activity.code):
                self._print_request(record, activity)
        else:
            self._print_failure(record)

    def _wants(self, method: str, code: int) -> bool:
        quiet = TOLD_BY_EVENTS | QUESTIONS
        return self._verbose or code >= 400 or method not in quiet

    def _print_request(self, record: logging.LogRecord, activity: RequestRecord) -> None:
        pieces = [
            clock(datetime.fromtimestamp(record.created, timezone.utc)),
            f"{activity.method:<13}",
            readable(activity.about),
            f"by {readable(activity.subject)}" if activity.subject else "",
            f"{activity.code} {readable(activity.message)}" if activity.message else "",
            f"{1000 * activity.seconds:.1f} ms" if activity.seconds else "",
        ]
        line, width = "  ".join(filter(None, pieces)), line_width()
        print_line(line if width is None else cut(line, width))

    def _print_failure(self, record: logging.LogRecord) -> None:
        created = datetime.fromtimestamp(record.created, timezone.utc)
        print_line(f"{clock(created)}  {record.getMessage()}")
        if record.exc_info:
            for line in logging.Formatter().formatException(record.exc_info).split("\n"):
                print_line(f"    {line}")
