"""Both libraries behind `Transport`: what servers send, split in any way, and what goes out."""

from __future__ import annotations

import random
from typing import Any

import msgpack
import pytest
import trio
from websockets.frames import Opcode

from tests import recorded
from tests.transport.websocket.scripted import (
    LIBRARIES,
    ScriptedStream,
    binary,
    frame,
    open_scripted,
    text,
)
from trio_dispatch._transport.websocket import Library, Transport, TransportClosed
from trio_dispatch._wire.codecs import JSON, MSGPACK
from trio_dispatch._wire.frames import Message

either_library = pytest.mark.parametrize("library", LIBRARIES)

PACKED = [message.payload for message in recorded.messages("msgpack_codec")]


async def everything(transport: Transport) -> tuple[list[bytes], str]:
    """All messages until the connection ends, and how it ended."""
    messages: list[bytes] = []
    with trio.fail_after(1):
        while True:
            try:
                got = await transport.receive()
            except TransportClosed as exc:
                return messages, str(exc)
            messages += [m.encode() if isinstance(m, str) else m for m in got]


@either_library
async def test_recorded_msgpack_arrives_in_every_chunking(
    autojump_clock: object, library: Library
) -> None:
    """Recording ``msgpack_codec``: its bytes came under the TEXT opcode."""
    script = b"".join(map(text, PACKED))
    rng = random.Random(1)
    chunkings = [[size] for size in range(1, 150)]
    chunkings += [[cut, 65536] for cut in range(100, len(script), 97)]  # 100 bytes of response
    chunkings += [[rng.randint(1, 60) for _ in range(1_000)] for _ in range(20)]
    for chunks in chunkings:
        stream = ScriptedStream(script, chunks)
        async with open_scripted(stream, library, text_is_utf8=False) as transport:
            messages, _ = await everything(transport)
        assert messages == PACKED, chunks
    assert all(MSGPACK.decode(message).type for message in PACKED)


@either_library
async def test_msgpack_may_come_as_binary_and_refusals_as_json(
    autojump_clock: object, library: Library
) -> None:
    refusal = b'{"type":"error","error":{"code":401,"message":"authentication failed"}}'
    script = binary(PACKED[1]) + text(refusal)
    async with open_scripted(ScriptedStream(script), library, text_is_utf8=False) as transport:
        messages, _ = await everything(transport)
    assert messages == [PACKED[1], refusal]
    assert MSGPACK.decode(messages[1]).error is not None


@either_library
@pytest.mark.parametrize("text_is_utf8", [True, False])
async def test_fragments_with_control_frames_between_them(
    autojump_clock: object, library: Library, text_is_utf8: bool
) -> None:
    word = "grün".encode()
    script = (
        frame(Opcode.TEXT, b"", fin=False)
        + frame(Opcode.CONT, word[:3], fin=False)  # in the middle of the ü
        + frame(Opcode.PING, b"1")
        + frame(Opcode.CONT, b"", fin=False)
        + frame(Opcode.PONG, b"?")
        + frame(Opcode.CONT, word[3:])
        + frame(Opcode.PING, b"2")
        + text(b"next")
    )
    for size in range(1, 40):
        stream = ScriptedStream(script, [size])
        async with open_scripted(stream, library, text_is_utf8=text_is_utf8) as transport:
            messages, _ = await everything(transport)
            assert messages == [word, b"next"]


@either_library
async def test_pings_are_answered_although_nothing_else_is_sent(
    autojump_clock: object, library: Library
) -> None:
    stream = ScriptedStream(frame(Opcode.PING, b"are you there"), ends=False)
    async with open_scripted(stream, library) as transport:
        with trio.move_on_after(1):
            while not transport.pending:
                await transport.receive()
        await transport.flush()
        assert not transport.pending
        (pong,) = stream.received()
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"are you there")


async def test_who_pings_and_reads_nothing_is_not_read(autojump_clock: object) -> None:
    flood = frame(Opcode.PING, b"x" * 125) * 10_000
    stream = ScriptedStream(flood, ends=False)
    async with open_scripted(stream, "websockets") as transport:
        with pytest.raises(trio.TooSlowError):
            await everything(transport)
        assert not stream.read
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def write() -> None:
                while not stream.read:
                    await transport.flush()
                nursery.cancel_scope.cancel()

            await everything(transport)
        assert len(stream.received()) > 9_000


@either_library
async def test_a_batch_goes_out_in_one_write_in_order(
    autojump_clock: object, library: Library
) -> None:
    writes: list[int] = []

    class Counting(ScriptedStream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            writes.append(len(data))
            await super().send_all(data)

    stream = Counting(b"", ends=False)
    async with open_scripted(stream, library) as transport:
        writes.clear()
        await transport.send([Message(f'"{n}"'.encode(), binary=bool(n % 2)) for n in range(1_000)])
        assert len(writes) == 1
        frames = stream.received()
        assert [bytes(sent.data) for sent in frames] == [f'"{n}"'.encode() for n in range(1_000)]
        assert {sent.opcode for sent in frames[::2]} == {Opcode.TEXT}
        assert {sent.opcode for sent in frames[1::2]} == {Opcode.BINARY}


# How it ends.


@either_library
@pytest.mark.parametrize(
    ("close", "how"),
    [
        (b"\x03\xe9going down", "closed with code 1001: going down"),
        (b"\x03\xe8", "closed with code 1000"),
        (b"", "closed with code 1005"),
    ],
)
async def test_the_peers_close_frame_is_told_and_answered(
    autojump_clock: object, library: Library, close: bytes, how: str
) -> None:
    script = text(b"last words") + frame(Opcode.CLOSE, close) + text(b"garbage")
    stream = ScriptedStream(script, ends=False)
    async with open_scripted(stream, library) as transport:
        messages, ending = await everything(transport)
        assert (messages, ending) == ([b"last words"], f"the WebSocket was {how}")
        assert [sent.opcode for sent in stream.received()] == [Opcode.CLOSE]
        with pytest.raises(TransportClosed, match="closed with code"):
            await transport.send([Message(b"x", binary=False)])


@either_library
async def test_an_end_without_a_close_frame(autojump_clock: object, library: Library) -> None:
    stream = ScriptedStream(text(b"a") + text(b"cut")[:-1])
    async with open_scripted(stream, library) as transport:
        assert await everything(transport) == (
            [b"a"],
            "the connection broke without a close frame",
        )


@either_library
async def test_closing_waits_for_the_peers_close_frame(
    autojump_clock: object, library: Library
) -> None:
    stream = ScriptedStream(b"", ends=False)
    async with open_scripted(stream, library) as transport:
        done = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(everything, transport)

            @nursery.start_soon
            async def close() -> None:
                await transport.aclose()
                done.set()

            await trio.testing.wait_all_tasks_blocked()
            assert not done.is_set()
            (sent,) = stream.received()
            assert (sent.opcode, bytes(sent.data)) == (Opcode.CLOSE, b"\x03\xe8")
            stream.say(b"")
            stream.say(text(b"garbage?") + frame(Opcode.CLOSE, b"\x03\xe8"))
            with trio.fail_after(1):
                await done.wait()


@either_library
@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(text(b"\xff\xfe"), id="text that is not UTF-8"),
        pytest.param(b"\xf1\x01x", id="reserved bits"),
        pytest.param(b"\x83\x01x", id="unknown opcode"),
        pytest.param(frame(Opcode.CONT, b"x"), id="continues nothing"),
        pytest.param(b"\x81\x81aaaax", id="masked"),
        pytest.param(b"\x89\x7e\x00\x80" + b"x" * 128, id="a control frame too long"),
        pytest.param(b"\x81\x7f\x80" + b"\x00" * 7, id="a negative length"),
    ],
)
async def test_a_breach_of_the_websocket_protocol_ends_it(
    autojump_clock: object, library: Library, broken: bytes
) -> None:
    for size in (1, 2, 65536):
        stream = ScriptedStream(text(b"fine") + broken + text(b"late"), [size], ends=True)
        async with open_scripted(stream, library) as transport:
            messages, ending = await everything(transport)
            assert messages == [b"fine"]
            assert "protocol" in ending or "code 100" in ending or "UTF-8" in ending, ending


@either_library
@pytest.mark.parametrize("text_is_utf8", [True, False])
async def test_a_message_beyond_the_maximum_is_refused_before_it_is_there(
    autojump_clock: object, library: Library, text_is_utf8: bool
) -> None:
    header = b"\x81\x7f" + (10**15).to_bytes(8, "big")
    stream = ScriptedStream(text(b"a" * 1000) + header + b"x" * 1001, ends=False)
    async with open_scripted(
        stream, library, max_message_size=1000, text_is_utf8=text_is_utf8
    ) as transport:
        messages, ending = await everything(transport)
        # trio-websocket forgets what it has read when it closes the connection itself.
        assert messages == [b"a" * 1000] or library == "trio-websocket"
        assert "1009" in ending or "exceeds limit" in ending


@either_library
async def test_fragments_beyond_the_maximum_are_refused(
    autojump_clock: object, library: Library
) -> None:
    part = frame(Opcode.CONT, b"y" * 100, fin=False)
    script = frame(Opcode.TEXT, b"x" * 100, fin=False) + part * 10_000
    stream = ScriptedStream(script, [1024], ends=False)
    async with open_scripted(stream, library, max_message_size=1000) as transport:
        messages, ending = await everything(transport)
        assert messages == []
        assert "1009" in ending or "exceeds limit" in ending


# What we send.


@either_library
async def test_what_we_send_as_msgpack_a_strict_reader_reads(
    autojump_clock: object, library: Library
) -> None:
    from datetime import datetime, timezone

    from trio_dispatch import Frame

    sent = Frame(
        id="t1",
        type="request",
        method="job.enqueue",
        data={"name": "send-email", "payload": {"to": "grün"}},
        ts=datetime(2026, 11, 21, tzinfo=timezone.utc),
    )
    stream = ScriptedStream(b"", ends=False)
    async with open_scripted(stream, library, text_is_utf8=False) as transport:
        await transport.send([Message(MSGPACK.encode(sent), binary=True)])
        (got,) = stream.received()
    assert got.opcode is Opcode.BINARY
    fields: dict[str, Any] = msgpack.unpackb(bytes(got.data), raw=False, strict_map_key=True)
    assert type(fields["data"]) is bytes
    assert type(fields["ts"]) is msgpack.Timestamp
    assert JSON.decode(b'{"data":' + fields["data"] + b"}").data
