"""The WebSocket side: handshake, frames, closing, sessions, and clients that leave or misbehave."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock
from websockets.frames import Frame, Opcode

from tests.server.peer import TOKENS, HttpPeer, Message, Peer, connect, dropped, running
from trio_dispatch.server import Identity, Server, Workflow
from trio_dispatch.server._websocket import WebSocketSession


@pytest.fixture
def server() -> Server:
    """A server with a workflow that takes 3 seconds, and a job that takes none."""
    made = Server(TOKENS)

    @made.workflow("slow")
    async def slow(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3)

    @made.job("noop")
    async def noop(payload: Any) -> None:
        pass

    return made


# Handshake

KEY = base64.b64encode(b"0123456789abcdef").decode()
UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "keep-alive, Upgrade",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Version": "13",
}


@pytest.mark.parametrize(
    ("method", "target", "changed", "status"),
    [
        ("GET", "/", {}, 404),
        ("GET", "/dwpx", {}, 404),
        ("POST", "/dwp", {}, 405),
        ("GET", "/dwp", {"Upgrade": "h2c"}, 400),
        ("GET", "/dwp", {"Connection": "close"}, 400),
        ("GET", "/dwp", {"Sec-WebSocket-Key": "short"}, 400),
        ("GET", "/dwp", {"Sec-WebSocket-Key": "?"}, 400),
        ("GET", "/dwp", {"Sec-WebSocket-Version": "8"}, 426),
    ],
)
async def test_a_wrong_handshake_is_refused(
    server: Server, method: str, target: str, changed: dict[str, str], status: int
) -> None:
    async with server.run():
        peer = HttpPeer(await server.open_stream())
        await peer.send(method, target, {**UPGRADE, **changed})
        response = await peer.receive()
    assert response.status == status
    if status == 426:
        assert response.headers["sec-websocket-version"] == "13"


async def test_what_does_not_matter_on_the_upgrade_is_ignored(server: Server) -> None:
    async with server.run():
        peer = Peer(await server.open_stream(), path="/dwp/?x=1")
        await peer.upgrade(
            {
                "Origin": "http://elsewhere",
                "Authorization": "Bearer nonsense",
                "Sec-WebSocket-Protocol": "a, b",
                "Sec-WebSocket-Extensions": "permessage-deflate",
            }
        )
        assert peer.protocol.subprotocol is None
        assert peer.protocol.extensions == []
        await peer.authenticate()


async def test_what_is_sent_with_the_handshake_is_lost(server: Server) -> None:
    async with server.run():
        peer = Peer(await server.open_stream())
        peer.protocol.send_request(peer.protocol.connect())
        (request,) = peer.protocol.data_to_send()
        auth = json.dumps({"id": "early", "method": "auth", "token": "demo-token"}).encode()
        await peer.send_bytes(request + Frame(Opcode.TEXT, auth).serialize(mask=True))
        while not peer.protocol.events_received():
            peer.protocol.receive_data(await peer.stream.receive_some())
        await peer.authenticate()
        assert peer.session_id


# Auth


@pytest.mark.parametrize(
    ("first", "code", "message"),
    [
        ({"method": "auth", "data": {"token": "wrong"}}, 401, "authentication failed"),
        ({"method": "auth"}, 401, "authentication failed"),
        ({"method": "auth", "data": None}, 401, "authentication failed"),
        ({"method": "auth", "data": [1]}, 400, "invalid auth data"),
        ({"type": "ping"}, 400, "first frame must be auth"),
        ({"id": 7}, 400, "invalid auth frame"),
    ],
)
async def test_a_refused_session_gets_one_error_frame_and_is_dropped(
    server: Server, first: dict[str, Any], code: int, message: str
) -> None:
    async with server.run():
        peer = await connect(server, token=None)
        await peer.send(**{"id": "1", **first})
        await peer.send(id="2", method="stats")
        answer = await peer.answer()
        assert answer["error"] == {"code": code, "message": message}
        assert await dropped(peer) is None
        assert server.connections == []
        assert server.statistics().frames == 1


async def test_an_authenticator_of_the_users_own_may_be_async(server: Server) -> None:
    async def authenticate(token: str) -> Identity | None:
        await trio.lowlevel.checkpoint()
        if token == "bug":
            raise RuntimeError("bug")
        return Identity(subject=token, scopes={"*"}) if token.startswith("user-") else None

    own = Server(authenticate)
    async with own.run():
        peer = await connect(own, "user-7")
        assert own.connections[0].subject == "user-7"
        for token in ("else", "bug", ""):
            other = await connect(own, token=None)
            await other.send(id="1", method="auth", token=token)
            assert (await other.answer())["error"]["code"] == 401
        await peer.call("stats")


def test_a_token_is_in_no_repr(server: Server) -> None:
    assert "demo-token" not in repr(server)
    assert "demo-token" not in repr(server._hub)


async def test_session_and_frame_ids_look_as_recorded(server: Server) -> None:
    async with running(server) as peer:
        assert re.fullmatch(r"ws_\d{19}", peer.session_id)
        answer = await peer.request("stats")
        assert re.fullmatch(r"\d{14}\.\d{9}", answer["id"])
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z", answer["ts"])


# Frames


async def test_frames_that_are_none_are_answered_without_correl_id(server: Server) -> None:
    async with running(server) as peer:
        for text in ("", "{", "nul", "[]", '"x"', '{"id":7}', '{"credits":"many"}', "\x00"):
            await peer.send_text(text)
            answer = await peer.answer()
            assert answer["error"]["code"] == 400
            assert answer["error"]["message"].startswith("invalid frame: ")
            assert "correl_id" not in answer
        await peer.call("stats")


async def test_a_null_is_an_absent_field(server: Server) -> None:
    async with running(server) as peer:
        await peer.send(id="a", type=None, method="stats", ts=None, error=None, data=None)
        assert (await peer.answer())["correl_id"] == "a"


async def test_fragments_and_json_in_binary_messages_are_accepted(server: Server) -> None:
    async with running(server) as peer:
        frame = json.dumps({"id": "é", "method": "stats"}, ensure_ascii=False).encode()
        await peer.send_binary(frame)
        assert (await peer.answer())["correl_id"] == "é"
        middle = frame.index("é".encode()) + 1  # inside of a character
        peer.protocol.send_text(frame[:middle], fin=False)
        peer.protocol.send_ping(b"between")
        peer.protocol.send_continuation(frame[middle:], fin=True)
        await peer.flush()
        assert await peer.receive() == Message(Opcode.PONG, b"between")
        assert (await peer.answer())["correl_id"] == "é"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(Frame(Opcode.TEXT, b"{}").serialize(mask=False), id="unmasked"),
        pytest.param(b"\xc1\x80\0\0\0\0", id="reserved-bit"),
        pytest.param(b"\x83\x80\0\0\0\0", id="reserved-opcode"),
        pytest.param(Frame(Opcode.CONT, b"{}").serialize(mask=True), id="lone-continuation"),
        pytest.param(Frame(Opcode.TEXT, b"\xff").serialize(mask=True), id="not-utf-8"),
    ],
)
async def test_a_broken_frame_drops_tcp_without_a_close_frame(
    server: Server, data: bytes, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        await peer.send(id="1", method="stats")
        await peer.send_bytes(data)
        assert (await peer.answer())["correl_id"] == "1"
        assert await dropped(peer) is None


@pytest.mark.parametrize("code", [1000, 1001, 1011, 3000, 4999])
async def test_a_close_code_is_echoed(server: Server, code: int) -> None:
    async with running(server) as peer:
        assert await peer.close(code) == code


@pytest.mark.parametrize("code", [999, 1005])
async def test_a_wrong_close_code_gets_1002(server: Server, code: int) -> None:
    async with running(server) as peer:
        await peer.send_bytes(Frame(Opcode.CLOSE, code.to_bytes(2, "big")).serialize(mask=True))
        assert await dropped(peer) == 1002


async def test_a_message_that_is_too_long_is_refused_unread(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, max_message_size=1000)
    async with running(server) as peer:
        await peer.send(id="x" * 900, method="stats")
        await peer.answer()
        await peer.send_bytes(b"\x81\xff" + (2**50).to_bytes(8, "big"))
        assert await dropped(peer) == 1009


@given(st.binary(min_size=1, max_size=300))
def test_garbage_harms_nobody_else(data: bytes) -> None:
    async def main() -> None:
        server = Server(TOKENS)
        async with server.run():
            good = await connect(server)
            raw = await server.open_stream()
            await raw.send_all(data)
            peer = await connect(server)
            await peer.send_bytes(data)
            await trio.testing.wait_all_tasks_blocked()
            await good.call("stats")

    trio.run(main, clock=MockClock(autojump_threshold=0))


# One after another


async def test_a_run_blocks_its_connection_pongs_and_close_included_but_no_event(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server, peers=2) as (a, b):
        await a.call("subscribe", {"channel": "jobs"})
        start = trio.current_time()
        await a.send(id="start", method="workflow.start", data={"name": "slow"})
        a.protocol.send_ping(b"ws")
        await a.send(id="ping", type="ping")
        await trio.sleep(1)
        assert [view.blocked for view in server.connections] == [True, False]
        await b.call("job.enqueue", {"name": "noop"})
        assert (await a.event())["type"] == "job.enqueued"
        assert trio.current_time() - start == 1
        assert (await a.answer())["correl_id"] == "start"
        assert trio.current_time() - start == 3
        assert await a.receive() == Message(Opcode.PONG, b"ws")
        assert (await a.answer())["type"] == "pong"
        await a.send(id="start", method="workflow.start", data={"name": "slow"})
        start = trio.current_time()
        assert await a.close() == 1000
        assert trio.current_time() - start == 3


async def test_a_client_that_leaves_does_not_end_its_run_and_its_requests_are_carried_out(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server, peers=2) as (a, b):
        await a.call("subscribe", {"channel": "firehose"})
        await a.send(id="1", method="workflow.start", data={"name": "slow"})
        await a.send(id="2", method="job.enqueue", data={"name": "behind"})
        await trio.sleep(1)
        await a.vanish()
        await trio.sleep(1)
        assert server.runs()[0].state == "running"
        assert [view.peer_gone for view in server.connections] == [True, False]
        assert server.connections[0].channels == {"firehose"}
        stats = await b.call("stats")
        assert (stats["broker"]["subscriber_count"], stats["broker"]["topic_count"]) == (2, 1)
        assert server.jobs() == []
        await trio.sleep(2)
        assert server.runs()[0].state == "completed"
        assert [job.name for job in server.jobs()] == ["behind"]
        assert len(server.connections) == 1
        assert (await b.call("stats"))["broker"]["topic_count"] == 0


async def test_a_client_that_half_closes_gets_its_answers(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        await peer.send(id="1", method="workflow.start", data={"name": "slow"})
        await peer.send(id="2", method="stats")
        assert isinstance(peer.stream, trio.abc.HalfCloseableStream)
        await peer.stream.send_eof()
        assert [(await peer.answer())["correl_id"] for _ in range(2)] == ["1", "2"]
        assert await dropped(peer) is None


async def test_what_is_read_while_a_run_blocks_is_bounded(autojump_clock: MockClock) -> None:
    server = Server(TOKENS, max_message_size=1000)

    @server.workflow("slow")
    async def slow(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3)

    async with running(server) as peer:
        await peer.send(id="start", method="workflow.start", data={"name": "slow"})
        padding = "x" * 900
        count = 4000
        for number in range(count):
            await peer.send(id=str(number), type="ping", method=padding)
        await trio.sleep(1)
        (session,) = server._hub.connections
        assert isinstance(session, WebSocketSession)
        assert 1_000_000 < len(session._input) < 1_200_000
        assert (await peer.answer())["correl_id"] == "start"
        answers = [(await peer.answer())["correl_id"] for _ in range(count)]
        assert answers == [str(number) for number in range(count)]


async def test_every_frame_is_answered_in_order(server: Server) -> None:
    async with running(server) as peer:
        sent: list[str] = []
        for number in range(300):
            kind = {"type": "ping"} if number % 3 else {"method": "stats" if number % 2 else "no"}
            await peer.send(id=str(number), **kind)
            sent.append(str(number))
        assert [(await peer.answer())["correl_id"] for _ in sent] == sent
        assert server.connections[0].frames == 301


async def test_the_same_id_twice_is_answered_twice(server: Server) -> None:
    async with running(server) as peer:
        for _ in range(2):
            await peer.send(id="same", method="stats")
        assert [(await peer.answer())["correl_id"] for _ in range(2)] == ["same", "same"]


# Credits


async def test_credits_are_granted_without_an_answer_and_for_no_method(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        await peer.send(id="1", credits=5)
        await peer.send(id="2", credits=7, method="stats")
        await peer.send(id="3", credits=-9, method="stats")
        assert (await peer.answer())["correl_id"] == "3"
        assert server.connections[0].credits == 1012
        await peer.send(id="4", credits=100, type="ping")
        assert (await peer.answer())["type"] == "pong"
        assert server.connections[0].credits == 1012
        weak = await connect(server, "wo")
        assert (await weak.request("stats", credits=5))["error"]["code"] == 403
        assert server.connections[1].credits == 1000


async def test_a_client_that_does_not_read_loses_events_beyond_256() -> None:
    server = Server(TOKENS)

    @server.workflow("burst")
    async def burst(workflow: Workflow, input: Any) -> None:
        for _ in range(400):
            # With no checkpoint in between: nothing can be written meanwhile.
            server._engine.publisher.run("workflow.step_completed", workflow._run, step="s")

    async with running(server, peers=2) as (a, b):
        await a.call("subscribe", {"channel": "workflows"})
        await b.call("workflow.start", {"name": "burst"})
        await a.settle()
        assert len(a.events) == 256
        assert server.connections[0].events_dropped == 146


# Several clients, and those that vanish


async def test_a_peer_may_vanish_after_any_byte(server: Server, autojump_clock: MockClock) -> None:
    tape = bytearray()
    async with server.run():
        recorder = Peer(Tape(await server.open_stream(), tape))
        await recorder.upgrade()
        await recorder.authenticate()
        await recorder.call("subscribe", {"channel": "firehose"})
        await recorder.send(id="1", method="workflow.start", data={"name": "slow"})
        await recorder.vanish()
        await trio.sleep(10)
        for length in range(0, len(tape), 7):
            stream = await server.open_stream()
            # In two parts, as what comes with the handshake is lost.
            head, separator, tail = bytes(tape[:length]).partition(b"\r\n\r\n")
            await stream.send_all(head + separator)
            await trio.testing.wait_all_tasks_blocked()
            if tail:
                await stream.send_all(tail)
                await trio.testing.wait_all_tasks_blocked()
            await trio.aclose_forcefully(stream)
        await trio.sleep(10)
        assert server.connections == []
        assert server.runs(state="running") == []
        peer = await connect(server)
        await peer.call("stats")


class Tape(trio.abc.HalfCloseableStream):
    """A stream that remembers what was sent."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, tape: bytearray) -> None:
        self.stream = stream
        self.tape = tape

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.tape += data
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_many_clients_at_once_each_get_their_own_answers(server: Server) -> None:
    async def work(name: str) -> None:
        peer = await connect(server)
        await peer.call("subscribe", {"channel": "jobs"})
        for number in range(20):
            data = {"name": "noop", "payload": f"{name}-{number}"}
            job_id = (await peer.call("job.enqueue", data))["job_id"]
            job = await peer.call("job.get", {"job_id": job_id})
            assert base64.b64decode(job["payload"]).decode() == f'"{name}-{number}"'
        await peer.close()

    async with server.run():
        async with trio.open_nursery() as nursery:
            for client in range(10):
                nursery.start_soon(work, str(client))
        assert server.connections == []
        assert len(server.jobs()) == 200
