"""The rooms that wait for nothing: ids, stamps, scopes, broker, store, frames."""

from __future__ import annotations

import random
from contextlib import suppress
from datetime import datetime, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._wire.codecs import UndecodableFrame
from trio_dispatch.server import Identity, PublishedEvent
from trio_dispatch.server._awaited_events import AwaitedEvents, EventRow, Waiter
from trio_dispatch.server._broker import (
    INITIAL_CREDITS,
    Broker,
    InvalidTopic,
    Subscriber,
    check_topic,
)
from trio_dispatch.server._clock import Clock, frame_id, rfc3339, rfc3339_seconds, to_datetime
from trio_dispatch.server._framing import BrokenFrame, FrameBuffer
from trio_dispatch.server._identity import scope_of
from trio_dispatch.server._ids import InvalidId, check_id, make_id
from trio_dispatch.server._quirks import RECORDED, Quirks
from trio_dispatch.server._store import JobRow, Store
from trio_dispatch.server._wire import decode_json

NS = 1_000_000_000
WHEN = 1_795_219_245 * NS


# Stamps

BUFFER = RECORDED.event_buffer or 0


def test_stamps_follow_the_clock_and_are_never_equal() -> None:
    now = 5.0
    clock = Clock(lambda: now, start_ns=WHEN)
    first, second = clock.now(), clock.now()
    now = 6.5
    assert (first, second) == (WHEN, WHEN + 1)
    assert clock.now() == WHEN + 3 * NS // 2


def test_stamps_are_written_as_go_writes_them() -> None:
    assert rfc3339(WHEN) == "2026-11-21T00:00:45Z"
    assert rfc3339(WHEN + 120_000_000) == "2026-11-21T00:00:45.12Z"
    assert rfc3339(WHEN + 1) == "2026-11-21T00:00:45.000000001Z"
    assert rfc3339_seconds(WHEN + NS - 1) == "2026-11-21T00:00:45Z"
    assert frame_id(WHEN + 489436791) == "20261121000045.489436791"
    assert to_datetime(WHEN + 1500) == datetime(2026, 11, 21, 0, 0, 45, 1, timezone.utc)


# Ids


@given(seed=st.integers(), ms=st.integers(0, 2**48 - 1))
def test_an_id_that_was_made_is_valid(seed: int, ms: int) -> None:
    made = make_id("wfrun", ms * 1_000_000, random.Random(seed))
    assert check_id(made, "wfrun") == made
    with pytest.raises(InvalidId, match='expected prefix "job", got "wfrun"'):
        check_id(made, "job")


def test_ids_sort_by_the_time_they_were_made() -> None:
    rng = random.Random(1)
    made = [make_id("job", ms * 1_000_000, rng) for ms in range(0, 2**40, 2**36)]
    assert made == sorted(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", 'id: parse "": empty string'),
        ("nope", 'id: parse "nope": typeid: suffix length must be 26, got 4'),
        ("job_x", 'id: parse "job_x": typeid: suffix length must be 26, got 1'),
        ("wfrun_01h2xcejqtf2nbrexx3vqjhp41", 'id: expected prefix "job", got "wfrun"'),
        ("01h2xcejqtf2nbrexx3vqjhp41", 'id: expected prefix "job", got ""'),
    ],
)
def test_a_wrong_id_is_refused_in_the_recorded_words(text: str, message: str) -> None:
    with pytest.raises(InvalidId) as caught:
        check_id(text, "job")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    [
        "job_81h2xcejqtf2nbrexx3vqjhp41",
        "job_01h2xcejqtf2nbrexx3vqjhpu1",
        "job_01H2XCEJQTF2NBREXX3VQJHP41",
        "_01h2xcejqtf2nbrexx3vqjhp41",
    ],
)
def test_an_id_of_wrong_characters_is_refused(text: str) -> None:
    with pytest.raises(InvalidId):
        check_id(text, "job")


# Scopes


def test_scopes_are_those_of_the_protocol() -> None:
    assert scope_of("auth") is None
    assert scope_of("") == "admin"
    assert scope_of("stats") == "stats:read"
    assert scope_of("workflow.timeline") == "workflow:read"
    assert scope_of("job.whatever") == "job:write"
    assert scope_of("dlq.purge") == "dlq:write"
    assert scope_of("federation.heartbeat") == "admin"
    assert scope_of("bogus") == "admin"


def test_the_star_allows_everything_and_admin_only_itself() -> None:
    assert Identity(scopes={"*"}).allows("job:read")
    assert Identity(scopes=["admin"]).allows("admin")
    assert not Identity(scopes=["admin"]).allows("job:read")
    assert not Identity().allows("job:read")


def test_one_string_is_no_collection_of_scopes() -> None:
    with pytest.raises(TypeError, match="collection"):
        Identity(scopes="*")


# Broker


def event(topic: str = "job:j") -> PublishedEvent:
    return PublishedEvent("job.started", topic, {}, 1)


def subscriber(broker: Broker, *topics: str) -> tuple[Subscriber, list[PublishedEvent]]:
    got: list[PublishedEvent] = []
    made = Subscriber(got.append)
    broker.attach(made)
    for topic in topics:
        broker.subscribe(made, topic)
    return made, got


def test_a_subscriber_gets_an_event_once_however_many_channels_match() -> None:
    broker = Broker()
    _, got = subscriber(broker, "jobs", "firehose", "job:j", "queue:default")
    broker.publish(event())
    assert len(got) == 1
    assert broker.deliveries == 1


def test_a_queue_channel_never_delivers() -> None:
    broker = Broker()
    _, got = subscriber(broker, "queue:default")
    broker.publish(event())
    assert got == []


def test_an_event_of_another_entity_is_not_delivered() -> None:
    broker = Broker()
    _, got = subscriber(broker, "workflows", "job:other")
    broker.publish(event())
    assert got == []


def test_credits_are_spent_and_then_events_are_dropped() -> None:
    broker = Broker()
    made, got = subscriber(broker, "jobs")
    for _ in range(INITIAL_CREDITS + 5):
        broker.publish(event())
        made.unsent = 0
    assert len(got) == INITIAL_CREDITS
    made.credits += 1
    broker.publish(event())
    broker.publish(event())
    assert len(got) == INITIAL_CREDITS + 1
    assert broker.dropped == made.dropped == 6


def test_unsent_events_beyond_the_buffer_are_dropped_and_cost_no_credit() -> None:
    broker = Broker()
    made, got = subscriber(broker, "jobs")
    for _ in range(BUFFER + 10):
        broker.publish(event())
    assert len(got) == BUFFER
    assert made.credits == INITIAL_CREDITS - BUFFER
    made.sent()
    broker.publish(event())
    assert len(got) == BUFFER + 1


def test_detaching_takes_the_topics_along() -> None:
    broker = Broker()
    first, _ = subscriber(broker, "jobs", "firehose")
    second, _ = subscriber(broker, "jobs")
    assert (broker.topic_count, broker.subscriber_count) == (2, 2)
    broker.detach(first)
    assert (broker.topic_count, broker.subscriber_count) == (1, 1)
    broker.unsubscribe(second, "never")
    broker.unsubscribe(second, "jobs")
    assert (broker.topic_count, broker.subscriber_count) == (0, 1)


@pytest.mark.parametrize("channel", ["", "cron", "job:", ":x", "bad channel"])
def test_a_channel_without_form_is_invalid(channel: str) -> None:
    with pytest.raises(InvalidTopic) as caught:
        check_topic(channel)
    assert str(caught.value) == f'stream: invalid topic "{channel}"'


def test_a_channel_of_an_unknown_entity_is_refused() -> None:
    with pytest.raises(InvalidTopic) as caught:
        check_topic("cron:x")
    assert str(caught.value) == 'stream: unknown topic entity type "cron"'


# Store


def job(name: str, *, run_at: int = 0, priority: int = 0, queue: str = "default") -> JobRow:
    return JobRow(
        id=name,
        name=name,
        queue=queue,
        payload=None,
        priority=priority,
        max_retries=1,
        timeout_ns=1,
        scope_app_id="",
        scope_org_id="",
        run_at=run_at,
        created_at=run_at,
        updated_at=run_at,
    )


def claimed(store: Store, now: int) -> list[str]:
    names: list[str] = []
    while (row := store.claim(now)) is not None:
        names.append(row.name)
    return names


def test_jobs_are_claimed_by_priority_then_by_age() -> None:
    store = Store()
    for row in (job("a"), job("b", run_at=1), job("urgent", run_at=2, priority=9)):
        store.add_job(row)
    assert claimed(store, 5) == ["urgent", "a", "b"]


def test_a_job_is_not_claimed_before_it_is_due_nor_twice() -> None:
    store = Store()
    store.add_job(job("later", run_at=10))
    assert claimed(store, 9) == []
    assert store.next_due() == 10
    assert claimed(store, 10) == ["later"]
    assert claimed(store, 99) == []
    assert store.next_due() is None


def test_a_cancelled_job_is_never_claimed() -> None:
    store = Store()
    row = job("a", run_at=10)
    store.add_job(row)
    store.cancel_job(row, 5)
    assert store.next_due() is None
    assert claimed(store, 99) == []


def test_jobs_of_queues_that_nobody_takes_stay_pending() -> None:
    store = Store(frozenset({"email"}))
    store.add_job(job("a", queue="other"))
    store.add_job(job("b", queue="email"))
    assert claimed(store, 99) == ["b"]
    assert store.jobs["a"].state == "pending"


def test_a_retry_waits_its_turn_and_the_last_failure_is_final() -> None:
    store = Store()
    row = job("a")
    store.add_job(row)
    store.claim(1)
    assert store.fail_job(row, "boom", 2, delay_ns=10)
    assert (row.state, row.run_at, row.last_error) == ("retrying", 12, "boom")
    assert claimed(store, 11) == []
    assert claimed(store, 12) == ["a"]
    assert not store.fail_job(row, "boom", 20, delay_ns=10)
    assert (row.state, row.retry_count, row.completed_at) == ("failed", 2, None)


def workflow_event(ident: str) -> EventRow:
    return EventRow(
        id=ident, name="e", payload=None, scope_app_id="", scope_org_id="", created_at=0
    )


def test_an_event_is_kept_until_a_wait_takes_it_and_taken_once() -> None:
    awaited = AwaitedEvents(quirks=Quirks(events_in_order=True))
    awaited.post(workflow_event("1"))
    awaited.post(workflow_event("2"))
    notified: list[str] = []
    waiters = [Waiter("run", ["e"], lambda: notified.append("x")) for _ in range(3)]
    for waiter in waiters:
        awaited.wait(waiter)
    assert [w.event.id if w.event else None for w in waiters] == ["1", "2", None]
    awaited.withdraw(waiters[2])
    awaited.post(workflow_event("3"))
    assert [kept.id for kept in awaited.kept()] == ["3"]
    assert notified == ["x", "x"]


# Frames


@pytest.mark.parametrize(
    "ts",
    [
        "yesterday",
        "2026-01-02",
        "2026-01-02T03:04:05",
        "2026-01-02t03:04:05Z",
        "2026-01-02T03:04:05z",
        "2026-01-02T03:04:05.Z",
        "2026-13-02T03:04:05Z",
        "2026-01-02 03:04:05Z",
    ],
)
def test_a_ts_that_is_not_rfc3339_makes_no_frame(ts: str) -> None:
    with pytest.raises(UndecodableFrame, match="parsing time"):
        decode_json(msgspec.json.encode({"id": "x", "ts": ts}))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_frame_or_undecodable(payload: bytes) -> None:
    with suppress(UndecodableFrame):
        decode_json(payload)


def masked(first: int, length: int, payload: bytes = b"") -> bytes:
    if length < 126:
        header = bytes([first, 0x80 | length])
    elif length < 65536:
        header = bytes([first, 0x80 | 126]) + length.to_bytes(2, "big")
    else:
        header = bytes([first, 0x80 | 127]) + length.to_bytes(8, "big")
    return header + b"\0\0\0\0" + payload


@given(
    lengths=st.lists(st.sampled_from([0, 1, 125, 126, 300, 65535, 65536, 70000]), max_size=4),
    cuts=st.lists(st.integers(1, 5000), min_size=1, max_size=20),
)
def test_frames_are_cut_the_same_however_the_bytes_arrive(
    lengths: list[int], cuts: list[int]
) -> None:
    frames = [masked(0x82, length, b"x" * length) for length in lengths]
    stream = b"".join(frames)
    buffer = FrameBuffer(100_000)
    got: list[bytes] = []
    index = 0
    while stream:
        cut = cuts[index % len(cuts)] * 7
        index += 1
        buffer.feed(stream[:cut])
        stream = stream[cut:]
        while (frame := buffer.next_frame()) is not None:
            got.append(frame)
    assert got == frames
    assert len(buffer) == 0


def test_of_a_frame_that_is_too_long_only_the_header_is_waited_for() -> None:
    buffer = FrameBuffer(1000)
    buffer.feed(masked(0x82, 2**40)[:10])
    assert buffer.next_frame() == masked(0x82, 2**40)[:10]


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\x00",  # unmasked
        b"\xc1\x80",  # a reserved bit
        b"\x83\x80",  # a reserved opcode
        b"\x09\x80",  # a fragmented ping
        b"\x89\xfe",  # a ping of more than 125 bytes
    ],
)
def test_a_broken_frame_is_refused_by_its_header(data: bytes) -> None:
    buffer = FrameBuffer(1000)
    buffer.feed(data)
    with pytest.raises(BrokenFrame):
        buffer.next_frame()
