"""Jobs: who runs when, what becomes of those that fail, and what is told of them."""

from __future__ import annotations

import base64
import functools
import sys
from itertools import pairwise
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, connect, running
from trio_dispatch.server import JobContext, Quirks, Server, current_job

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


DEFINED = Quirks(definitions_ignored=False)
"""Jobs have the retries and the timeout of their definitions."""


def kinds(server: Server) -> list[str]:
    return [event.type for event in server.events]


async def finished(server: Server, state: str = "completed") -> None:
    with trio.fail_after(10_000):
        for _ in range(20_000):
            if server.jobs(state=state):
                return
            await trio.sleep(0.5)


async def test_a_payload_reaches_its_function_decoded_and_job_get_byte_for_byte(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    got: list[Any] = []

    @server.job("echo")
    async def echo(payload: Any) -> None:
        got.append(payload)

    async with running(server) as peer:
        text = '{"b" : 1.0,\t"a":"\\u00e9"}'
        await peer.send_text(
            f'{{"id":"1","method":"job.enqueue","data":{{"name":"echo","payload":{text}}}}}'
        )
        job_id = (await peer.answer())["data"]["job_id"]
        await trio.sleep(1)
        job = await peer.call("job.get", {"job_id": job_id})
    assert got == [{"b": 1.0, "a": "é"}]
    assert base64.b64decode(job["payload"]) == text.encode()
    assert server.jobs()[0].payload_bytes == text.encode()
    assert server.jobs()[0].payload == {"b": 1.0, "a": "é"}


async def test_no_payload_is_null_and_a_null_is_base64_of_null(autojump_clock: MockClock) -> None:
    async with running(Server(TOKENS)) as peer:
        absent = await peer.call("job.enqueue", {"name": "n"})
        null = await peer.call("job.enqueue", {"name": "n", "payload": None})
        jobs = [await peer.call("job.get", {"job_id": j["job_id"]}) for j in (absent, null)]
    assert [job["payload"] for job in jobs] == [None, "bnVsbA=="]


async def test_an_unknown_name_starts_as_any_other_and_stays_running(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, concurrency=1)

    @server.job("known")
    async def known(payload: Any) -> None:
        pass

    async with running(server) as peer:
        for name in ("nobody", "", "known"):
            await peer.call("job.enqueue", {"name": name})
        await trio.sleep(1)
        assert [job.state for job in server.jobs()] == ["running", "running", "completed"]
        assert kinds(server).count("job.started") == 3
        await trio.sleep(1000)
        assert [job.state for job in server.jobs()] == ["running", "running", "completed"]
        # Minutes later it is started again, and again.
        assert kinds(server).count("job.started") == 3 + 2 * 3


async def test_the_urgent_job_is_claimed_first_and_only_priority_above_zero_counts(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, concurrency=1, quirks=Quirks(late_starts=False))
    order: list[str] = []

    @server.job("work")
    async def work(payload: Any) -> None:
        order.append(payload)
        await trio.sleep(1)

    async with running(server) as peer:
        for label, priority in (("first", 0), ("low", -5), ("plain", 0), ("high", 7)):
            data = {"name": "work", "payload": label, "priority": priority}
            await peer.call("job.enqueue", data)
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(10)
    assert order == ["first", "high", "low", "plain"]


async def test_no_more_jobs_run_at_once_than_concurrency_allows(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, concurrency=3)
    now = most = 0

    @server.job("work")
    async def work(payload: Any) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await trio.sleep(1)
        now -= 1

    async with running(server) as peer:
        for _ in range(10):
            await peer.call("job.enqueue", {"name": "work"})
        start = trio.current_time()
        await finished(server)
        await trio.sleep_until(start + 4.5)
    assert most == 3
    assert len(server.jobs(state="completed")) == 10


async def test_max_retries_three_is_four_attempts_with_growing_delays(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, seed=7)
    times: list[float] = []
    attempts: list[int] = []

    @server.job("fail", max_retries=3)
    async def fail(payload: Any) -> None:
        times.append(trio.current_time())
        attempts.append(current_job().attempt)
        raise ValueError("boom")

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "fail"}))["job_id"]
        await finished(server, "failed")
        job = await peer.call("job.get", {"job_id": job_id})
    assert (job["state"], job["retry_count"], job["last_error"]) == ("failed", 4, "boom")
    assert "completed_at" not in job
    assert attempts == [1, 2, 3, 4]
    delays = [later - earlier for earlier, later in pairwise(times)]
    assert all(delay <= limit for delay, limit in zip(delays, (1, 2, 4), strict=True))
    retrying = ["job.started", "job.retrying"]
    assert kinds(server) == ["job.enqueued", *retrying * 3, "job.started", "job.failed", "job.dlq"]
    assert [e.data["attempt"] for e in server.events if e.type == "job.retrying"] == [1, 2, 3]


async def test_the_same_seed_gives_the_same_delays(autojump_clock: MockClock) -> None:
    async def run_at() -> list[float]:
        server = Server(TOKENS, quirks=DEFINED, seed=3, max_retry_delay=60)
        times: list[float] = []

        @server.job("fail", max_retries=9)
        async def fail(payload: Any) -> None:
            times.append(trio.current_time())
            raise ValueError

        async with running(server) as peer:
            await peer.call("job.enqueue", {"name": "fail"})
            await finished(server, "failed")
        return [round(moment - times[0], 6) for moment in times]

    first, second = await run_at(), await run_at()
    assert first == second
    assert all(later - earlier <= 60 for earlier, later in pairwise(first))


async def test_a_job_that_fails_once_may_still_complete(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.job("flaky")
    async def flaky(payload: Any) -> None:
        if current_job().attempt == 1:
            raise ValueError("boom")

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "flaky"})
        await finished(server)
    (job,) = server.jobs()
    assert (job.state, job.retry_count, job.last_error) == ("completed", 1, "boom")


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no")


class Weird(BaseException):
    pass


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (ValueError("boom"), "boom"),
        (ValueError(), "ValueError"),
        (Unprintable(), "Unprintable"),
        (Weird("odd"), "odd"),
        (GeneratorExit(), "GeneratorExit"),
        (ExceptionGroup("group", [ValueError("a")]), "group (1 sub-exception)"),
        (BaseExceptionGroup("group", [Weird()]), "group (1 sub-exception)"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_whatever_a_function_raises_is_a_failed_attempt(
    raised: BaseException, error: str, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(TOKENS, quirks=DEFINED)

    @server.job("fail", max_retries=0)
    async def fail(payload: Any) -> None:
        await trio.sleep(0.1)
        raise raised

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "fail"})
        await finished(server, "failed")
        assert (await peer.call("stats"))["connections"] == 0
    assert server.jobs()[0].last_error == error
    (record,) = [record for record in caplog.records if record.name == "trio_dispatch.server"]
    assert record.levelname == "WARNING"
    assert record.exc_info is not None


async def test_a_function_that_hangs_is_a_failed_attempt_after_its_timeout(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, quirks=DEFINED)

    @server.job("hang", max_retries=0, timeout=5)
    async def hang(payload: Any) -> None:
        await trio.sleep_forever()

    async with running(server) as peer:
        start = trio.current_time()
        job_id = (await peer.call("job.enqueue", {"name": "hang"}))["job_id"]
        await finished(server, "failed")
        assert trio.current_time() - start == pytest.approx(5, abs=1)
        job = await peer.call("job.get", {"job_id": job_id})
    assert job["timeout"] == 5_000_000_000
    assert job["last_error"] == "context deadline exceeded"


async def test_a_function_that_cancels_itself_harms_nobody(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, quirks=DEFINED)

    @server.job("own-scope")
    async def own_scope(payload: Any) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await trio.sleep_forever()

    @server.job("no-scope", max_retries=0)
    async def no_scope(payload: Any) -> None:
        caught: BaseException | None = None
        with trio.CancelScope() as scope:
            scope.cancel()
            try:
                await trio.sleep_forever()
            except trio.Cancelled as exc:
                caught = exc
        assert caught is not None
        raise caught

    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "own-scope"})
        await peer.call("job.enqueue", {"name": "no-scope"})
        await trio.sleep(1)
        assert [job.state for job in server.jobs()] == ["completed", "failed"]


def test_a_function_that_is_not_async_is_refused_when_it_is_registered() -> None:
    server = Server(TOKENS)

    def sync(payload: Any) -> None: ...

    for function in (sync, print, functools.partial(sync), None, sync_generator):
        register: Any = server.job("sync")
        with pytest.raises(TypeError, match="job 'sync' needs an async function"):
            register(function)
    with pytest.raises(TypeError, match="run_sync"):
        server.workflow(sync)  # type: ignore[type-var]


async def sync_generator(payload: Any) -> Any:
    yield payload


async def test_decorators_work_without_parentheses_and_on_anything_async(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    class Callable:
        async def __call__(self, payload: Any) -> None: ...

    def decorated(function: Any) -> Any:
        @functools.wraps(function)
        def call(*args: Any) -> Any:
            return function(*args)

        return call

    @server.job
    async def plain(payload: Any) -> None: ...

    @server.job()
    @decorated
    async def wrapped(payload: Any) -> None: ...

    server.job("object")(Callable())
    server.job("partial")(functools.partial(plain))

    @server.workflow
    async def flow(workflow: Any, input: Any) -> None: ...

    with pytest.raises(ValueError, match="already"):
        server.job(plain)
    async with running(server) as peer:
        for name in ("plain", "wrapped", "object", "partial"):
            await peer.call("job.enqueue", {"name": name})
        assert (await peer.call("workflow.start", {"name": "flow"}))["state"] == "completed"
        await trio.sleep(1)
    assert {job.state for job in server.jobs()} == {"completed"}


async def test_options_of_a_definition_do_not_count_over_the_wire(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)

    @server.job("fail", max_retries=0, timeout=1)
    async def fail(payload: Any) -> None:
        await trio.sleep(2)
        raise ValueError("boom")

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "fail"}))["job_id"]
        job = await peer.call("job.get", {"job_id": job_id})
        assert (job["max_retries"], job["timeout"]) == (3, 300 * 10**9)
        await finished(server, "failed")
    assert server.jobs()[0].retry_count == 4
    assert server.jobs()[0].last_error == "boom"


async def test_cancelling_a_pending_job_means_that_it_never_runs_and_publishes_nothing(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, queues=["default"])
    async with running(server) as peer:
        data = {"name": "x", "queue": "nobody-takes-this"}
        job_id = (await peer.call("job.enqueue", data))["job_id"]
        assert await peer.call("job.cancel", {"job_id": job_id}) == {"status": "cancelled"}
        await trio.sleep(100)
    assert server.jobs()[0].state == "cancelled"
    assert kinds(server) == ["job.enqueued"]


async def test_cancelling_a_retrying_job_ends_its_retries(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, retry_delay=50, seed=2)
    calls = 0

    @server.job("fail")
    async def fail(payload: Any) -> None:
        nonlocal calls
        calls += 1
        raise ValueError

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "fail"}))["job_id"]
        await peer.settle()
        assert server.jobs()[0].state == "retrying"
        await peer.call("job.cancel", {"job_id": job_id})
        await trio.sleep(1000)
    assert calls == 1
    assert server.jobs()[0].state == "cancelled"


async def test_a_cancelled_running_job_goes_on_and_may_complete(autojump_clock: MockClock) -> None:
    server = Server(TOKENS)

    @server.job("slow")
    async def slow(payload: Any) -> None:
        await trio.sleep(2)

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "slow"}))["job_id"]
        await trio.sleep(1)
        await peer.call("job.cancel", {"job_id": job_id})
        assert server.jobs()[0].state == "cancelled"
        await trio.sleep(2)
        assert server.jobs()[0].state == "completed"
        await peer.call("job.cancel", {"job_id": job_id})
        assert server.jobs()[0].state == "cancelled"
    assert [e.data.get("elapsed_ms") for e in server.events] == [None, None, 2000]


async def test_a_job_knows_itself(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, quirks=DEFINED)
    seen: list[JobContext] = []

    @server.job("who", max_retries=1)
    async def who(payload: Any) -> None:
        seen.append(current_job())

    async with running(server) as peer:
        data = {"name": "who", "queue": "q", "priority": 2}
        job_id = (await peer.call("job.enqueue", data))["job_id"]
        await finished(server)
    (context,) = seen
    assert (context.job_id, context.name, context.queue) == (job_id, "who", "q")
    assert (context.priority, context.attempt, context.max_retries) == (2, 1, 1)
    assert (context.scope_app_id, context.scope_org_id) == ("app1", "org1")
    with pytest.raises(LookupError, match="outside a job"):
        current_job()


async def test_events_carry_the_scopes_of_the_caller_and_leave_empty_ones_out(
    autojump_clock: MockClock,
) -> None:
    from trio_dispatch.server import Identity

    server = Server({**TOKENS, "bare": Identity(scopes={"*"})})
    async with server.run():
        for token in ("demo-token", "bare"):
            peer = await connect(server, token)
            await peer.call("job.enqueue", {"name": "x"})
    first, second = (e.data for e in server.events if e.type == "job.enqueued")
    assert (first["scope_app_id"], first["scope_org_id"]) == ("app1", "org1")
    assert set(second) == {"job_id", "job_name", "queue"}


def test_a_name_is_registered_once() -> None:
    server = Server(TOKENS)
    function: Any = trio.sleep
    server.job("a")(function)
    server.workflow("a")(function)
    with pytest.raises(ValueError, match="already"):
        server.job("a")
    with pytest.raises(ValueError, match="already"):
        server.workflow("a")


@pytest.mark.parametrize(
    "options", [{"max_retries": -1}, {"timeout": 0}, {"timeout": float("nan")}]
)
def test_options_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must"):
        Server(TOKENS).job("a", **options)


# Races


async def test_a_subscription_right_after_the_enqueue_catches_the_start_half_of_the_time(
    autojump_clock: MockClock,
) -> None:
    async def caught(seed: int, **options: Any) -> list[bool]:
        server = Server(TOKENS, seed=seed, concurrency=100, **options)

        @server.job("noop")
        async def noop(payload: Any) -> None: ...

        async with running(server) as peer:
            ids: list[str] = []
            for _ in range(100):
                ids.append((await peer.call("job.enqueue", {"name": "noop"}))["job_id"])
                await peer.call("subscribe", {"channel": f"job:{ids[-1]}"})
                await trio.sleep(0.01)
            await peer.settle()
            assert {job.state for job in server.jobs()} == {"completed"}
            heard = {
                event["data"]["data"]["job_id"]
                for event in peer.events
                if event["data"]["type"] == "job.started"
            }
            return [job_id in heard for job_id in ids]

    first = await caught(1)
    assert 30 < sum(first) < 70
    assert await caught(1) == first  # by the seed
    assert await caught(2) != first
    assert sum(await caught(1, quirks=Quirks(late_starts=False))) == 0


async def test_a_running_job_has_a_heartbeat_every_ten_seconds(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, seed=1)

    @server.job("slow")
    async def slow(payload: Any) -> None:
        await trio.sleep(25)

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "slow"}))["job_id"]
        beats: list[Any] = []
        for _ in range(6):
            beats.append((await peer.call("job.get", {"job_id": job_id})).get("heartbeat_at"))
            await trio.sleep(5)
        assert beats[0] is beats[1] is None
        assert beats[2] == beats[3] != beats[4]
        assert beats[4] == beats[5]
        assert (await peer.call("job.get", {"job_id": job_id}))["state"] == "completed"
    (job,) = server.jobs()
    assert job.heartbeat_at is not None
    assert job.completed_at is not None
    assert 0 < (job.completed_at - job.heartbeat_at).total_seconds() < 10
