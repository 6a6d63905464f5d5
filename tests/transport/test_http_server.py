"""The h11 loop: exchanges in order, and a guard around every connection."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from trio_dispatch._transport.http_server import (
    MAX_DISCARDED,
    BodyTooLarge,
    Exchange,
    Response,
    serve_connection,
)
from trio_dispatch._transport.pipe import PipeEnd, pipe

LOGGER = logging.getLogger("tests.http_server")
GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(exchange: Exchange) -> None:
    """Answer with what was asked."""
    request = exchange.request
    body = await exchange.read_body()
    text = f"{request.method} {request.target} ".encode() + body
    await exchange.respond(Response(200, [("X-A", "1")], text))


async def ignore(exchange: Exchange) -> None:
    """Answer without a look at the body."""
    await exchange.respond(Response(404, (), b"no"))


async def serve(
    stream: trio.abc.Stream,
    handle: Callable[[Exchange], Awaitable[None]],
    *,
    max_head_size: int = 1000,
    read_timeout: float | None = None,
) -> None:
    await serve_connection(
        stream,
        handle,
        logger=LOGGER,
        max_body_size=100,
        max_head_size=max_head_size,
        read_timeout=read_timeout,
    )


async def talk(
    data: bytes, handle: Callable[[Exchange], Awaitable[None]] = echo, *, eof: bool = True
) -> bytes:
    """What the server answers to *data*, until it ends the connection."""
    ours, theirs = pipe()
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, handle)
        nursery.start_soon(send, ours, data, eof)
        try:
            async for chunk in ours:
                got += chunk
        except trio.BrokenResourceError:
            got += b"<reset>"
    return bytes(got)


async def send(stream: PipeEnd, data: bytes, eof: bool) -> None:
    try:
        await stream.send_all(data)
        if eof:
            await stream.send_eof()
    except trio.BrokenResourceError:
        pass


async def test_requests_are_answered_in_their_order_and_with_reasons() -> None:
    post = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    answer = await talk(GET + post + b"GET /c HTTP/1.0\r\n\r\n")
    heads = [line for line in answer.split(b"\r\n") if b"HTTP/1." in line]
    assert answer.count(b"X-A: 1\r\n") == 3
    assert heads[0] == b"HTTP/1.1 200 OK"
    assert heads[1] == b"GET /a HTTP/1.1 200 OK"
    assert heads[2] == b"POST /b abcHTTP/1.0 200 OK"
    assert answer.endswith(b"GET /c ")


async def test_a_client_that_sends_no_more_still_gets_its_answer() -> None:
    assert (await talk(GET)).endswith(b"GET /a ")


async def test_the_answer_to_a_head_request_has_no_body() -> None:
    answer = await talk(b"HEAD /a HTTP/1.1\r\nHost: x\r\n\r\n" + GET)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert b"Content-Length: 8\r\n\r\nHTTP/1.1" in answer


@pytest.mark.parametrize(
    ("data", "first_line"),
    [
        (b"\x16\x03\x01\x02\x00garbage\r\n\r\n", b"HTTP/1.1 400 Bad Request"),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: what\r\n\r\n", b"HTTP/1.1 501 "),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 70_000 + b"\r\n\r\n", b"HTTP/1.1 431 "),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", b"HTTP/1.1 505 HTTP Version Not Supported"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nExpect: more\r\n\r\n", b"HTTP/1.1 417 Expectation Failed"),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET a HTTP/1.1\r\nHost: a\r\nExpect: x\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400 "),
        (b"GET ?a HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 400 "),
    ],
)
async def test_what_is_no_request_is_refused_and_ends_the_connection(
    data: bytes, first_line: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    answer = await talk(data + GET, eof=False)
    assert answer.startswith(first_line)
    assert b"Connection: close" in answer
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_body_may_wait_to_be_asked_for_and_is_not_if_nobody_reads_it() -> None:
    head = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert (await talk(head + b"abc")).startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
    refused = await talk(head, ignore)
    assert refused.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Connection: close" in refused


async def test_a_body_that_nobody_reads_is_thrown_away_up_to_a_bound(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def post(size: int) -> bytes:
        return b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size

    assert (await talk(post(1000) + GET, ignore)).count(b"404 Not Found") == 2
    assert (await talk(post(MAX_DISCARDED * 2) + GET, ignore, eof=False)).count(b"404") == 1


async def test_a_body_that_is_too_large_is_refused() -> None:
    async def handle(exchange: Exchange) -> None:
        with pytest.raises(BodyTooLarge):
            await exchange.read_body()
        await exchange.respond(Response(413))

    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 200\r\n\r\n" + b"x" * 200
    assert (await talk(body, handle)).startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")


async def test_what_a_handler_raises_is_logged_and_ends_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fails(exchange: Exchange) -> None:
        raise trio.BrokenResourceError("another connection's")

    assert (await talk(GET + GET, fails)).startswith(b"HTTP/1.1 500 Internal Server Error")
    assert "its connection ends" in caplog.text


async def test_a_handler_that_does_not_answer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def silent(exchange: Exchange) -> None:
        pass

    assert await talk(GET, silent) == b""
    assert "was not answered" in caplog.text


async def test_a_client_that_leaves_is_noticed_while_a_response_takes_its_time() -> None:
    left: list[str] = []

    async def slow(exchange: Exchange) -> None:
        await exchange.wait_left()
        left.append(exchange.request.target)
        await exchange.respond(Response(200))

    assert (await talk(GET, slow)).startswith(b"HTTP/1.1 200 OK")
    ours, theirs = pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, slow)
        await ours.send_all(GET)
        await trio.testing.wait_all_tasks_blocked()
        ours.reset()
    assert left == ["/a", "/a"]


async def test_a_response_may_come_in_pieces() -> None:
    async def pieces(exchange: Exchange) -> None:
        await exchange.begin_response(200, [("Transfer-Encoding", "chunked")])
        for piece in (b"a", b"b"):
            await exchange.send(piece)
        await exchange.end_response()

    answer = await talk(GET + GET, pieces)
    assert answer.count(b"\r\n\r\n1\r\na\r\n1\r\nb\r\n0\r\n\r\n") == 2


async def test_an_upgrade_does_not_wait_for_a_body_and_drops_what_came_with_the_request() -> None:
    async def takes_over(exchange: Exchange) -> None:
        stream = await exchange.upgrade([("Upgrade", "x")])
        await stream.send_all(b"hello")

    head = b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: x\r\nConnection: upgrade\r\n"
    for more in (b"\r\n", b"Content-Length: 3\r\n\r\n"):
        answer = await talk(head + more, takes_over, eof=False)
        assert answer == b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nhello"


async def test_a_request_that_does_not_arrive_in_time_ends_the_connection(
    autojump_clock: trio.testing.MockClock,
) -> None:
    for data in (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"):
        ours, theirs = pipe()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda stream: serve(stream, echo, read_timeout=75), theirs)
            await ours.send_all(data)
            assert await ours.receive_some() == b""
        assert trio.current_time() - start == 75


async def reset_after(data: bytes) -> None:
    ours, theirs = pipe()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve, theirs, echo)
        await ours.send_all(data)
        await trio.testing.wait_all_tasks_blocked()
        ours.reset()


@pytest.mark.parametrize("data", [b"", b"garbage\r\n\r\n", b"HEAD / HTTP/1.1\r\n", GET])
async def test_a_reset_is_no_error(data: bytes) -> None:
    await reset_after(data)


PARTS = st.sampled_from(
    [
        GET,
        b"HEAD / HTTP/1.1\r\n",
        b"POST /x HTTP/1.1\r\nHost: x\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"Content-Length: 3\r\n",
        b"Content-Length: -1\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Upgrade: websocket\r\nConnection: upgrade\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: close\r\n",
        b"\r\n",
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
    ]
)


@settings(max_examples=300, deadline=None)
@given(parts=st.lists(PARTS | st.binary(max_size=20), max_size=8), reset=st.booleans())
def test_nothing_that_a_client_sends_comes_out_as_an_exception(
    parts: list[bytes], reset: bool
) -> None:
    data = b"".join(parts)
    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(reset_after if reset else talk, data, clock=clock)


async def test_an_interrupt_comes_out_even_if_the_connection_is_cancelled_meanwhile() -> None:
    async def interrupted(exchange: Exchange) -> None:
        raise KeyboardInterrupt

    ours, theirs = pipe()
    with trio.CancelScope() as scope, pytest.raises(KeyboardInterrupt):
        await ours.send_all(GET)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs, interrupted)
            await trio.lowlevel.checkpoint()
            scope.cancel()
