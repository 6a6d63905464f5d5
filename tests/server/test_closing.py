"""How WebSocket sessions end, and what a client can make the server store."""

from __future__ import annotations

import logging
import tracemalloc
from contextlib import suppress

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.server.compare.raw import masked
from tests.server.peer import TOKENS, connect, dropped
from trio_dispatch._transport.pipe import pipe
from trio_dispatch.server import Server
from trio_dispatch.server._closing import close_reply
from trio_dispatch.server._http import ServerConnection
from trio_dispatch.server._writer import ROOM

CLOSE = 0x88
PING = 0x89


@pytest.mark.parametrize(
    ("payload", "reply"),
    [
        (b"", b""),
        (b"\x03\xe8", b"\x03\xe8"),
        (b"\x03\xe8bye", b"\x03\xe8"),
        (b"\x0b\xb8", b"\x0b\xb8"),
        (b"\x13\x88", b"\x13\x88"),
        (b"\x03", b"\x03\xeastatus code is not in use"),
        (b"\x03\xe7", b"\x03\xeastatus code is not in use"),
        (b"\x03\xec", b"\x03\xeastatus code has no meaning yet"),
        (b"\x03\xed", b"\x03\xeastatus code is only application level"),
        (b"\x04\x00", b"\x03\xeastatus code is not defined in spec"),
        (b"\x03\xe8\xff", b"\x03\xeainvalid utf8 sequence in close reason"),
    ],
)
def test_a_close_frame_is_answered_as_by_a_real_server(payload: bytes, reply: bytes) -> None:
    assert close_reply(masked(payload, CLOSE)) == bytes((CLOSE, len(reply))) + reply


async def test_a_close_frame_ends_the_session_once_its_turn_has_come() -> None:
    server = Server(TOKENS)
    async with server.run():
        peer = await connect(server)
        frames = masked(b'{"id":"1","method":"stats"}') + masked(b"\x03\xe8bye", CLOSE)
        await peer.send_bytes(frames + masked(b'{"id":"2","method":"stats"}'))
        assert (await peer.answer())["correl_id"] == "1"
        assert await dropped(peer) == 1000
        assert server.connections == []


async def test_a_client_that_pings_and_reads_nothing_is_read_no_more(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, max_message_size=1000)
    async with server.run(), trio.open_nursery() as nursery:
        ours, theirs = pipe()
        nursery.start_soon(ServerConnection(server._hub, theirs).run)
        peer = await _upgraded(ours)
        pings = masked(b"x" * 125, PING) * 500
        sent = 0
        tracemalloc.start()
        with trio.move_on_after(60):
            while True:
                await peer.send_all(pings)
                sent += len(pings)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        # Two pipes, what waits to be read, and what waits to be written.
        assert sent < 4 * ROOM
        assert grown < 8 * ROOM
        nursery.cancel_scope.cancel()


async def _upgraded(stream: trio.abc.HalfCloseableStream) -> trio.abc.HalfCloseableStream:
    await stream.send_all(
        b"GET /dwp HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert b" 101 " in await stream.receive_some()
    return stream


async def test_empty_fragments_are_not_kept() -> None:
    server = Server(TOKENS)
    async with server.run():
        peer = await connect(server)
        frame = b'{"id":"1","method":"stats"}'
        await peer.send_bytes(masked(b"", 0x01) + masked(b"", 0x00) * 1000)
        await peer.send_bytes(masked(frame, 0x80))
        assert (await peer.answer())["correl_id"] == "1"


BYTES = st.one_of(
    st.binary(max_size=40),
    st.builds(masked, st.binary(max_size=30), st.integers(0, 255)),
    st.builds(lambda text: masked(text.encode()), st.text('{}[]":,idmethodnull0.e-', max_size=30)),
    st.sampled_from(
        [
            masked(b'{"id":"1","method":"auth","data":{"token":"demo-token"}}'),
            masked(b'{"id":"1","method":"auth","data":{"token":"ro","format":"msgpack"}}'),
            masked(b'{"method":"subscribe","data":{"channel":"jobs"}}'),
            masked(b'{"method":"job.enqueue","data":{"payload":"\\ud800"}}'),
            masked(b'{"type":"ping","ts":"9999-12-31T23:59:59+24:00"}'),
            masked(b'{"credits":9223372036854775807}'),
            masked(b"\x82\xa2id\xa1x\xa2ts\xc0", 0x82),
            masked(b"\x82\xa2id\xa1x\xa2ts\xd6\xff\xff\xff\xff\xff", 0x82),
        ]
    ),
)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(BYTES, max_size=8), reset=st.booleans())
def test_nothing_that_a_client_sends_ends_the_server(parts: list[bytes], reset: bool) -> None:
    async def main() -> None:
        server = Server(TOKENS, logger=_strict_logger())
        async with server.run():
            ours = await server.open_stream()
            await _upgraded(ours)
            try:
                for part in parts:
                    await ours.send_all(part)
                if not reset:
                    await ours.send_eof()
                    while await ours.receive_some():
                        pass
            except trio.BrokenResourceError:
                pass
            await trio.aclose_forcefully(ours)
            other = await connect(server)
            assert (await other.request("stats"))["type"] == "response"

    trio.run(main, clock=MockClock(autojump_threshold=0))


HTTP = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [
            b"GET /dwp/sse?token=demo-token&channel=jobs HTTP/1.1\r\n",
            b"POST /dwp/rpc HTTP/1.1\r\n",
            b"GET /dwp HTTP/1.1\r\n",
            b"HEAD //dwp HTTP/1.0\r\n",
            b"CONNECT x HTTP/1.1\r\n",
            b"Host: x\r\n",
            b"Content-Length: 25\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Type: application/x-www-form-urlencoded\r\n",
            b"Authorization: demo-token\r\n",
            b"Expect: 100-continue\r\n",
            b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n",
            b"\r\n",
            b'{"id":"1","credits":9,    ',
            b'"ts":"","method":"stats" }',
            b"19\r\n",
            b"0\r\n\r\n",
        ]
    ),
)


@settings(max_examples=80, deadline=None)
@given(parts=st.lists(HTTP, max_size=10), reset=st.booleans())
def test_nothing_that_a_client_sends_over_http_ends_the_server(
    parts: list[bytes], reset: bool
) -> None:
    async def main() -> None:
        server = Server(TOKENS, logger=_strict_logger())
        async with server.run():
            ours = await server.open_stream()
            with suppress(trio.BrokenResourceError):
                await ours.send_all(b"".join(parts))
                if not reset:
                    await ours.send_eof()
                    while await ours.receive_some():
                        pass
            await trio.aclose_forcefully(ours)
            other = await connect(server)
            assert (await other.request("stats"))["type"] == "response"

    trio.run(main, clock=MockClock(autojump_threshold=0))


def _strict_logger() -> logging.Logger:
    """A logger to which no failure of ours may be told."""

    class Strict(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise AssertionError(record.getMessage()) from (record.exc_info or (None, None))[1]

    logger = logging.Logger("strict", logging.ERROR)  # noqa: LOG001 - in no registry
    logger.addHandler(Strict())
    return logger
