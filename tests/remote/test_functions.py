"""Functions that call functions: what they get; when they are cancelled, and started again."""

from __future__ import annotations

import sys
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from tests.remote.calling import Caller, calling, calling_in_memory, run_request
from tests.remote.serving import serving
from trio_dispatch import remote
from trio_dispatch.remote import Call, Endpoint, FunctionFailed, Status, unmarshal
from trio_dispatch.remote import _runs as runs
from trio_dispatch.remote._messages import RunRequest, RunResponse
from trio_dispatch.remote._time import now

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

URL = "http://a.example"


def make(**options: Any) -> Endpoint:
    endpoint = Endpoint(URL, **options)

    @endpoint.function
    async def after(seconds: float) -> float:
        await trio.sleep(seconds)
        return seconds

    @endpoint.function
    async def fails(text: str) -> None:
        raise KeyError(text)

    return endpoint


def after(seconds: float) -> Call:
    return Call(URL, "after", seconds)


FAILS = Call(URL, "fails", "k")


async def test_results_come_in_the_order_of_the_calls(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> list[object]:
        return [
            await remote.gather(after(3), after(1), after(2)),
            await remote.call(after(1)),
            await remote.gather(),
        ]

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert outcome.value == [[3, 1, 2], 1, []]
        assert len(outcome.children) == 4
        assert outcome.attempts == 1
        assert trio.current_time() < 4.5


async def test_the_first_that_ends_well_or_at_all(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = make()

    @endpoint.function
    async def first() -> object:
        return await remote.any_of(FAILS, after(2), after(1), FAILS)

    @endpoint.function
    async def racing() -> object:
        return await remote.race(after(2), after(1), after(5))

    @endpoint.function
    async def losing() -> object:
        return await remote.race(after(2), FAILS)

    @endpoint.function
    async def none_is_good() -> object:
        try:
            await remote.any_of(FAILS, FAILS)
        except ExceptionGroup as group:
            return [str(exc) for exc in group.exceptions]
        return None

    async with serving(endpoint) as served:
        assert (await served.outcome(Call(URL, "first"))).value == 1
        assert trio.current_time() < 1.5
        assert (await served.outcome(Call(URL, "racing"))).value == 1
        assert trio.current_time() < 3
        outcome = await served.outcome(Call(URL, "losing"))
        assert outcome.error is not None
        assert outcome.error.type == "FunctionFailed"
        value = (await served.outcome(Call(URL, "none_is_good"))).value
        assert value == ["fails has failed with KeyError: 'k'"] * 2


async def test_a_failure_says_what_failed_where_and_ends_a_gather_at_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()
    found: list[FunctionFailed] = []

    @endpoint.function
    async def parent() -> str:
        with pytest.raises(FunctionFailed) as caught:
            await remote.gather(after(50), FAILS, after(1))
        found.append(caught.value)
        return "went on"

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert outcome.value == "went on"
        assert trio.current_time() < 1
        (failed,) = found
        assert (failed.function, failed.type, failed.message) == ("fails", "KeyError", "'k'")
        assert "raise KeyError(text)" in failed.traceback
        assert failed.dispatch_id == outcome.children[1]
        # The others run on.
        assert (await served.service.wait(outcome.children[0])).value == 50


async def test_functions_call_functions_that_call_functions(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make(max_concurrency=1)
    seen: list[remote.CurrentCall] = []

    @endpoint.function
    async def countdown(n: int) -> int:
        seen.append(remote.current_call())
        if n == 0:
            return 0
        return 1 + await remote.call(endpoint.call("countdown", n - 1))  # type: ignore[operator]

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "countdown", 5))
        assert outcome.value == 5
        # Suspended functions do not count: one place is enough for all six.
        assert [call.function for call in seen] == ["countdown"] * 6
        ids = [call.dispatch_id for call in seen]
        assert [call.parent_dispatch_id for call in seen] == [None, *ids[:-1]]
        assert {call.root_dispatch_id for call in seen} == {outcome.id}
        for call in seen:
            assert call.creation_time is not None
            assert call.expiration_time is not None
            assert call.expiration_time - call.creation_time == timedelta(minutes=1)


async def test_what_several_tasks_call_at_the_same_time_goes_out_together(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> list[object]:
        results: list[object] = []

        async def one(seconds: float) -> None:
            results.append(await remote.call(after(seconds)))

        async with trio.open_nursery() as nursery:
            for seconds in (3, 1, 2):
                nursery.start_soon(one, seconds)
        return results

    events: list[remote.CallEvent] = []
    async with serving(endpoint, on_event=events.append) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert outcome.value == [1, 2, 3]
        first = next(event for event in events if event.type == "suspended")
        assert len(first.call.children) == 3


async def test_a_function_that_does_other_work_meanwhile_is_heard_of_in_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> list[object]:
        results: list[object] = []

        async def calls() -> None:
            results.append(await remote.call(after(40)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(calls)
            await trio.sleep(3)
            results.append(await remote.call(after(1)))
        return results

    @endpoint.function
    async def gives_up() -> str:
        with trio.move_on_after(5):
            await remote.call(after(50))
        return "gave up"

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert outcome.value == [1, 40]
        assert trio.current_time() < 42
        began = trio.current_time()
        assert (await served.outcome(Call(URL, "gives_up"))).value == "gave up"
        assert trio.current_time() - began < 5.5


async def test_a_function_is_cancelled_when_its_call_expires(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()
    ended: list[str] = []

    @endpoint.function
    async def endless(how: str) -> None:
        try:
            if how == "alone":
                await trio.sleep_forever()
            await remote.call(after(50))
        finally:
            ended.append(how)

    async with serving(endpoint) as served:
        for how in ("alone", "suspended"):
            began = trio.current_time()
            call = Call(URL, "endless", how, expiration=timedelta(seconds=5))
            outcome = await served.outcome(call)
            assert outcome.status is Status.TIMEOUT
            await trio.testing.wait_all_tasks_blocked()
            assert ended[-1] == how
            assert trio.current_time() - began == pytest.approx(5, abs=0.1)
        assert outcome.error is not None
        assert "while its function waited for 1 calls" in outcome.error.message


async def test_an_expired_call_is_answered_with_a_timeout(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()
    async with calling_in_memory(endpoint) as caller:
        request = RunRequest.FromString(run_request("after", 100))
        request.expiration_time.FromDatetime(now() + timedelta(seconds=3))
        answer = RunResponse.FromString((await caller.post(request.SerializeToString())).content)
        assert answer.status == Status.TIMEOUT
        assert answer.exit.result.error.message == "the call expired while the function ran"
        assert trio.current_time() == pytest.approx(3)


async def test_functions_in_threads_call_and_know_their_call() -> None:
    endpoint = make()

    @endpoint.function
    def parent(number: float) -> list[object]:
        result = trio.from_thread.run(remote.call, after(number))
        return [result, remote.current_call().function]

    async with serving(endpoint) as served:
        assert (await served.outcome(Call(URL, "parent", 0))).value == [0, "parent"]


async def test_elsewhere_there_is_no_call(autojump_clock: trio.testing.MockClock) -> None:
    for attempt in (partial(remote.call, FAILS), partial(remote.race, FAILS)):
        with pytest.raises(RuntimeError, match="for functions of an Endpoint while they run"):
            await attempt()
    with pytest.raises(RuntimeError, match=r"remote\.current_call"):
        remote.current_call()


async def test_what_is_no_call_is_refused_in_a_function(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> None:
        with pytest.raises(TypeError, match=r"remote\.gather takes calls, not int"):
            await remote.gather(FAILS, 1)  # type: ignore[arg-type]
        for nothing in (remote.any_of, remote.race):
            with pytest.raises(ValueError, match="no call to wait for"):
                await nothing()

    async with serving(endpoint) as served:
        assert (await served.outcome(Call(URL, "parent"))).ok


async def test_calls_that_the_service_refuses_fail_in_the_function(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> str:
        with pytest.raises(FunctionFailed, match="no tunnel bridge://nowhere") as caught:
            await remote.gather(after(1), Call("bridge://nowhere", "f"))
        return caught.value.type

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert (outcome.value, outcome.children) == ("invalid_argument", ())


async def test_a_call_that_is_cancelled_before_it_goes_out_never_does(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()

    @endpoint.function
    async def parent() -> object:
        with trio.CancelScope() as scope:
            scope.cancel()
            await remote.call(after(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remote.call, after(7))
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        return await remote.call(after(2))

    async with serving(endpoint) as served:
        outcome = await served.outcome(Call(URL, "parent"))
        assert outcome.value == 2
        assert [served.service.call(id).input for id in outcome.children] == [2]


async def test_where_its_run_is_gone_a_function_starts_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    starts: list[str] = []

    def make_again() -> Endpoint:
        endpoint = make()

        @endpoint.function
        async def parent(text: str) -> object:
            starts.append(text)
            return [text, await remote.call(after(10))]

        return endpoint

    async with serving(make_again()) as served:
        id = await served.client.dispatch(Call(URL, "parent", "x"))
        await trio.sleep(5)
        served.service.add_endpoint(make_again())  # as if the program had been restarted
        outcome = await served.service.wait(id)
        assert (outcome.value, starts) == (["x", 10], ["x", "x"])
        assert len(outcome.children) == 1


async def test_a_function_that_starts_again_gets_what_its_earlier_calls_bring(
    autojump_clock: trio.testing.MockClock,
) -> None:
    made: list[str] = []

    def make_again() -> Endpoint:
        endpoint = make()

        @endpoint.function
        async def parent() -> object:
            made.append("parent")
            first = await remote.gather(after(10), after(10), after(30))
            return [first, await remote.call(after(1))]

        return endpoint

    async with serving(make_again()) as served:
        id = await served.client.dispatch(Call(URL, "parent"))
        await trio.sleep(5)
        served.service.add_endpoint(make_again())  # the first is gone
        outcome = await served.service.wait(id)
        assert outcome.value == [[10, 10, 30], 1]
        assert made == ["parent", "parent"]
        # Not 10 + 30 s: the results of the first run's calls count.
        assert trio.current_time() < 32
        # Nor was made again what had ended when the function started again.
        assert len(outcome.children) < 3 + 3 + 1


async def test_runs_beyond_a_bound_are_given_up_and_start_again(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    monkeypatch.setattr(runs, "MAX_SUSPENDED", 3)
    endpoint = make()
    starts: list[int] = []

    @endpoint.function
    async def parent(number: int) -> object:
        starts.append(number)
        return [number, await remote.call(after(5))]

    async with serving(endpoint, expiration=600) as served:
        ids = [await served.client.dispatch(Call(URL, "parent", n)) for n in range(5)]
        await trio.sleep(1)
        assert len(endpoint._runs) == 3
        for number, id in enumerate(ids):
            assert (await served.service.wait(id)).value == [number, 5]
        assert len(starts) > 5
        assert len(endpoint._runs) == 0


def poll_request(poll: Any, results: dict[int, object], id: str = "id-1") -> bytes:
    """What a service sends when calls of *poll* have ended."""
    request = RunRequest(function="parent", dispatch_id=id)
    request.poll_result.coroutine_state = poll.coroutine_state
    for correlation_id, value in results.items():
        packed = remote.marshal(value)
        result = request.poll_result.results.add(correlation_id=correlation_id)
        result.output.type_url, result.output.value = packed.type_url, packed.value
    data: bytes = request.SerializeToString()
    return data


def with_parent(calls: int) -> tuple[Endpoint, list[int]]:
    endpoint = make()
    starts: list[int] = []

    @endpoint.function
    async def parent() -> list[object]:
        starts.append(1)
        return await remote.gather(*(after(n) for n in range(calls)))

    return endpoint, starts


async def post(caller: Caller, body: bytes) -> Any:
    answer = await caller.post(body)
    assert answer.status_code == 200, answer.text
    return RunResponse.FromString(answer.content)


async def test_a_poll_says_what_it_waits_for_and_lost_answers_are_given_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint, starts = with_parent(3)
    async with calling_in_memory(endpoint) as caller:
        first = (await post(caller, run_request("parent"))).poll
        assert [unmarshal(call.input) for call in first.calls] == [0, 1, 2]
        ids = [call.correlation_id for call in first.calls]
        assert (first.min_results, first.max_results) == (1, 1000)
        assert first.max_wait.seconds == 300  # nothing but results can wake it
        answer = poll_request(first, {ids[0]: "a"})
        second = (await post(caller, answer)).poll
        assert not second.calls
        # The service did not get that: it asks again, and gets it again.
        assert (await post(caller, answer)).poll == second
        # A result that nobody waits for is no reason to fail; nor is one that comes twice.
        third = (await post(caller, poll_request(second, {ids[0]: "x", 12345: "y"}))).poll
        last = await post(caller, poll_request(third, {ids[2]: "c", ids[1]: "b"}))
        assert unmarshal(last.exit.result.output) == ["a", "b", "c"]
        assert len(starts) == 1
        # What is older than the last answer cannot be told any more.
        late = await post(caller, poll_request(first, {ids[0]: "a"}))
        assert late.WhichOneof("directive") == "poll"  # it has ended, and so starts again
        assert len(starts) == 2


async def test_a_state_of_somebody_else_is_incompatible(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint, starts = with_parent(2)
    async with calling_in_memory(endpoint) as caller:
        first = (await post(caller, run_request("parent"))).poll
        ids = [call.correlation_id for call in first.calls]
        second = (await post(caller, poll_request(first, {}))).poll
        await post(caller, poll_request(second, {}))
        old = await post(caller, poll_request(first, {ids[0]: 0}))
        assert old.status == Status.INCOMPATIBLE_STATE
        for state in (b"", b"pickle", b"\x91\x01", b"\x95\x01\x01\x01\x01\x01"):
            foreign = type(first)(coroutine_state=state)
            assert (await post(caller, poll_request(foreign, {}))).status == (
                Status.INCOMPATIBLE_STATE
            )
        assert len(starts) == 1


async def test_a_first_answer_that_was_lost_costs_one_more_start_and_no_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint, starts = with_parent(2)
    async with calling_in_memory(endpoint) as caller:
        await post(caller, run_request("parent"))
        await post(caller, run_request("parent"))
        assert len(starts) == 2
        assert len(endpoint._runs) == 1


async def test_the_function_is_cancelled_when_its_caller_leaves(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()
    cancelled = trio.Event()

    @endpoint.function
    async def endless() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with calling_in_memory(endpoint) as caller:
        with trio.move_on_after(2):
            await caller.post(run_request("endless"))
        await cancelled.wait()
        assert trio.current_time() == pytest.approx(2)


async def test_leaving_serve_cancels_suspended_functions() -> None:
    endpoint, _ = with_parent(2)
    async with calling(endpoint) as caller:
        await caller.run("parent")
        assert len(endpoint._runs) == 1
    assert len(endpoint._runs) == 0


async def test_functions_may_end_when_the_block_does_if_they_are_given_time() -> None:
    endpoint = make()
    started, go_on = trio.Event(), trio.Event()

    @endpoint.function
    async def ends() -> str:
        started.set()
        await go_on.wait()
        return "in time"

    answers: list[Any] = []
    async with trio.open_nursery() as nursery, httpx.AsyncClient(trust_env=False) as http:

        async def call(url: str) -> None:
            answers.append(await Caller(http, url).run("ends"))

        async with endpoint.serve(grace=60) as url:
            nursery.start_soon(call, url)
            await started.wait()
            go_on.set()
    assert unmarshal(answers[0].exit.result.output) == "in time"
    with pytest.raises(ValueError, match="grace"):
        async with endpoint.serve(grace=-1):
            pass
