"""The embedded service: what it accepts, how it retries, polls, and ends calls."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from google.protobuf import any_pb2

from tests.remote.serving import serving
from tests.remote.support import HttpRequest, HttpResponse, serve_http
from trio_dispatch import ConnectFailed, remote
from trio_dispatch.remote import Call, CallFailed, Endpoint, KeyRefused, Status, marshal
from trio_dispatch.remote._messages import (
    DISPATCH_PATH,
    CallMessage,
    DispatchRequest,
    RunRequest,
    RunResponse,
)

URL = "http://a.example"
CALL = Call(URL, "f", 1)


class Scripted(Endpoint):
    """An endpoint that answers each request as it is told to."""

    def __init__(self, answer: Callable[[Any], HttpResponse], url: str = URL) -> None:
        super().__init__(url)
        self.script = answer
        self.requests: list[Any] = []
        self.http: list[HttpRequest] = []

    async def handle(self, stream: trio.abc.Stream, *, nursery: trio.Nursery | None = None) -> None:
        await serve_http(stream, self._next, 2**20)

    async def _next(self, request: HttpRequest) -> HttpResponse:
        self.http.append(request)
        message = RunRequest.FromString(request.body)
        self.requests.append(message)
        return self.script(message)


def proto(response: Any) -> HttpResponse:
    return HttpResponse(200, "application/proto", response.SerializeToString())


def value(found: object) -> HttpResponse:
    response = RunResponse(status=Status.OK)
    packed = marshal(found)
    output = response.exit.result.output
    output.type_url, output.value = packed.type_url, packed.value
    return proto(response)


def status(found: int) -> HttpResponse:
    response = RunResponse(status=found)
    response.exit.result.error.type = "Told"
    return proto(response)


def code(http: int, word: str) -> HttpResponse:
    body = json.dumps({"code": word, "message": "said it"}).encode()
    return HttpResponse(http, "application/json", body)


RETRIED = {
    Status.TIMEOUT,
    Status.THROTTLED,
    Status.TEMPORARY_ERROR,
    Status.INCOMPATIBLE_STATE,
    Status.DNS_ERROR,
    Status.TCP_ERROR,
    Status.TLS_ERROR,
    Status.HTTP_ERROR,
}


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        *((status(found), found) for found in Status if found > Status.OK),
        (status(0), Status.INVALID_RESPONSE),
        (status(99), Status.INVALID_RESPONSE),
        (proto(RunResponse(status=Status.OK)), Status.INVALID_RESPONSE),
        (HttpResponse(200, "application/proto", b"\xff"), Status.INVALID_RESPONSE),
        (HttpResponse(200, "text/html", b"<html>"), Status.HTTP_ERROR),
        (HttpResponse(302, "text/html", b"over there"), Status.HTTP_ERROR),
        (HttpResponse(500, "text/html", b"oops"), Status.HTTP_ERROR),
        (HttpResponse(404, "text/html", b"nothing here"), Status.NOT_FOUND),
        (HttpResponse(429, "text/html", b"slowly"), Status.THROTTLED),
        (HttpResponse(504, "text/html", b"slowly"), Status.TIMEOUT),
        (code(503, "unavailable"), Status.TEMPORARY_ERROR),
        (code(500, "internal"), Status.TEMPORARY_ERROR),
        (code(500, "unknown"), Status.TEMPORARY_ERROR),
        (code(429, "resource_exhausted"), Status.THROTTLED),
        (code(504, "deadline_exceeded"), Status.TIMEOUT),
        (code(499, "canceled"), Status.TIMEOUT),
        (code(401, "unauthenticated"), Status.UNAUTHENTICATED),
        (code(403, "permission_denied"), Status.PERMISSION_DENIED),
        (code(400, "invalid_argument"), Status.INVALID_ARGUMENT),
        (code(400, "out_of_range"), Status.INVALID_ARGUMENT),
        (code(404, "not_found"), Status.NOT_FOUND),
        (code(501, "unimplemented"), Status.NOT_FOUND),
        (code(409, "already_exists"), Status.PERMANENT_ERROR),
        (code(409, "\ud800"), Status.PERMANENT_ERROR),
    ],
)
async def test_each_answer_is_final_or_tried_again_until_it_is_good(
    answer: HttpResponse, expected: Status, autojump_clock: trio.testing.MockClock
) -> None:
    answers = [answer, answer, value("good")]
    endpoint = Scripted(lambda request: answers.pop(0))
    async with serving(endpoint) as served:
        outcome = await served.outcome(CALL)
        if expected in RETRIED:
            assert (outcome.value, outcome.attempts) == ("good", 3)
            assert len({bytes(r.SerializeToString()) for r in endpoint.requests}) == 1
        else:
            assert (outcome.status, outcome.attempts) == (expected, 1)
            assert outcome.error is not None
            assert outcome.value is None


async def test_what_never_gets_better_ends_as_a_timeout_with_its_cause(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Scripted(lambda request: code(503, "unavailable"))
    events: list[remote.CallEvent] = []
    async with serving(endpoint, expiration=30, on_event=events.append) as served:
        outcome = await served.outcome(CALL)
        assert outcome.status is Status.TIMEOUT
        assert trio.current_time() == pytest.approx(30, abs=0.1)
        assert outcome.error is not None
        assert "TEMPORARY_ERROR: http://a.example has answered unavailable: said it" in (
            outcome.error.message
        )
    delays = [event.delay for event in events if event.delay is not None]
    full = [min(0.1 * 2**n, 10) for n in range(len(delays))]
    assert all(f / 2 <= d <= f for f, d in zip(full, delays, strict=True))
    assert len({d / f for f, d in zip(full, delays, strict=True)}) == len(delays)  # jitter
    assert [event.type for event in events][:4] == ["accepted", "started", "retrying", "started"]
    assert events[-1].type == "ended"


class NoNames(trio.abc.HostnameResolver):
    """Knows no name but this machine's."""

    async def getaddrinfo(self, host: Any, port: Any, *rest: Any, **options: Any) -> Any:
        if host not in ("127.0.0.1", b"127.0.0.1"):
            raise socket.gaierror(socket.EAI_NONAME, "there is no such name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", int(port)))]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> Any:
        raise NotImplementedError


async def test_what_cannot_be_reached_says_why() -> None:
    trio.socket.set_custom_hostname_resolver(NoNames())  # of this run of trio alone
    send, receive = trio.open_memory_channel[remote.CallInfo](math.inf)

    def on_event(event: remote.CallEvent) -> None:
        if event.type == "retrying":
            send.send_nowait(event.call)

    async def cause(url: str) -> tuple[Status | None, str]:
        async with (
            remote.open_service(on_event=on_event) as service,
            service.open_client() as client,
        ):
            await client.dispatch(Call(url, "f"))
            info = await receive.receive()
            assert info.error is not None
            return info.status, info.error.message

    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        status, message = await cause(url)
        assert status is Status.TCP_ERROR
        assert message.startswith(f"cannot connect to {url}: ")
    status, message = await cause("http://no.such.host")
    assert status is Status.DNS_ERROR
    assert message.startswith("cannot connect to http://no.such.host: ")
    async with Endpoint().serve() as url:
        status, message = await cause(url.replace("http", "https"))
        assert status is Status.TLS_ERROR


async def test_an_answer_that_is_too_large_is_not_read_to_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Scripted(lambda request: value("x" * 300_000))
    async with serving(endpoint, max_body_size=100_000) as served:
        outcome = await served.outcome(CALL)
        assert outcome.status is Status.INVALID_RESPONSE
        assert outcome.error is not None
        assert outcome.error.message == "the answer is larger than 100000 bytes"


async def test_an_endpoint_that_stalls_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint(URL)
    stalls = [True, True, False]

    @endpoint.function
    async def f(number: int) -> int:
        if stalls.pop(0):
            await trio.sleep_forever()
        return number

    async with serving(endpoint, attempt_timeout=5) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.attempts) == (1, 3)
        assert 10 < trio.current_time() < 11


async def test_a_batch_is_accepted_as_a_whole_or_not_at_all(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Scripted(lambda request: value(1))
    async with serving(endpoint) as served:
        batch = served.client.batch()
        batch.add(CALL, Call("bridge://nowhere", "f"), CALL)
        with pytest.raises(CallFailed, match=r"calls\[1\]: there is no tunnel bridge://nowhere"):
            await batch.dispatch()
        assert served.service.calls() == []
        await trio.sleep(1)
        assert endpoint.requests == []


def changed(**fields: Any) -> Any:
    message: Any = CALL.message()
    for name, found in fields.items():
        setattr(message, name, found)
    return message


def expiring(**fields: int) -> Any:
    message: Any = CALL.message()
    message.expiration.seconds = fields.get("seconds", 0)
    message.expiration.nanos = fields.get("nanos", 0)
    return message


@pytest.mark.parametrize(
    ("message", "word"),
    [
        (changed(endpoint=""), "URL"),
        (changed(endpoint="ftp://a.example"), "URL"),
        (changed(endpoint="http://a.example/?x=1"), "query"),
        (changed(endpoint="http://a..b\u2028"), "URL"),
        (changed(endpoint="http://[::1"), "URL"),
        (changed(endpoint="http://xn--\x7f.example"), "URL"),
        (changed(endpoint="arn:aws:lambda:x"), "no Lambda"),
        (changed(function=""), "name"),
        (changed(function="a-b"), "name"),
        (expiring(), "positive"),
        (expiring(seconds=-1), "positive"),
        (expiring(seconds=2**62), "10,000 years"),
    ],
)
async def test_a_service_checks_what_other_clients_send(
    message: Any, word: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with serving() as served:
        body = DispatchRequest(calls=[message]).SerializeToString()
        answer = await served.client._http.post(
            "http://service.memory" + DISPATCH_PATH,
            content=body,
            headers={"content-type": "application/proto"},
        )
        assert (answer.status_code, answer.json()["code"]) == (400, "invalid_argument")
        assert word in answer.json()["message"]
        assert served.service.calls() == []


async def test_keys_are_checked(autojump_clock: trio.testing.MockClock) -> None:
    async with serving(api_key="right") as served:
        async with served.service.open_client("wrong-key") as client:
            with pytest.raises(KeyRefused, match="there is no such API key"):
                await client.dispatch(CALL)
        post = served.client._http.post
        for header in ("", "Basic right", "Bearer", "Bearer right-or-wrong"):
            answer = await post(
                "http://service.memory" + DISPATCH_PATH,
                content=b"",
                headers={"content-type": "application/proto", "authorization": header},
            )
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        answer = await post(
            "http://service.memory" + DISPATCH_PATH,
            content=b"\xff",
            headers={"content-type": "application/proto"},
        )
        assert "no DispatchRequest" in answer.json()["message"]


async def test_no_more_than_so_many_run_at_once(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = Endpoint(URL)
    running = most = 0

    @endpoint.function
    async def f(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(1)
        running -= 1
        return number

    async with serving(endpoint, max_concurrency=7) as served:
        batch = served.client.batch()
        batch.add(*[CALL] * 50)
        for id in await batch.dispatch():
            assert (await served.service.wait(id)).attempts == 1
        assert most == 7


# Polls


def poll(calls: int, state: bytes = b"\x00\xffstate", **fields: Any) -> HttpResponse:
    response = RunResponse(status=Status.OK)
    response.poll.coroutine_state = state
    for number in range(calls):
        packed = marshal(number + 1)
        message = CallMessage(correlation_id=100 + number, function="child")
        message.input.type_url, message.input.value = packed.type_url, packed.value
        response.poll.calls.append(message)
    seconds = fields.pop("max_wait", None)
    if seconds is not None:
        response.poll.max_wait.FromTimedelta(timedelta(seconds=seconds))
    for name, found in fields.items():
        setattr(response.poll, name, found)
    return proto(response)


def polling(first: HttpResponse, *more: HttpResponse) -> tuple[Scripted, list[Any]]:
    """A parent that answers so, and children that end after 1, 2, … seconds; its poll results."""
    results: list[Any] = []
    answers = [first, *more]

    class Polling(Scripted):
        async def _next(self, request: HttpRequest) -> HttpResponse:
            message = RunRequest.FromString(request.body)
            if message.function == "child":
                number = remote.unmarshal(message.input)
                assert isinstance(number, int)
                await trio.sleep(number)
                self.requests.append(message)
                return value(number * 10)
            if message.WhichOneof("directive") == "poll_result":
                results.append((trio.current_time(), message.poll_result))
            return answers.pop(0)

    return Polling(lambda request: value(None)), results


def shown(result: Any) -> list[tuple[int, object]]:
    return [(r.correlation_id, remote.unmarshal(r.output)) for r in result.results]


async def test_a_poll_waits_for_its_least_results_and_keeps_the_state(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint, results = polling(
        poll(5, min_results=2, max_results=10),
        poll(0, state=b"", min_results=2, max_results=1),
        poll(0, min_results=1, max_results=1),
        poll(0, min_results=99, max_results=0),
        value("done"),
    )
    async with serving(endpoint) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.attempts, len(outcome.children)) == ("done", 1, 5)
        assert [round(when) for when, _ in results] == [2, 4, 4, 5]
        assert [shown(result) for _, result in results] == [
            [(100, 10), (101, 20)],
            [(102, 30)],
            [(103, 40)],
            [(104, 50)],
        ]
        states = [result.coroutine_state for _, result in results]
        assert states == [b"\x00\xffstate", b"", b"\x00\xffstate", b"\x00\xffstate"]
        for number, request in enumerate(endpoint.requests):
            assert request.parent_dispatch_id == request.root_dispatch_id == outcome.id
            assert request.dispatch_id == outcome.children[number]
            assert request.dispatch_id == results[0][1].results[0].dispatch_id or number > 0


async def test_a_poll_ends_when_its_time_is_over(autojump_clock: trio.testing.MockClock) -> None:
    endpoint, results = polling(
        poll(3, min_results=3, max_results=10, max_wait=1.5),
        poll(0, min_results=3, max_results=10, max_wait=0),
        poll(0, min_results=3, max_results=10, max_wait=10),
        poll(0, min_results=1, max_wait=4),
        poll(0),
        value("done"),
    )
    async with serving(endpoint) as served:
        assert (await served.outcome(CALL)).value == "done"
        times = [round(when, 1) for when, _ in results]
        # The last but one waits for nothing: that is how a function sleeps.
        assert times == [1.5, 1.5, 3.0, 7.0, 7.1]
        assert [shown(result) for _, result in results] == [
            [(100, 10)],
            [],
            [(101, 20), (102, 30)],
            [],
            [],
        ]


async def test_typed_states_come_back_as_well(autojump_clock: trio.testing.MockClock) -> None:
    response = RunResponse(status=Status.OK)
    typed = response.poll.typed_coroutine_state
    typed.type_url, typed.value = "type.example/any", b"\x01\x02"
    endpoint, results = polling(proto(response), value(1))
    async with serving(endpoint) as served:
        await served.outcome(CALL)
        found = results[0][1].typed_coroutine_state
        assert (found.type_url, found.value) == ("type.example/any", b"\x01\x02")


async def test_a_poll_that_fails_is_answered_again_with_the_same_results(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint, results = polling(
        poll(1, min_results=1), status(Status.TEMPORARY_ERROR), value("done")
    )
    async with serving(endpoint) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.attempts, len(outcome.children)) == ("done", 2, 1)
        assert shown(results[0][1]) == shown(results[1][1]) == [(100, 10)]


async def test_a_poll_whose_calls_are_refused_gets_an_error_and_no_call_is_made(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bad = RunResponse.FromString(poll(2).body)
    bad.poll.calls[1].function = "a-b"
    endpoint, results = polling(proto(bad), value("done"))
    async with serving(endpoint) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.children) == ("done", ())
        error = results[0][1].error
        assert error.type == "invalid_argument"
        assert error.message.startswith("calls[1]: a function's name")


# Tail calls


async def test_a_tail_call_goes_on_under_the_same_id_at_its_own_endpoint(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def go_on(request: Any) -> HttpResponse:
        response = RunResponse(status=Status.TEMPORARY_ERROR)  # it counts, whatever the status
        response.exit.tail_call.CopyFrom(Call("https://b.example/y", "g", 2).message())
        return proto(response)

    one = Scripted(go_on)
    two = Scripted(lambda request: value("there"), "https://b.example/y")
    async with serving(one, two) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.function, outcome.attempts) == ("there", "g", 2)
        (first,), (second,) = one.requests, two.requests
        assert first.dispatch_id == second.dispatch_id == outcome.id
        assert first.creation_time == second.creation_time
        assert first.expiration_time == second.expiration_time
        assert two.http[0].target == "/y/dispatch.sdk.v1.FunctionService/Run"
        assert two.http[0].headers["host"] == "b.example"


async def test_what_a_function_waited_for_is_not_given_to_the_one_that_goes_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    tail = RunResponse(status=Status.OK)
    tail.exit.tail_call.CopyFrom(Call(URL, "g").message())
    endpoint, results = polling(
        poll(2, min_results=2, max_results=1),  # one of two results, and then
        proto(tail),
        poll(1, min_results=1, max_results=10),
        value("done"),
    )
    async with serving(endpoint) as served:
        outcome = await served.outcome(CALL)
        assert (outcome.value, outcome.function, len(outcome.children)) == ("done", "g", 3)
        assert [shown(result) for _, result in results] == [[(100, 10)], [(100, 10)]]
        assert [round(when) for when, _ in results] == [2, 3]


async def test_a_tail_call_may_change_the_expiration_and_must_be_right(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint(URL)

    @endpoint.function
    async def f(number: int) -> Call:
        return Call(URL, "sleeps", 90, expiration=timedelta(seconds=100))

    @endpoint.function
    async def sleeps(seconds: float) -> str:
        await trio.sleep(seconds)
        return "slept"

    @endpoint.function
    async def wrong() -> Call:
        return Call("bridge://nowhere", "f")

    async with serving(endpoint) as served:
        assert (await served.outcome(CALL)).value == "slept"
        outcome = await served.outcome(Call(URL, "wrong"))
        assert outcome.status is Status.INVALID_RESPONSE
        assert outcome.error is not None
        assert "no tunnel" in outcome.error.message


# What it shows, keeps, and is opened with


async def test_calls_are_shown_as_they_are(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = Endpoint(URL)

    @endpoint.function
    async def parent(text: str) -> object:
        await trio.sleep(1)
        return await remote.call(Call(URL, "child"))

    @endpoint.function
    async def child() -> str:
        await trio.sleep(1)
        raise remote.FunctionError("not yet")

    events: list[remote.CallEvent] = []
    async with serving(endpoint, expiration=10, on_event=events.append) as served:
        id = await served.client.dispatch(Call(URL, "parent", "x"))
        await trio.sleep(0.5)
        info = served.service.call(id)
        assert (info.state, info.attempts, info.input, info.status) == ("running", 1, "x", None)
        assert info.expires - info.created == timedelta(seconds=10)
        await trio.sleep(1)
        parent_info, child_info = served.service.calls()
        assert (parent_info.state, child_info.state) == ("suspended", "running")
        assert parent_info.children == (child_info.id,)
        assert (child_info.parent, child_info.root) == (id, id)
        await trio.sleep(0.52)
        child_info = served.service.call(child_info.id)
        assert (child_info.state, child_info.status) == ("retrying", Status.TEMPORARY_ERROR)
        assert child_info.error == remote.CallError("FunctionError", "not yet")
        await served.service.wait(id)
        assert served.service.call(id).ended is not None
    types = [event.type for event in events if event.call.id == id]
    assert types == ["accepted", "started", "suspended", "ended"]
    times = [event.time for event in events]
    assert times == sorted(times)


async def test_so_many_ended_calls_are_kept(autojump_clock: trio.testing.MockClock) -> None:
    endpoint = Scripted(lambda request: value(1))
    async with serving(endpoint, keep=3) as served:
        ids = [(await served.outcome(CALL)).id for _ in range(5)]
        assert [call.id for call in served.service.calls()] == ids[2:]
        with pytest.raises(LookupError, match="knows no call"):
            await served.service.wait(ids[0])


async def test_what_an_observer_raises_is_logged(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: remote.CallEvent) -> None:
        raise ZeroDivisionError

    endpoint = Scripted(lambda request: value(1))
    async with serving(endpoint, on_event=broken) as served:
        assert (await served.outcome(CALL)).ok
    assert "on_event has failed" in caplog.text


async def test_a_bug_ends_one_call(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endpoint = Scripted(lambda request: value(1))
    async with serving(endpoint) as served:
        with monkeypatch.context() as patch:
            patch.setattr(served.service._reach, "run", None)
            outcome = await served.outcome(CALL)
            assert outcome.error is not None
            assert outcome.error.type == "InternalError"
        assert (await served.outcome(CALL)).ok


async def test_a_value_that_cannot_be_decoded_comes_as_it_is(
    autojump_clock: trio.testing.MockClock,
) -> None:
    response = RunResponse(status=Status.OK)
    output = response.exit.result.output
    output.type_url, output.value = "type.googleapis.com/google.protobuf.StringValue", b"\xff"
    endpoint = Scripted(lambda request: proto(response))
    async with serving(endpoint) as served:
        found = (await served.outcome(CALL)).value
        assert isinstance(found, any_pb2.Any)
        assert found.value == b"\xff"


async def test_tunnels_and_lambdas_lead_where_they_are_told_to() -> None:
    there = Endpoint("bridge://session")

    @there.function
    async def f(number: int) -> int:
        return number + 1

    arn = "arn:aws:lambda:eu-west-1:123456789012:function:f"
    async with there.serve() as url:
        routes = {"bridge://session": url, arn: url}
        async with remote.open_service(routes=routes) as service, service.open_client() as client:
            signed = Endpoint("bridge://memory", verification_key=service.verification_key)
            signed.function(f)
            service.add_endpoint(signed)
            for endpoint in (*routes, "bridge://memory"):
                outcome = await service.wait(await client.dispatch(Call(endpoint, "f", 1)))
                assert outcome.value == 2, outcome


@pytest.mark.parametrize("kind", ["pem", "raw"])
async def test_the_signing_key_can_be_given(
    kind: str, autojump_clock: trio.testing.MockClock
) -> None:
    import base64

    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    text = (
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
        if kind == "pem"
        else base64.b64encode(bytes(range(32))).decode()
    )
    async with serving(signing_key=text) as served:
        assert served.service.verification_key == base64.b64encode(public).decode()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api_key": "two words"}, "API key"),
        ({"signing_key": "secret"}, "neither PEM nor"),
        ({"signing_key": "-----BEGIN nothing"}, "neither PEM nor"),
        ({"expiration": 0}, "expiration"),
        ({"attempt_timeout": -1}, "attempt_timeout"),
        ({"max_concurrency": 0}, "max_concurrency"),
        ({"routes": {"bridge://x": "bridge://y"}}, "URL"),
        ({"endpoints": [Endpoint()]}, "the endpoint has no URL"),
    ],
)
async def test_arguments_that_cannot_work_are_refused(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        async with remote.open_service(host=None, **options):
            pass
    assert "secret" not in str(caught.value)


async def test_leaving_the_block_ends_everything_and_the_bodys_error_comes_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint(URL)
    ended = trio.Event()

    @endpoint.function
    async def f(number: int) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with pytest.raises(ZeroDivisionError):
        async with serving(endpoint) as served:
            await served.client.dispatch(CALL)
            await trio.sleep(1)
            raise ZeroDivisionError
    assert ended.is_set()


async def test_it_listens_no_longer_than_its_block() -> None:
    async with remote.open_service() as service:
        url = service.url
        assert repr(service) == f"<Service at {url} with 0 calls>"
        async with httpx.AsyncClient(trust_env=False) as http:
            answer = await http.get(url)
            assert answer.json()["code"] == "not_found"
    async with remote.open_client("dev", url) as client:
        with pytest.raises(ConnectFailed):
            await client.dispatch(CALL)
