"""Spans and metrics of a client, for OpenTelemetry. Needs the extra ``opentelemetry``."""

from __future__ import annotations

from weakref import WeakKeyDictionary

from trio_dispatch._transport.extras import require

require(__name__, "opentelemetry", "opentelemetry")

from opentelemetry import metrics, trace
from opentelemetry.trace import Span, SpanKind, Status, StatusCode

from trio_dispatch import __version__
from trio_dispatch._link.events import Connected, ConnectionEvent
from trio_dispatch._link.instruments import Instrument, RequestRecord
from trio_dispatch._wire.models import Event

__all__ = ["OpenTelemetryInstrument"]


class OpenTelemetryInstrument(Instrument):
    """Makes a span for each request, and counts requests, connections and events.

    Spans have the name of the method (``job.enqueue``) and the kind client. Each is a child of the
    span that is current when the request is made. If a request fails or is cancelled, the status of
    its span is error.

    Metrics: ``dispatch.client.request.duration`` (seconds, by method and outcome),
    ``dispatch.client.connections`` (how many times connected), ``dispatch.client.events`` (by
    type), ``dispatch.client.events.dropped``.

    Args:
        tracer_provider: the tracer provider (default: the global one).
        meter_provider: the meter provider (default: the global one).
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("trio_dispatch", __version__, tracer_provider)
        meter = metrics.get_meter("trio_dispatch", __version__, meter_provider)
        self._durations = meter.create_histogram(
            "dispatch.client.request.duration", "s", "From the call to the answer."
        )
        self._connections = meter.create_counter(
            "dispatch.client.connections", "{connection}", "Connections established."
        )
        self._events = meter.create_counter(
            "dispatch.client.events", "{event}", "Events that subscriptions matched."
        )
        self._dropped = meter.create_counter(
            "dispatch.client.events.dropped",
            "{event}",
            "Events lost because a subscription was full.",
        )
        self._spans: WeakKeyDictionary[RequestRecord, Span] = WeakKeyDictionary()

    def connection(self, event: ConnectionEvent) -> None:
        """Count a connection."""
        if isinstance(event, Connected):
            self._connections.add(1)

    def request_started(self, record: RequestRecord) -> None:
        """Begin a span."""
        self._spans[record] = self._tracer.start_span(
            record.method or "frame",
            kind=SpanKind.CLIENT,
            attributes={"rpc.system": "dispatch", "rpc.method": record.method},
        )

    def request_finished(self, record: RequestRecord) -> None:
        """End its span, and count its duration."""
        outcome = record.outcome or ""
        attributes = {"rpc.method": record.method, "outcome": outcome}
        self._durations.record(record.seconds or 0.0, attributes)
        span = self._spans.pop(record, None)
        if span is None:
            return
        if outcome != "answered":
            error = record.error
            if error is not None:
                span.set_attribute("error.type", type(error).__name__)
            span.set_attribute("dispatch.maybe_delivered", record.maybe_delivered)
            span.set_status(Status(StatusCode.ERROR, str(error) if error else outcome))
        span.end()

    def event(self, event: Event, receivers: int) -> None:  # noqa: ARG002
        """Count an event."""
        self._events.add(1, {"type": event.type})

    def dropped(self, channels: tuple[str, ...], count: int) -> None:
        """Count lost events."""
        self._dropped.add(count, {"channels": ",".join(channels)})
