"""Instruments: hooks to measure a client, in the style of `trio.abc.Instrument`.

Without instruments, the only cost is a check of an empty tuple for each request. The hooks are
plain calls from the client's own tasks, so an instrument that blocks also blocks the client. If an
instrument raises, the error is logged, and the instrument is not called again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import attrs
import trio

from trio_dispatch._link.events import ConnectionEvent
from trio_dispatch._link.requests import Request, subject
from trio_dispatch._wire.models import Event


@attrs.define(eq=False, weakref_slot=True)
class RequestRecord:
    """One request. The hooks for its begin and its end get the same object.

    Attributes:
        method: the method, for example ``job.enqueue``.
        started_at: when the call was made (`trio.current_time`).
        seconds: how long it took; None while it is under way.
        outcome: ``answered``, ``failed`` or ``cancelled``, when it has ended.
        error: the error, if it failed.
        maybe_delivered: whether the server may have seen it, when it has ended.
    """

    method: str
    started_at: float
    seconds: float | None = None
    outcome: str | None = None
    error: Exception | None = None
    maybe_delivered: bool = False


class Instrument:
    """A base class for instruments: override the methods that you need.

    The client calls all methods as plain functions. A request that waits for a connection, or that
    is sent once more after a lost connection, counts as one request. Requests on the connections of
    runs are included.
    """

    def connection(self, event: ConnectionEvent) -> None:
        """A connection was made (`Connected`) or lost (`Disconnected`)."""

    def request_started(self, record: RequestRecord) -> None:
        """A request begins. Called in the caller's own task and context."""

    def request_finished(self, record: RequestRecord) -> None:
        """A request has ended: answered, failed or cancelled. Called in any task."""

    def event(self, event: Event, receivers: int) -> None:
        """An event arrived that matches *receivers* subscriptions."""

    def dropped(self, channels: tuple[str, ...], count: int) -> None:
        """A subscription to *channels* was full, and lost *count* events."""


class Instruments:
    """All instruments of one client."""

    def __init__(
        self, instruments: Sequence[Instrument] = (), logger: logging.Logger | None = None
    ) -> None:
        for instrument in instruments:
            if not isinstance(instrument, Instrument):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"an instrument is an Instrument, not {type(instrument).__name__}")
        self._active = tuple(instruments)
        self._log = logger or logging.getLogger("trio_dispatch")

    def __bool__(self) -> bool:
        return bool(self._active)

    def _tell(self, call: Callable[[Instrument], None]) -> None:
        for instrument in self._active:
            try:
                call(instrument)
            except Exception:  # noqa: BLE001, PERF203 - users' code
                self._log.exception("an instrument failed, and is asked no more: %r", instrument)
                self._active = tuple(one for one in self._active if one is not instrument)

    def connection(self, event: ConnectionEvent) -> None:
        """See `Instrument.connection`."""
        self._tell(lambda instrument: instrument.connection(event))

    def watch(self, request: Request) -> None:
        """Report *request* now, and again when it has ended."""
        record = RequestRecord(subject(request), trio.current_time())
        self._tell(lambda instrument: instrument.request_started(record))

        def ended(outcome: str) -> None:
            record.seconds = trio.current_time() - record.started_at
            record.outcome = outcome
            record.error = request.error
            record.maybe_delivered = request.maybe_delivered
            self._tell(lambda instrument: instrument.request_finished(record))

        request.on_end = ended

    def event(self, event: Event, receivers: int) -> None:
        """See `Instrument.event`."""
        self._tell(lambda instrument: instrument.event(event, receivers))

    def dropped(self, channels: tuple[str, ...], count: int) -> None:
        """See `Instrument.dropped`."""
        self._tell(lambda instrument: instrument.dropped(channels, count))
