"""Subscriptions: everybody gets what they asked for, once, in order; nothing is lost in silence."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import trio

import trio_dispatch
from tests.client.support import (
    WEBSOCKETS,
    make_server,
    memory_client,
    open_memory_client,
    through,
)
from trio_dispatch import (
    Client,
    Event,
    Frame,
    RequestTimeout,
    Subscription,
    SubscriptionOverflow,
)
from trio_dispatch._client.opening import running
from trio_dispatch._wire.codecs import JSON
from trio_dispatch._wire.frames import WireFrame


async def enqueue_in_parallel(client: Client, count: int, queue: str, tasks: int = 4) -> list[str]:
    """Enqueue *count* jobs, few at a time: a server drops what it cannot send quickly enough."""
    ids: list[str] = []

    async def some(n: int) -> None:
        for _ in range(n):
            ids.append((await client.enqueue("noop", {}, queue=queue)).job_id)

    async with trio.open_nursery() as nursery:
        for task in range(tasks):
            nursery.start_soon(some, (count + task) // tasks)
    return ids


async def read(subscription: Subscription, into: list[Event]) -> None:
    async for event in subscription:
        into.append(event)


@pytest.mark.wires("websockets-json")
async def test_overlapping_subscriptions_get_their_events_once_and_in_order(
    autojump_clock: object,
) -> None:
    server = make_server(queues=["default", "email"])
    channels = {
        "jobs": ("jobs",),
        "firehose": ("firehose",),
        "email": ("queue:email",),
        "both": ("queue:email", "jobs"),
        "workflows": ("workflows",),
    }
    got: dict[str, list[Event]] = {name: [] for name in [*channels, "job"]}
    async with open_memory_client(server) as client:
        known = await client.enqueue("slow", queue="default")
        async with trio.open_nursery() as nursery:
            for name, wanted in channels.items():
                subscription = await nursery.start(enter, client, wanted)
                nursery.start_soon(read, subscription, got[name])
            of_one_job = await nursery.start(enter, client, (f"job:{known.job_id}",))
            nursery.start_soon(read, of_one_job, got["job"])
            async with trio.open_nursery() as enqueuing:
                enqueuing.start_soon(enqueue_in_parallel, client, 3_400, "email")
                enqueuing.start_soon(enqueue_in_parallel, client, 3_400, "default")
            await known.wait()
            await trio.sleep(1)
            (connection,) = server.connections
            assert connection.events_dropped == 0
            assert connection.credits > 500_000
            nursery.cancel_scope.cancel()
    published = [e for e in server.events if e.data["job_id"] != known.job_id]
    assert len(published) > 20_000
    in_email = [e for e in published if e.data.get("queue") == "email"]
    # One connection, one order of arrival: the firehose shows it. A server promises no more.
    arrived = [(e.type, e.topic) for e in got["firehose"]]
    others = [event for event in arrived if known.job_id not in event[1]]
    assert Counter(others) == Counter((e.type, e.topic) for e in published)
    assert [(e.type, e.topic) for e in got["jobs"]] == arrived
    assert [(e.type, e.topic) for e in got["both"]] == arrived
    assert len(got["email"]) == len(in_email)
    assert [(e.type, e.topic) for e in got["email"]] == [
        (e.type, e.topic) for e in got["firehose"] if e.data["queue"] == "email"
    ]
    assert {e.type for e in got["job"]} >= {"job.completed"}
    assert {e.job_id for e in got["job"]} == {known.job_id}
    assert got["workflows"] == []
    assert {e.channels for e in got["jobs"]} == {("jobs",)}
    assert {e.channels for e in got["both"]} == {("jobs",), ("queue:email", "jobs")}


async def enter(
    client: Client,
    channels: tuple[str, ...],
    task_status: trio.TaskStatus[Subscription],
) -> None:
    async with client.subscribe(*channels, buffer=100_000) as subscription:
        task_status.started(subscription)
        await trio.sleep_forever()


@pytest.mark.wires("websockets-json")
async def test_credits_never_run_out_behind_pipelined_requests(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.subscribe("jobs", buffer=100_000) as events:
            await client.enqueue_many(trio_dispatch.EnqueueRequest("noop") for _ in range(10_000))
            await trio.sleep(1)
            (connection,) = server.connections
            assert connection.events_delivered > 20_000  # what fits into the server's buffer
            # 1,000 to begin with, a million granted ahead of the requests, one spent per event.
            assert connection.credits == 1_001_000 - connection.events_delivered
            assert events.statistics().stored == connection.events_delivered
            assert events.dropped == 0


async def test_a_full_subscription_stores_no_more_and_says_how_many_it_missed(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs", buffer=10) as events:
            await enqueue_in_parallel(client, 100, "default")
            await trio.sleep(1)
            stored = [await events.receive() for _ in range(10)]
            assert len(stored) == 10
            with pytest.raises(SubscriptionOverflow, match="290 events") as caught:
                await events.receive()
            assert (caught.value.missed, events.dropped) == (290, 290)
            handle = await client.enqueue("noop")  # reading on gives new events
            assert (await events.receive()).job_id == handle.job_id


async def test_drop_oldest_keeps_the_newest_and_counts(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs", buffer=10, overflow="drop_oldest") as events:
            await enqueue_in_parallel(client, 100, "default", tasks=1)
            await trio.sleep(1)  # jobs start a moment after they were enqueued
            last = await client.enqueue("noop")
            await trio.sleep(1)
            assert events.dropped == 303 - 10
            stored = [events.receive_nowait() for _ in range(10)]
            assert [e.type for e in stored if e.job_id == last.job_id] == [
                "job.enqueued",
                "job.started",
                "job.completed",
            ]


async def test_a_stalled_reader_holds_up_nobody(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with (
            client.subscribe("jobs", buffer=1),
            client.subscribe("jobs", buffer=1_000) as read_well,
        ):
            await enqueue_in_parallel(client, 100, "default")
            await trio.sleep(1)
            assert read_well.statistics().stored == 300


@pytest.mark.wires(*WEBSOCKETS)
async def test_leaving_the_last_subscription_of_a_channel_unsubscribes(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client:

        async def on_server() -> set[str]:
            await client.stats()  # answered after everything that was queued before
            return set(server.connections[0].channels)

        async with client.subscribe("jobs", "queue:email"):
            async with client.subscribe("jobs", "workflows"):
                assert await on_server() == {"jobs", "workflows"}
            assert await on_server() == {"jobs"}
        assert await on_server() == set()


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_channel_left_and_entered_again_at_once_stays(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        for _ in range(50):
            async with client.subscribe("jobs") as events:
                handle = await client.enqueue("noop")
                while (await events.receive()).job_id != handle.job_id:
                    """An event of the job before."""
        async with client.subscribe("workflows") as first:
            pass
        async with client.subscribe("workflows") as second:
            run = await client.start_workflow("order-pipeline")
            assert (await second.receive()).run_id == run.run_id
            await trio.sleep(5)
            with pytest.raises(trio.ClosedResourceError):
                await first.receive()
        await client.stats()
        assert server.connections[0].channels == frozenset()


async def test_leaving_and_coming_back_within_a_round_trip_hangs_nobody(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        for times in (1, 2, 3):
            await client.stats()  # answered after everything that was queued before
            server.delay("subscribe", 0.2)
            for _ in range(times):
                with trio.move_on_after(0.05):
                    async with client.subscribe("jobs"):
                        pytest.fail("the server has not answered yet")
            with trio.fail_after(10):
                async with client.subscribe("jobs") as events:
                    handle = await client.enqueue("noop")
                    while (await events.receive()).job_id != handle.job_id:
                        """An event of the job before."""


async def test_unsubscribing_what_is_not_restored_yet_closes_the_gap(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server, min_reconnect_delay=0.01) as client:
        async with client.subscribe("jobs", "workflows") as events:
            server.delay("subscribe", 5, times=2)
            server.drop_connections()
            await trio.sleep(9)  # "jobs" is restored, and "workflows" not yet
            await events.unsubscribe("workflows")
            handle = await client.enqueue("noop")
            with trio.fail_after(10):
                assert isinstance(await events.receive(), trio_dispatch.StreamGap)
                assert (await events.receive()).job_id == handle.job_id


async def test_a_subscription_that_gives_up_harms_nobody_else(autojump_clock: object) -> None:
    """Over HTTP, while its event stream is being opened."""
    server, slow = make_server(), False

    async def connect(address: object) -> trio.abc.Stream:
        if slow:
            await trio.sleep(1)
        return await server.open_stream()

    async with server.run(), running(through(memory_client(server), connect)) as client:
        for patience in (0, 0.2, 0.5, 1.5):
            slow = True
            with trio.move_on_after(patience):
                async with client.subscribe("jobs"):
                    pass
            slow = False
            await trio.sleep(5)
            async with client.subscribe("jobs") as events:
                handle = await client.enqueue("noop")
                assert (await events.receive()).job_id == handle.job_id


async def test_a_subscription_that_times_out_says_whether_it_was_sent(
    autojump_clock: object,
) -> None:
    server = make_server()
    async with open_memory_client(server, request_timeout=1) as client:
        server.delay("subscribe", 5)
        with pytest.raises(RequestTimeout, match=r"subscribe to jobs.*it was sent") as written:
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        assert written.value.maybe_delivered
        await trio.sleep(10)
        assert client.statistics().wanted_channels == 0


@pytest.mark.wires(*WEBSOCKETS)
async def test_a_subscription_that_was_never_sent_says_so(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server, request_timeout=1, min_reconnect_delay=10) as client:
        server.drop_connections()
        await trio.sleep(1)
        with pytest.raises(RequestTimeout, match="it was never sent") as caught:
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        assert not caught.value.maybe_delivered


async def test_what_one_subscriber_does_to_an_event_no_other_sees(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs") as first, client.subscribe("jobs") as second:
            await client.enqueue("noop")
            one, two = await first.receive(), await second.receive()
            assert one.data == two.data
            one.data.clear()  # type: ignore[attr-defined]
            assert two.data["job_name"] == "noop"


async def test_buffers_are_bounded_by_bytes_too(autojump_clock: object) -> None:
    server = make_server()
    async with open_memory_client(server) as client:
        async with client.subscribe("jobs") as raising:
            async with client.subscribe("jobs", overflow="drop_oldest") as dropping:
                for n in range(5):
                    server.publish(
                        "job.completed", f"job:{n}", {"job_id": str(n), "text": "x" * 4 * 1024**2}
                    )
                    await trio.sleep(1)
                for events in (raising, dropping):
                    statistics = events.statistics()
                    assert statistics.buffer_bytes == 16 * 1024**2
                    assert statistics.stored_bytes <= statistics.buffer_bytes
                    assert statistics.stored == 3
                    assert statistics.dropped == 2
                assert [(await dropping.receive()).job_id for _ in range(3)] == ["2", "3", "4"]
            assert [(await raising.receive()).job_id for _ in range(3)] == ["0", "1", "2"]
            with pytest.raises(SubscriptionOverflow, match="2 events"):
                await raising.receive()


@pytest.mark.wires(*WEBSOCKETS)
async def test_an_odd_event_is_lost_and_counted_and_harms_nothing_else(
    autojump_clock: object,
) -> None:
    odd: list[dict[str, object]] = [
        {"data": []},
        {"data": "text"},
        {"data": 7},
        {"data": {"type": "job.completed", "topic": "job:1", "data": 7}},
    ]
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs", "firehose") as events:
            for fields in odd:
                client._observer.on_push(wire(fields))
            assert client.statistics().undecodable_events == len(odd)
            values: list[object] = ["", None, 7, [], {}]
            for value in values:
                data = {"type": "x", "topic": "job:", "data": {"job_id": value, "run_id": value}}
                client._observer.on_push(wire({"data": data}))
                event = await events.receive()
                assert (event.job_id, event.run_id) == (None, None)
                assert event.channels == ("firehose",)


async def test_after_the_block_reading_is_a_mistake(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with trio.open_nursery() as nursery:
            async with client.subscribe("jobs") as events:

                @nursery.start_soon
                async def reader() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await events.receive()

                await trio.sleep(1)
        with pytest.raises(trio.ClosedResourceError):
            await events.receive()
        with pytest.raises(RuntimeError, match="once"):
            await events.__aenter__()
        with pytest.raises(RuntimeError, match=r"async with client\.subscribe"):
            await client.subscribe("jobs").receive()
        await events.aclose()


async def test_unsubscribing_ends_the_stream_after_what_is_stored(
    autojump_clock: object,
) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs", "workflows") as events:
            await client.enqueue("noop")
            await trio.sleep(1)
            with pytest.raises(ValueError, match="firehose"):
                await events.unsubscribe("firehose")
            await events.unsubscribe("jobs")
            assert events.channels == ("workflows",)
            await client.enqueue("noop")
            await trio.sleep(1)
            await events.unsubscribe()
            assert len([event async for event in events]) == 3


@pytest.mark.parametrize("channel", ["", "cron", "job:", "bad channel", "events:x", "JOBS"])
async def test_channels_that_no_server_has_are_refused_at_once(
    autojump_clock: object, channel: str
) -> None:
    async with open_memory_client(make_server()) as client:
        with pytest.raises(ValueError, match="no server has a channel"):
            client.subscribe("jobs", channel)
        with pytest.raises(TypeError):
            client.subscribe()
        with pytest.raises(ValueError, match="buffer"):
            client.subscribe("jobs", buffer=0)
        with pytest.raises(TypeError):
            client.subscribe("jobs", buffer=math.inf)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="overflow"):
            client.subscribe("jobs", overflow="wait")  # type: ignore[arg-type]


async def test_a_refused_subscription_raises_and_leaves_nothing(autojump_clock: object) -> None:
    async with open_memory_client(make_server(), "no-subscribe") as client:
        with pytest.raises(trio_dispatch.PermissionDenied, match="subscribe"):
            async with client.subscribe("jobs"):
                pytest.fail("entered")
        assert client.statistics().wanted_channels == 0


async def test_several_readers_share_one_subscription(autojump_clock: object) -> None:
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs") as events:
            got: list[list[Event]] = [[], [], []]
            async with trio.open_nursery() as nursery:
                for into in got:
                    nursery.start_soon(read, events, into)
                await enqueue_in_parallel(client, 100, "default")
                await trio.sleep(1)
                nursery.cancel_scope.cancel()
            assert sum(map(len, got)) == 300
            assert all(got)


async def test_frames_of_the_described_shape_are_events_too(autojump_clock: object) -> None:
    """The published description puts the subscribed channel and flat fields into the frame."""
    async with open_memory_client(make_server()) as client:
        async with client.subscribe("jobs") as jobs, client.subscribe("queue:email") as email:
            client._observer.on_push(
                wire({"channel": "jobs", "data": {"job_id": "j1", "state": "completed"}})
            )
            client._observer.on_push(
                wire({"channel": "jobs", "data": {"job_id": "j2", "state": "x", "queue": "email"}})
            )
            event = await jobs.receive()
            assert (event.type, event.topic, event.job_id) == ("job.completed", "job:j1", "j1")
            assert event.data == {"job_id": "j1", "state": "completed"}
            assert (await jobs.receive()).job_id == (await email.receive()).job_id == "j2"


def wire(fields: dict[str, object]) -> WireFrame:
    """What the codec makes of such a frame."""
    return JSON.decode(
        JSON.encode(Frame(type="event", **fields))  # type: ignore[arg-type]
    )
