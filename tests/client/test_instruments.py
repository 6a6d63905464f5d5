"""Instruments: told of everything, once, and harmless."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.client.support import EITHER_LIBRARY, make_server, open_memory_client
from trio_dispatch import (
    Connected,
    ConnectionEvent,
    Disconnected,
    EnqueueRequest,
    Event,
    Instrument,
    NotFound,
    RequestRecord,
    SubscriptionOverflow,
    open_client,
)
from trio_dispatch.opentelemetry import OpenTelemetryInstrument

pytestmark = pytest.mark.wires(*EITHER_LIBRARY, "http")
NO_JOB = f"job_{0:026}"


class Recorder(Instrument):
    def __init__(self) -> None:
        self.connections: list[ConnectionEvent] = []
        self.started: list[RequestRecord] = []
        self.finished: list[RequestRecord] = []
        self.events: list[tuple[str, int]] = []
        self.lost: list[tuple[tuple[str, ...], int]] = []

    def connection(self, event: ConnectionEvent) -> None:
        self.connections.append(event)

    def request_started(self, record: RequestRecord) -> None:
        assert record.seconds is None
        self.started.append(record)

    def request_finished(self, record: RequestRecord) -> None:
        self.finished.append(record)

    def event(self, event: Event, receivers: int) -> None:
        self.events.append((event.type, receivers))

    def dropped(self, channels: tuple[str, ...], count: int) -> None:
        self.lost.append((channels, count))


async def test_every_request_is_told_with_its_outcome(autojump_clock: object) -> None:
    server, recorder = make_server(), Recorder()
    async with open_memory_client(server, instruments=[recorder]) as client:
        await client.enqueue("noop")
        with pytest.raises(NotFound):
            await client.get_job(NO_JOB)
        await client.enqueue_many([EnqueueRequest("noop")] * 3)
        with server.delay("stats", 2), trio.move_on_after(1):
            await client.stats()
        await trio.sleep(5)
    told = [(record.method, record.outcome) for record in recorder.finished]
    assert told == [
        ("job.enqueue", "answered"),
        ("job.get", "failed"),
        *[("job.enqueue", "answered")] * 3,
        ("stats", "cancelled"),
    ]
    assert {*map(id, recorder.started)} == {*map(id, recorder.finished)}
    failed, cancelled = recorder.finished[1], recorder.finished[-1]
    assert isinstance(failed.error, NotFound)
    assert cancelled.seconds == pytest.approx(1)
    assert cancelled.maybe_delivered
    assert isinstance(recorder.connections[0], Connected)
    assert isinstance(recorder.connections[-1], Disconnected)


async def test_events_and_what_is_lost_of_them_are_told(autojump_clock: object) -> None:
    server, recorder = make_server(), Recorder()
    async with open_memory_client(server, instruments=[recorder]) as client:
        async with client.subscribe("jobs", buffer=2) as few, client.subscribe("jobs") as many:
            job = await client.enqueue("noop")
            await job.wait()
            await trio.sleep(1)
            stored = many.statistics().stored
            assert stored >= 3
            for _ in range(2):
                await few.receive()
            with pytest.raises(SubscriptionOverflow) as caught:
                await few.receive()
    assert (("jobs",), 1) in recorder.lost
    assert sum(count for _, count in recorder.lost) == caught.value.missed
    assert "job.completed" in {type for type, _ in recorder.events}


async def test_one_that_raises_is_logged_and_asked_no_more(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Instrument):
        calls = 0

        def request_started(self, record: RequestRecord) -> None:
            self.calls += 1
            raise ZeroDivisionError

    broken, recorder = Broken(), Recorder()
    with caplog.at_level(logging.ERROR):
        async with open_memory_client(make_server(), instruments=[broken, recorder]) as client:
            for _ in range(3):
                await client.stats()
    assert broken.calls == 1
    assert len(recorder.finished) == 3
    assert "an instrument failed, and is asked no more" in caplog.text


def test_what_is_no_instrument_is_refused() -> None:
    with pytest.raises(TypeError, match="an instrument is an Instrument, not str"):
        open_client("ws://localhost/dwp", instruments=["x"])  # type: ignore[list-item]


def figures(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    assert data is not None
    (scope,) = data.resource_metrics[0].scope_metrics
    return {metric.name: metric.data.data_points for metric in scope.metrics}


async def test_opentelemetry_gets_spans_and_metrics(autojump_clock: object) -> None:
    spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(spans))
    instrument = OpenTelemetryInstrument(tracers, MeterProvider([reader]))
    tracer = tracers.get_tracer("test")
    async with open_memory_client(make_server(), instruments=[instrument]) as client:
        async with client.subscribe("jobs", buffer=1):
            with tracer.start_as_current_span("outer") as outer:
                job = await client.enqueue("noop")
                with pytest.raises(NotFound):
                    await client.get_job(NO_JOB)
            await job.wait()
    by_name = {span.name: span for span in spans.get_finished_spans()}
    enqueue, get = by_name["job.enqueue"], by_name["job.get"]
    assert enqueue.parent is not None
    assert enqueue.parent.span_id == outer.get_span_context().span_id
    assert enqueue.status.is_unset or enqueue.status.is_ok
    failed = [s for s in spans.get_finished_spans() if s.name == "job.get" and not s.status.is_ok]
    assert get.attributes is not None
    assert any("404" in (s.status.description or "") for s in failed)
    metrics = figures(reader)
    assert metrics["dispatch.client.connections"][0].value == 1
    assert sum(point.value for point in metrics["dispatch.client.events"]) >= 3
    assert sum(point.value for point in metrics["dispatch.client.events.dropped"]) >= 1
    counts = {
        (point.attributes["rpc.method"], point.attributes["outcome"]): point.count
        for point in metrics["dispatch.client.request.duration"]
    }
    assert counts["job.enqueue", "answered"] == 1
    assert counts["job.get", "failed"] == 1


@pytest.mark.wires(*EITHER_LIBRARY)
async def test_whatever_was_started_has_ended_when_the_client_has(autojump_clock: object) -> None:
    server, recorder = make_server(), Recorder()
    async with open_memory_client(server, instruments=[recorder]) as client:
        with server.freeze():
            for n in range(300):  # more than are written at once; given up, written or not
                with trio.move_on_after(0.01):
                    async with client.subscribe(f"job:{n}"):
                        pass
            with trio.move_on_after(0.01):
                await client.stats()
        async with client.subscribe("jobs"):
            server.drop_connections()  # what waits to be written then is not sent any more
            for n in range(300):
                with trio.move_on_after(0.01):
                    async with client.subscribe(f"job:{n}"):
                        pass
            await trio.sleep(20)
            server.drop_connections()
    assert len(recorder.started) > 300
    assert [id(r) for r in recorder.started if r.seconds is None] == []
    assert sorted(map(id, recorder.finished)) == sorted(map(id, recorder.started))
