"""Endpoints: what they answer to each request, good and bad."""

from __future__ import annotations

from datetime import timedelta

import httpx
import pytest
import trio
import trio.testing
from google.protobuf import any_pb2

from tests.remote.calling import calling, make, run_request
from trio_dispatch.remote import Endpoint, FunctionError, Status, unmarshal
from trio_dispatch.remote import _connect as connect
from trio_dispatch.remote._messages import RUN_PATH, RunRequest, RunResponse


async def test_a_function_gets_its_input_and_its_result_goes_back() -> None:
    async with calling(make()) as caller:
        response = await caller.run("double", 21)
        assert response.status == Status.OK
        assert unmarshal(response.exit.result.output) == 42
        # Under the path of the endpoint's URL too, and over the same connection.
        answer = await caller.post(run_request("double", "x"), "/base" + RUN_PATH)
        assert unmarshal(RunResponse.FromString(answer.content).exit.result.output) == "xx"


async def test_errors_become_statuses() -> None:
    endpoint = make()

    @endpoint.function()
    async def tries_again(value: object) -> None:
        raise FunctionError("in a moment")

    @endpoint.function()
    async def fails(value: object) -> None:
        raise FunctionError("never", Status.INVALID_ARGUMENT)

    @endpoint.function()
    async def crashes(value: object) -> None:
        raise KeyError("x")

    @endpoint.function()
    async def returns_what_cannot_be_sent(value: object) -> object:
        return {"a": object()}

    async with calling(endpoint) as caller:
        for function, status, kind, message in (
            ("tries_again", Status.TEMPORARY_ERROR, "FunctionError", "in a moment"),
            ("fails", Status.INVALID_ARGUMENT, "FunctionError", "never"),
            ("crashes", Status.PERMANENT_ERROR, "KeyError", "'x'"),
            ("unknown", Status.NOT_FOUND, "LookupError", "no function 'unknown'"),
            (
                "returns_what_cannot_be_sent",
                Status.INVALID_RESPONSE,
                "TypeError",
                "a result that cannot be sent: a value of type object at ['a'] cannot be sent",
            ),
        ):
            response = await caller.run(function)
            error = response.exit.result.error
            assert (response.status, error.type, error.message) == (status, kind, message)
        assert b"crashes" in (await caller.run("crashes")).exit.result.error.traceback


async def test_an_input_that_cannot_be_read_is_the_callers_fault() -> None:
    async with calling(make()) as caller:
        wrong = any_pb2.Any(type_url="type.googleapis.com/google.protobuf.StringValue", value=b"!")
        response = await caller.run("double", wrong)
        assert response.status == Status.INVALID_ARGUMENT
        assert "StringValue" in response.exit.result.error.message
        none = await caller.post(RunRequest(function="double").SerializeToString())
        assert RunResponse.FromString(none.content).status == Status.INVALID_ARGUMENT


async def test_more_calls_than_may_run_at_once_are_told_to_come_again() -> None:
    endpoint = make(max_concurrency=2)
    running, go_on = trio.Semaphore(0), trio.Event()

    @endpoint.function()
    async def waits(value: object) -> object:
        running.release()
        await go_on.wait()
        return value

    async with calling(endpoint) as caller, trio.open_nursery() as nursery:
        results: list[Status] = []

        async def call() -> None:
            results.append((await caller.run("waits")).status)

        for _ in range(2):
            nursery.start_soon(call)
        for _ in range(2):
            await running.acquire()
        assert (await caller.run("waits")).status == Status.THROTTLED
        go_on.set()
        while len(results) < 2:
            await trio.testing.wait_all_tasks_blocked()
        assert results == [Status.OK, Status.OK]
        # A function that fails gives its place back.
        for _ in range(5):
            assert (await caller.run("double")).status == Status.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status", "message"),
    [
        ("POST", "/elsewhere", {}, b"", 404, "there is nothing at /elsewhere"),
        ("GET", RUN_PATH, {}, b"", 405, "GET is not a method"),
        ("POST", RUN_PATH, {"content-type": "text/html"}, b"", 415, "not text/html"),
        ("POST", RUN_PATH, {}, b"\xff", 400, "the body is no RunRequest"),
    ],
)
async def test_what_is_no_call_is_refused(
    method: str, path: str, headers: dict[str, str], body: bytes, status: int, message: str
) -> None:
    async with calling(make()) as caller:
        answer = await caller.http.request(method, caller.url + path, content=body, headers=headers)
        assert answer.status_code == status
        assert message in answer.json()["message"]


async def test_a_body_that_is_too_large_is_refused_before_it_is_read() -> None:
    async with calling(make(max_body_size=100)) as caller:
        assert (await caller.run("double", "x" * 10)).status == Status.OK
        # Either the answer arrives, or the connection is gone before the body is out.
        try:
            answer = await caller.post(run_request("double", "x" * 200))
        except httpx.HTTPError:
            pass
        else:
            assert answer.status_code == 413


async def exchange(endpoint: Endpoint, data: bytes) -> bytes:
    """What *endpoint* answers to *data*, until it closes the connection."""
    ours, theirs = trio.testing.memory_stream_pair()
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(endpoint.handle, theirs)
        await ours.send_all(data)
        await ours.send_eof()
        async for chunk in ours:
            got += chunk
    return bytes(got)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: what\r\n\r\n", b"501"),
        (b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf", b"400"),
        (b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n", b"404"),
        (
            b"POST " + RUN_PATH.encode() + b" HTTP/1.1\r\nhost: a\r\n"
            b"expect: 100-continue\r\ncontent-length: 1\r\n\r\n",
            b"100",
        ),
        (b"", b""),
    ],
)
async def test_garbage_is_answered_and_the_connection_closed(data: bytes, status: bytes) -> None:
    answer = await exchange(make(), data)
    assert answer.split(b" ")[1 if status else 0] == status


async def test_a_connection_that_says_nothing_ends(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(make().handle, theirs)
        assert await ours.receive_some(10) == b""
    assert trio.current_time() == pytest.approx(connect.READ_TIMEOUT)


def test_names_are_checked() -> None:
    endpoint = make()
    with pytest.raises(ValueError, match="there is a function called 'double' already"):

        @endpoint.function("double")
        async def another(value: object) -> None: ...

    with pytest.raises(LookupError, match="no function 'other'"):
        endpoint.call("other")
    call = endpoint.call("double", 1, expiration=timedelta(1), version="v", correlation_id=7)
    assert (call.endpoint, call.function) == ("http://a.example/base", "double")
    assert (call.expiration, call.version, call.correlation_id) == (timedelta(1), "v", 7)
    assert repr(endpoint) == "<Endpoint http://a.example/base with 1 functions>"
    with pytest.raises(ValueError, match="http"):
        Endpoint("ftp://a.example")


async def test_a_client_needs_a_key_and_says_so_at_once() -> None:
    with pytest.raises(ValueError, match="no API key"):
        make().client()
    async with make(api_key="key").client(timeout=1) as client:
        assert repr(client) == "<Client of https://api.dispatch.run>"


async def test_leaving_the_block_cancels_what_runs_and_the_bodys_error_comes_out() -> None:
    endpoint = make()
    started, ended = trio.Event(), trio.Event()

    @endpoint.function()
    async def waits(value: object) -> None:
        started.set()
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    async with trio.open_nursery() as nursery:

        async def call(url: str) -> None:
            async with httpx.AsyncClient(trust_env=False) as http:
                with pytest.raises(httpx.HTTPError):
                    await http.post(url + RUN_PATH, content=run_request("waits"))

        with pytest.raises(ZeroDivisionError):
            async with endpoint.serve() as url:
                nursery.start_soon(call, url)
                await started.wait()
                raise ZeroDivisionError
        assert ended.is_set()


async def test_it_serves_on_ipv6() -> None:
    try:
        async with make().serve("::1") as url:
            assert url.startswith("http://[::1]:")
    except OSError:
        pytest.skip("there is no IPv6 here")
