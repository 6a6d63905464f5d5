"""What endpoints and services read and refuse: codecs, compression, sizes, addresses, functions."""

from __future__ import annotations

import functools
import gzip
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from tests.remote.calling import calling_in_memory, make, run_request
from tests.remote.serving import serving
from trio_dispatch import remote
from trio_dispatch.remote import Call, Endpoint, Status, unmarshal
from trio_dispatch.remote._messages import RunRequest, RunResponse


async def test_gzip_is_read_and_written(autojump_clock: trio.testing.MockClock) -> None:
    async with calling_in_memory(make()) as caller:
        body = gzip.compress(run_request("double", "x" * 5000), mtime=0)
        answer = await caller.post(body, content_encoding="gzip", accept_encoding="gzip;q=1, br")
        assert answer.headers["content-encoding"] == "gzip"
        assert int(answer.headers["content-length"]) < 200
        output = RunResponse.FromString(answer.content).exit.result.output
        assert unmarshal(output) == "x" * 10_000
        # Neither what is small nor what the caller cannot read is compressed.
        for value, accepted in (("x", "gzip"), ("x" * 5000, "identity")):
            answer = await caller.post(run_request("double", value), accept_encoding=accepted)
            assert "content-encoding" not in answer.headers


async def test_a_service_reads_what_an_endpoint_compresses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint("http://a.example")

    @endpoint.function
    async def large() -> str:
        return "x" * 100_000

    async with serving(endpoint) as served:
        assert (await served.outcome(endpoint.call("large"))).value == "x" * 100_000


@pytest.mark.parametrize(
    ("headers", "body", "status", "code", "message"),
    [
        (
            {"content_type": "application/json"},
            b"{}",
            415,
            "invalid_argument",
            "this service does not speak Connect's JSON codec; send application/proto",
        ),
        ({"content_type": "application/grpc"}, b"", 415, "invalid_argument", "application/grpc"),
        ({"content_encoding": "br"}, b"", 501, "unimplemented", "gzip and identity, not br"),
        ({"content_encoding": "gzip"}, b"nothing", 400, "invalid_argument", "no gzip"),
        (
            {"content_encoding": "gzip"},
            gzip.compress(b"x" * 100, mtime=0)[:-4],
            400,
            "invalid_argument",
            "ends too early",
        ),
        (
            {"content_encoding": "gzip"},
            gzip.compress(b"x" * 10**6, mtime=0),
            413,
            "resource_exhausted",
            "larger than 100000 bytes",
        ),
        ({}, b"x" * 100_001, 413, "resource_exhausted", "larger than 100000 bytes"),
    ],
)
async def test_what_cannot_be_read_is_refused_with_its_reason(
    headers: dict[str, str],
    body: bytes,
    status: int,
    code: str,
    message: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with calling_in_memory(make(max_body_size=100_000)) as caller:
        answer = await caller.post(body, **headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert message in answer.json()["message"]
        if status == 415:
            assert answer.headers["accept-post"] == "application/proto"


async def test_functions_are_registered_in_each_way(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = Endpoint("http://a.example")

    @endpoint.function
    async def bare(value: int) -> int:
        return value

    @endpoint.function()
    async def called(value: int) -> int:
        return value

    @endpoint.function("named")
    async def _other(value: int) -> int:
        return value

    @endpoint.function(name="by_keyword")
    async def _third(value: int) -> int:
        return value

    @endpoint.function
    async def without_input() -> str:
        return "nothing in"

    @endpoint.function
    async def with_default(value: int = 5) -> int:
        return value

    class Adder:
        async def __call__(self, value: int) -> int:
            return value + 1

        async def method(self, value: int) -> int:
            return value + 2

    async def two(first: int, second: int) -> list[int]:
        return [first, second]

    endpoint.function("adder")(Adder())
    endpoint.function(Adder().method)
    endpoint.function("partly")(functools.partial(two, 1))
    assert await bare(1) == 1  # it is still the function

    async with serving(endpoint) as served:

        async def value(name: str, input: object = None) -> object:
            outcome = await served.outcome(Call("http://a.example", name, input))
            return outcome.value if outcome.ok else outcome.status

        for name in ("bare", "called", "named", "by_keyword", "with_default"):
            assert await value(name, 3) == 3
        assert await value("without_input") == "nothing in"
        assert await value("without_input", 1) is Status.INVALID_ARGUMENT
        assert await value("adder", 1) == 2
        assert await value("method", 1) == 3
        assert await value("partly", 2) == [1, 2]


def no_name() -> Any:
    return functools.partial(lambda value: value)


def generator(value: object) -> Iterator[object]:
    yield value


async def async_generator(value: object) -> Any:
    yield value


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda first, second: None, TypeError, "takes one argument, its input, or none"),
        (lambda value, *, more: None, TypeError, "takes one argument, its input, or none"),
        (generator, TypeError, "is a generator"),
        (async_generator, TypeError, "is a generator"),
        (no_name(), TypeError, "register it by one"),
        (lambda value: None, ValueError, "<lambda>"),
        (5, TypeError, "is a function, not 5"),
    ],
)
def test_what_cannot_be_called_is_refused_when_it_is_registered(
    function: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        Endpoint("http://a.example").function(function)


async def test_sync_functions_run_in_threads_of_the_endpoints_own_number() -> None:
    endpoint = make(max_concurrency=50)
    waiting = trio.Semaphore(0)
    go_on = trio.Event()

    @endpoint.function
    def waits(number: int) -> int:
        trio.from_thread.run_sync(waiting.release)
        trio.from_thread.run(go_on.wait)
        return number

    results: list[object] = []
    async with calling_in_memory(endpoint) as caller, trio.open_nursery() as nursery:

        async def call(number: int) -> None:
            results.append((await caller.run("waits", number)).status)

        for number in range(45):  # more than trio's own limit for threads
            nursery.start_soon(call, number)
        for _ in range(45):
            await waiting.acquire()
        go_on.set()
    assert results == [Status.OK] * 45


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        (":0", "127.0.0.1", 0),
        ("localhost:0", "127.0.0.1", 0),
    ],
)
async def test_the_environment_says_where_to_listen(
    address: str, host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCH_ENDPOINT_ADDR", address)
    monkeypatch.setenv("DISPATCH_ENDPOINT_URL", "http://functions.example/x/")
    endpoint = Endpoint()
    assert endpoint.url == "http://functions.example/x"
    async with endpoint.serve() as url:
        assert url.startswith(f"http://{host}:") or "[::1]" in url
        assert endpoint.url == "http://functions.example/x"


@pytest.mark.parametrize("address", ["8000", "a.example", "127.0.0.1:x", "127.0.0.1:99999"])
async def test_an_address_that_is_none_is_refused(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCH_ENDPOINT_ADDR", address)
    with pytest.raises(ValueError, match="DISPATCH_ENDPOINT_ADDR"):
        async with Endpoint().serve():
            pass


async def test_an_endpoint_without_a_url_gets_that_of_its_address() -> None:
    endpoint = Endpoint()
    endpoint.function("f")(lambda value: value)
    assert repr(endpoint) == "<Endpoint without a URL with 1 functions>"
    for use in (lambda: endpoint.url, lambda: endpoint.call("f")):
        with pytest.raises(ValueError, match="the endpoint has no URL: pass url, set"):
            use()
    async with endpoint.serve() as url:
        assert endpoint.call("f").endpoint == endpoint.url == url


async def test_a_time_that_no_clock_has_is_no_reason_to_fail(
    autojump_clock: trio.testing.MockClock,
) -> None:
    endpoint = make()
    found: list[remote.CurrentCall] = []

    @endpoint.function
    async def f() -> None:
        found.append(remote.current_call())

    async with calling_in_memory(endpoint) as caller:
        request = RunRequest.FromString(run_request("f"))
        request.expiration_time.seconds = 2**60
        request.creation_time.nanos = -5
        answer = await caller.post(request.SerializeToString())
        assert RunResponse.FromString(answer.content).status == Status.OK
    assert found[0].expiration_time is None
