"""Upgrades that are refused: one line with the status, soon, whatever the answer looks like."""

from __future__ import annotations

import pytest
import trio
from trio.testing import memory_stream_pair

from trio_dispatch._transport.websocket import (
    Library,
    TransportClosed,
    UpgradeRefused,
    open_transport,
)
from trio_dispatch._transport.websocket.refusal import MAX_HEAD, REFUSAL_SIZE, REFUSAL_TIME
from trio_dispatch._wire.url import parse_url

LIBRARIES: tuple[Library, ...] = ("trio-websocket", "websockets")
PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"

pytestmark = pytest.mark.parametrize("library", LIBRARIES)


async def upgrade(library: Library, *answer: bytes, ends: bool = True) -> Exception:
    """Try to upgrade; the server answers with *answer*, in pieces. Returns what was raised."""
    ours, theirs = memory_stream_pair()

    async def connect(address: object) -> trio.abc.Stream:
        return ours

    async def serve() -> None:
        await theirs.receive_some()
        for piece in answer:
            await theirs.send_all(piece)
            await trio.sleep(0.01)
        if ends:
            await theirs.send_eof()

    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        try:
            await open_transport(
                nursery,
                parse_url("ws://localhost/dwp", "ws"),
                headers=(),
                max_message_size=1000,
                library=library,
                connector=connect,
            )
        except (UpgradeRefused, TransportClosed) as exc:
            error = exc
    assert error is not None
    return error


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("head", [b"", b"Content-Length: %d\r\n" % len(PAGE)])
async def test_a_proxys_page_becomes_one_line_with_the_status(
    library: Library, ends: bool, head: bytes, autojump_clock: object
) -> None:
    head = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\n" + head + b"\r\n"
    before = trio.current_time()
    for answer in ((head + PAGE,), (head[:20], head[20:], PAGE[:9], PAGE[9:])):
        error = await upgrade(library, *answer, ends=ends)
        assert isinstance(error, UpgradeRefused)
        assert error.status == 502
        assert str(error).endswith("answered with HTTP 502 Bad Gateway (an HTML page)")
    assert trio.current_time() - before <= 2 * REFUSAL_TIME + 1


async def test_what_the_server_says_is_shown_without_the_token(
    library: Library, autojump_clock: object
) -> None:
    error = await upgrade(
        library,
        b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 20\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"c\r\ndraining s3c\r\n3\r\nret\r\n0\r\n\r\n",
    )
    assert isinstance(error, UpgradeRefused)
    assert "503 Service Unavailable (Retry-After: 20): draining" in error.describe("s3cret")
    assert "s3cret" not in error.describe("s3cret")


@pytest.mark.parametrize(
    ("answer", "shown"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\n\r\nnot here", "404 Not Found"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 100\r\n\r\nnot here", "not here"),
        (b"HTTP/1.0 400\r\n\r\n", "HTTP 400 Bad Request"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n" + b"x" * 10 * REFUSAL_SIZE, "HTTP 403 Forbidden: xxx"),
    ],
)
async def test_odd_refusals_are_shown_as_well(
    library: Library, answer: bytes, shown: str, autojump_clock: object
) -> None:
    error = await upgrade(library, answer)
    assert isinstance(error, UpgradeRefused)
    assert shown in str(error)
    assert len(str(error)) < 300


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"x" * MAX_HEAD, b""]
)
async def test_what_is_no_answer_ends_the_attempt(
    library: Library, answer: bytes, autojump_clock: object
) -> None:
    assert isinstance(await upgrade(library, answer), TransportClosed)
