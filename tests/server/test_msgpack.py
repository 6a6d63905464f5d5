"""Sessions that agreed on msgpack."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from trio.testing import MockClock
from websockets.frames import Opcode

from tests.server.peer import TOKENS, Message, Peer, connect, dropped
from trio_dispatch.server import Server


@pytest.fixture
def server() -> Server:
    """A server that knows no job and no workflow."""
    return Server(TOKENS)


def unpack(message: Message) -> Any:
    assert message.opcode is Opcode.TEXT
    return msgspec.msgpack.decode(message.payload)


async def msgpack_peer(server: Server) -> Peer:
    peer = await connect(server, token=None)
    await peer.send(id="1", method="auth", data={"token": "demo-token", "format": "msgpack"})
    assert msgspec.json.decode(unpack(await peer.receive())["data"])["format"] == "msgpack"
    return peer


async def test_msgpack_answers_travel_as_text_messages(server: Server) -> None:
    async with server.run():
        peer = await msgpack_peer(server)
        assert server.connections[0].format == "msgpack"
        await peer.send_binary(msgspec.msgpack.encode({"id": "p", "type": "ping"}))
        pong = unpack(await peer.receive())
        assert (pong["type"], pong["correl_id"], pong["ts"].year) == ("pong", "p", 1)
        data = b'{"channel": "jobs"}'
        for form in (data, data.decode()):
            frame = {"id": "s", "method": "subscribe", "data": form}
            await peer.send_binary(msgspec.msgpack.encode(frame))
            answer = unpack(await peer.receive())
            assert answer["data"] == b'{"channel":"jobs","status":"subscribed"}'


@pytest.mark.parametrize(
    "frame", [{"id": "x", "data": {}}, {"id": "x", "ts": "2026-01-02T03:04:05Z"}, [1], 7]
)
async def test_msgpack_that_is_no_frame_is_answered_and_forgotten(
    server: Server, frame: Any
) -> None:
    async with server.run():
        peer = await msgpack_peer(server)
        await peer.send_binary(msgspec.msgpack.encode(frame))
        answer = unpack(await peer.receive())
        assert answer["error"]["code"] == 400
        assert "correl_id" not in answer


async def test_msgpack_in_a_text_message_drops_the_connection(
    server: Server, autojump_clock: MockClock
) -> None:
    async with server.run():
        peer = await msgpack_peer(server)
        await peer.send_text(msgspec.msgpack.encode({"id": "x", "method": "stats"}))
        assert await dropped(peer) is None


async def test_a_nil_ts_drops_the_connection(server: Server, autojump_clock: MockClock) -> None:
    async with server.run():
        peer = await msgpack_peer(server)
        await peer.send_binary(msgspec.msgpack.encode({"id": "x", "ts": None}))
        assert await dropped(peer) is None
