"""The client of the Dispatch API: what it sends, and what becomes of each way to fail."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import trio
import trio.testing

from tests.remote.support import ApiService, HttpResponse, Step, ids, serve_http
from trio_dispatch import ConnectFailed, DispatchError, ProtocolError
from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.pipe import pipe
from trio_dispatch._wire.url import parse_url
from trio_dispatch.remote import (
    Call,
    CallFailed,
    Client,
    KeyRefused,
    open_client,
    unmarshal,
)
from trio_dispatch.remote import _client as module
from trio_dispatch.remote._messages import DispatchRequest

CALL = Call("http://a.example", "f", 1)


def error(status: int, code: str, message: str = "said the service") -> HttpResponse:
    body = json.dumps({"code": code, "message": message}).encode()
    return HttpResponse(status, "application/json", body)


@asynccontextmanager
async def scripted(
    *script: Step, timeout: float = 20
) -> AsyncGenerator[tuple[ApiService, Client], None]:
    service = ApiService(list(script))
    async with service.serve() as url, open_client("secret-key", url, timeout=timeout) as client:
        yield service, client


def hang_up() -> None:
    """A step of a script: the connection ends without an answer."""


@pytest.fixture(autouse=True)
def retry_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)


async def test_a_call_goes_out_as_the_wire_wants_it() -> None:
    async with scripted(ids("id-1")) as (service, client):
        call = Call(
            "https://a.example/x/",
            "f",
            {"a": 1},
            expiration=timedelta(minutes=1),
            version="v2",
            correlation_id=2**64 - 1,
        )
        assert await client.dispatch(call) == "id-1"
        (request,) = service.requests
        assert (request.method, request.target) == (
            "POST",
            "/dispatch.sdk.v1.DispatchService/Dispatch",
        )
        assert request.headers["authorization"] == "Bearer secret-key"
        assert request.headers["content-type"] == "application/proto"
        assert request.headers["connect-protocol-version"] == "1"
        assert request.headers["connect-timeout-ms"] == "20000"
        (sent,) = DispatchRequest.FromString(request.body).calls
        assert (sent.endpoint, sent.function, sent.version, sent.correlation_id) == (
            "https://a.example/x",
            "f",
            "v2",
            2**64 - 1,
        )
        assert sent.expiration.ToTimedelta() == timedelta(minutes=1)
        assert unmarshal(sent.input) == {"a": 1}


async def test_a_batch_is_one_request_and_its_ids_come_in_order() -> None:
    async with scripted(ids("x", "y", "z"), ids("u")) as (service, client):
        batch = client.batch()
        batch.add(CALL, Call("http://a.example", "g"))
        batch.add(Call("http://b.example", "h"))
        assert len(batch) == 3
        assert repr(batch) == "<Batch of 3 calls>"
        assert await batch.dispatch() == ["x", "y", "z"]
        (request,) = service.requests
        sent = DispatchRequest.FromString(request.body).calls
        assert [call.function for call in sent] == ["f", "g", "h"]
        # It keeps its calls until they are taken out.
        batch.reset()
        batch.add(CALL)
        assert await batch.dispatch() == ["u"]


async def test_an_empty_batch_is_refused_and_so_is_what_is_no_call() -> None:
    async with scripted() as (service, client):
        batch = client.batch()
        with pytest.raises(ValueError, match="the batch is empty; add calls first"):
            await batch.dispatch()
        with pytest.raises(TypeError, match="a batch holds calls, not str"):
            batch.add(CALL, "f")  # type: ignore[arg-type]
        assert len(batch) == 0
        assert not service.requests


@pytest.mark.parametrize(
    ("answer", "code", "maybe"),
    [
        (error(400, "invalid_argument"), "invalid_argument", False),
        (error(404, "not_found"), "not_found", False),
        (error(429, "resource_exhausted"), "resource_exhausted", False),
        (error(403, "permission_denied"), "permission_denied", False),
        (error(500, "internal"), "internal", True),
        (error(504, "deadline_exceeded"), "deadline_exceeded", True),
    ],
)
async def test_when_the_service_refuses_one_call_none_is_dispatched(
    answer: HttpResponse, code: str, maybe: bool
) -> None:
    async with scripted(answer) as (service, client):
        batch = client.batch()
        batch.add(CALL, CALL)
        with pytest.raises(CallFailed, match="said the service") as caught:
            await batch.dispatch()
        assert (caught.value.code, caught.value.maybe_accepted) == (code, maybe)
        ending = "it may have been accepted" if maybe else "nothing was accepted"
        assert str(caught.value).endswith(ending)
        assert isinstance(caught.value, DispatchError)
        assert len(service.requests) == 1
        # The batch can be tried again, as it was.
        service.script.append(ids("a", "b"))
        assert await batch.dispatch() == ["a", "b"]


async def test_a_wrong_key_is_named_by_its_source_and_three_characters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with scripted(
        error(401, "unauthenticated", "who are you?"), HttpResponse(401, "text/plain", b"no")
    ) as (service, client):
        with pytest.raises(KeyRefused) as caught:
            await client.dispatch(CALL)
        text = str(caught.value)
        assert "refused the API key 'sec'… given as api_key: who are you?" in text
        assert "secret" not in text
        with pytest.raises(KeyRefused):
            await client.dispatch(CALL)
        # From the environment, and a key that is short enough to be shown whole is not.
        monkeypatch.setenv("DISPATCH_API_KEY", "abc")
        monkeypatch.setenv("DISPATCH_API_URL", client._url)
        service.script.append(error(401, "unauthenticated"))
        async with open_client() as other:
            with pytest.raises(KeyRefused, match="'a'… of DISPATCH_API_KEY"):
                await other.dispatch(CALL)
        assert service.requests[-1].headers["authorization"] == "Bearer abc"


async def test_no_log_and_no_repr_shows_the_key(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted(ids("a")) as (_, client):
        await client.dispatch(CALL)
        assert client._url in repr(client)
        assert "secret" not in repr(client) + repr(vars(client)["_http"].headers)
    assert "secret-key" not in caplog.text


async def test_the_page_of_a_proxy_is_shown_and_may_hide_an_acceptance() -> None:
    page = HttpResponse(503, "text/html", b"<html>\n  <h1>Service Unavailable</h1></html>")
    async with scripted(page, HttpResponse(502, "application/json", b"{")) as (service, client):
        with pytest.raises(CallFailed) as caught:
            await client.dispatch(CALL)
        assert caught.value.code == "http 503"
        assert caught.value.maybe_accepted
        assert "text/html: <html> <h1>Service Unavailable</h1></html>" in str(caught.value)
        with pytest.raises(CallFailed, match="http 502"):
            await client.dispatch(CALL)
        assert len(service.requests) == 2  # neither is sent again


async def test_unavailable_is_tried_again_and_nothing_else() -> None:
    async with scripted(error(503, "unavailable"), error(503, "unavailable"), ids("a")) as (
        service,
        client,
    ):
        assert await client.dispatch(CALL) == "a"
        assert len(service.requests) == 3
        service.script += [error(503, "unavailable")] * module.ATTEMPTS
        with pytest.raises(CallFailed, match=r"unavailable.*nothing was accepted"):
            await client.dispatch(CALL)
        assert not service.script


async def test_a_connection_that_ends_without_an_answer_leaves_it_open() -> None:
    async with scripted(hang_up) as (service, client):
        with pytest.raises(CallFailed, match=r"connection_lost.*it may have been accepted"):
            await client.dispatch(CALL)
        assert len(service.requests) == 1


async def test_a_service_that_cannot_be_reached_has_accepted_nothing() -> None:
    with trio.socket.socket() as held:
        await held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        async with open_client("key", url) as client:
            with pytest.raises(ConnectFailed, match=f"cannot connect to {url}"):
                await client.dispatch(CALL)


async def test_a_timeout_says_that_it_may_have_been_accepted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    service = ApiService()
    async with trio.open_nursery() as nursery:

        async def connect(address: object) -> trio.abc.Stream:
            ours, theirs = pipe()
            nursery.start_soon(serve_http, theirs, service.answer, 2**20)
            return ours

        url = "http://a.example"
        transport = StreamTransport(parse_url(url, "http"), connect)
        async with httpx.AsyncClient(transport=transport, timeout=None) as http:
            client = Client(http, url, "given as api_key", 20)
            with pytest.raises(
                CallFailed, match=r"no answer .* within 20 s.*may have been"
            ) as caught:
                await client.dispatch(CALL)
        assert caught.value.code == "timeout"
        assert len(service.requests) == 1
        assert trio.current_time() == pytest.approx(20)
        nursery.cancel_scope.cancel()


async def test_cancelled_in_flight_a_batch_and_the_log_say_what_may_have_happened(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted() as (service, client):
        batch = client.batch()
        batch.add(CALL)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(batch.dispatch)
            await service.arrived.wait()
            nursery.cancel_scope.cancel()
        in_doubt = batch.maybe_accepted
        assert in_doubt
        assert "was cancelled; it may have been accepted" in caplog.text
        service.script.append(ids("a"))
        assert await batch.dispatch() == ["a"]
        assert not batch.maybe_accepted


async def test_cancelled_before_it_is_sent_nothing_can_have_been_accepted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with scripted() as (service, client):
        batch = client.batch()
        batch.add(CALL)
        with trio.CancelScope() as scope:
            scope.cancel()
            await batch.dispatch()
        assert scope.cancelled_caught
        assert not batch.maybe_accepted
        assert not caplog.records
        assert not service.requests


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (ids(), r"answered 1 calls with 0 ids; they may have been accepted"),
        (ids("a", "b"), r"answered 1 calls with 2 ids"),
        (ids(""), "an empty id"),
        (HttpResponse(200, "text/html", b"<html>"), r"cannot be read \(text/html\)"),
    ],
)
async def test_an_answer_that_makes_no_sense_is_an_error(
    answer: HttpResponse, message: str
) -> None:
    async with scripted(answer) as (_, client):
        with pytest.raises(ProtocolError, match=message):
            await client.dispatch(CALL)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (None, "no API key: pass api_key, or set the environment variable DISPATCH_API_KEY"),
        ("", "an API key"),
        ("two\nlines", "characters that no header can carry"),
        ("schlüssel", "characters that no header can carry"),
    ],
)
async def test_a_key_that_cannot_be_sent_is_refused(key: str | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        async with open_client(key):
            pass


@pytest.mark.parametrize("url", ["ftp://a.example", "a.example", "http://", "http://a.example:x"])
async def test_a_url_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for make in (lambda: open_client("key", url), partial(Call, url, "f")):
        with pytest.raises(ValueError, match=r"URL|url"):
            made = make()
            async with made:  # type: ignore[union-attr]
                pass
    monkeypatch.setenv("DISPATCH_API_URL", url)
    with pytest.raises(ValueError, match=r"URL|url"):
        async with open_client("key"):
            pass


async def test_without_a_url_it_is_that_of_the_service() -> None:
    async with open_client("key") as client:
        assert repr(client) == "<Client of https://api.dispatch.run>"


def test_a_call_is_checked_where_it_is_made() -> None:
    with pytest.raises(ValueError, match="function's name"):
        Call("http://a.example", "")
    with pytest.raises(TypeError, match="type object"):
        Call("http://a.example", "f", object())
    with pytest.raises(ValueError, match="positive"):
        Call("http://a.example", "f", expiration=timedelta(0))
    with pytest.raises(ValueError, match="correlation id"):
        Call("http://a.example", "f", correlation_id=2**64)
    assert Call("http://a.example", "f", 1) == CALL


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("http://a.example/x?y=1", "f"), {}, r"no query: http://a.example/x\?…"),
        (("http://user:secret@a.example/", "f"), {}, "no user info: http://a.example/"),
        (("bridge://", "f"), {}, "not a URL like"),
        (("arn:aws:s3:bucket", "f"), {}, "not a URL like"),
        (("http://a.example", "my-function"), {}, "not 'my-function'"),
        (("http://a.example", "1st"), {}, "begins with a letter"),
        (("http://a.example", "f\n"), {}, "function's name"),
        (("http://a.example", "größe"), {}, "letters of ASCII"),
        (("http://a.example", "f"), {"expiration": timedelta(days=4_000_000)}, "10,000 years"),
        (("http://a.example", "f"), {"version": "\ud800"}, "version"),
    ],
)
def test_what_a_service_would_refuse_is_refused_here(
    arguments: tuple[str, str], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Call(*arguments, **options)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "options", [{"expiration": 5}, {"correlation_id": "1"}, {"correlation_id": True}]
)
def test_arguments_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        Call("http://a.example", "f", **options)


@pytest.mark.parametrize(
    "endpoint", ["bridge://my-session", "arn:aws:lambda:eu-west-1:123456789012:function:f:1"]
)
def test_endpoints_behind_tunnels_and_lambdas_can_be_called(endpoint: str) -> None:
    assert Call(endpoint, "f").message().endpoint == endpoint  # type: ignore[attr-defined]


async def test_waiting_for_a_turn_does_not_count_into_the_timeout() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_REQUESTS", 3)
        async with scripted(timeout=20) as (service, client):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(client.dispatch, CALL)
                await trio.testing.wait_all_tasks_blocked(0.05)
                while len(service.requests) < 3:
                    await trio.testing.wait_all_tasks_blocked(0.05)
                # The others are not even connected, and none is counted as accepted, maybe.
                assert len(service.requests) == 3
                nursery.cancel_scope.cancel()
            service.accepts = True
            assert await client.dispatch(CALL)


async def test_what_the_body_raises_comes_out_unwrapped() -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_client("key"):
            raise ZeroDivisionError
