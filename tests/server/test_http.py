"""The HTTP side: RPC, event streams, and what is neither."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, HttpPeer, connect, connect_http, running
from trio_dispatch.server import Server, Workflow


@pytest.fixture
def server() -> Server:
    """A server with a workflow that takes 3 seconds, and a job that takes none."""
    made = Server(TOKENS)

    @made.workflow("slow")
    async def slow(workflow: Workflow, input: Any) -> None:
        await workflow.sleep("nap", 3)

    @made.workflow("slow-step")
    async def slow_step(workflow: Workflow, input: Any) -> None:
        await workflow.step("nap", trio.sleep, 3)

    @made.job("noop")
    async def noop(payload: Any) -> None:
        pass

    return made


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("POST", "/nothing", 404),
        ("GET", "/dwp/rpc", 405),
        ("POST", "/dwp/sse", 405),
        ("GET", "/dwp", 400),
        ("DELETE", "/dwp", 405),
    ],
)
async def test_paths_and_methods_that_are_not_served_are_refused(
    server: Server, method: str, target: str, status: int
) -> None:
    async with server.run():
        peer = await connect_http(server)
        await peer.send(method, target)
        assert (await peer.receive()).status == status


async def test_the_path_can_be_another() -> None:
    server = Server(TOKENS, path="/api/v1/")
    async with server.run():
        peer = await connect_http(server)
        body = b'{"id":"1","method":"stats","token":"demo-token"}'
        await peer.send("POST", "/api/v1/rpc", body=body)
        assert (await peer.receive()).status == 200


async def test_what_is_not_http_is_refused(server: Server) -> None:
    async with server.run():
        peer = await connect_http(server)
        await peer.stream.send_all(b"\x16\x03\x01 this is TLS\r\n\r\n")
        assert (await peer.receive()).status == 400


async def test_a_connection_carries_one_call_after_another(server: Server) -> None:
    async with server.run():
        peer = await connect_http(server)
        job_id = (await peer.rpc("job.enqueue", {"name": "noop"}))["data"]["job_id"]
        assert (await peer.rpc("job.get", {"job_id": job_id}))["data"]["name"] == "noop"
        assert (await peer.rpc("stats"))["data"]["broker"]["subscriber_count"] == 0


async def post(server: Server, body: bytes, headers: dict[str, str] | None = None) -> Any:
    peer = await connect_http(server)
    await peer.send("POST", "/dwp/rpc", headers, body)
    response = await peer.receive()
    answer = response.json
    assert response.status == (answer["error"]["code"] if "error" in answer else 200)
    return answer


async def test_the_token_in_the_frame_wins_over_the_header(server: Server) -> None:
    async with server.run():
        body = json.dumps({"id": "1", "method": "stats", "token": "demo-token"}).encode()
        assert (await post(server, body, {"Authorization": "wrong"}))["type"] == "response"
        body = json.dumps({"id": "1", "method": "stats"}).encode()
        assert (await post(server, body, {"Authorization": "demo-token"}))["type"] == "response"
        refused = await post(server, body, {"Authorization": "Bearer demo-token"})
        assert refused["error"] == {"code": 401, "message": "unauthorized"}


@pytest.mark.parametrize(
    ("content_type", "accepted"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", False),
        ("text/plain", False),
    ],
)
async def test_the_content_type_is_json_to_the_letter(
    server: Server, content_type: str, accepted: bool
) -> None:
    async with server.run():
        body = json.dumps({"id": "1", "method": "stats", "token": "demo-token"}).encode()
        answer = await post(server, body, {"Content-Type": content_type})
    assert (answer["type"] == "response") is accepted
    if not accepted:
        assert answer["error"] == {"code": 400, "message": "invalid request body"}


async def test_a_body_that_is_too_long_is_refused() -> None:
    server = Server(TOKENS, max_message_size=1000)
    async with server.run():
        peer = await connect_http(server)
        await peer.send("POST", "/dwp/rpc", body=b"x" * 2000)
        assert (await peer.receive()).status == 413


async def test_a_body_may_wait_to_be_asked_for(server: Server) -> None:
    async with server.run():
        stream = await server.open_stream()
        body = b'{"id":"1","method":"stats","token":"demo-token"}'
        head = f"POST /dwp/rpc HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
        await stream.send_all(head.encode() + b"Expect: 100-continue\r\n\r\n")
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 100")
        await stream.send_all(body)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_a_subscribe_by_rpc_subscribes_nothing(server: Server) -> None:
    async with running(server) as peer:
        http = await connect_http(server)
        answer = await http.rpc("subscribe", {"channel": "jobs"})
        assert answer["data"]["status"] == "subscribed"
        assert (await http.rpc("unsubscribe", {"channel": "jobs"}))["type"] == "response"
        assert (await peer.call("stats"))["broker"]["topic_count"] == 0
        assert (await http.rpc("subscribe", {"channel": "jobs"}, "wo"))["error"] == {
            "code": 403,
            "message": "forbidden",
        }


async def test_a_run_over_rpc_answers_when_it_has_ended(
    server: Server, autojump_clock: MockClock
) -> None:
    async with server.run():
        peer = await connect_http(server)
        start = trio.current_time()
        answer = await peer.rpc("workflow.start", {"name": "slow"})
        assert answer["data"]["state"] == "completed"
        assert trio.current_time() - start == 3
        assert (await peer.rpc("stats"))["type"] == "response"


@pytest.mark.parametrize("half", [False, True], ids=["goes-away", "half-closes"])
@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("slow", "context canceled"),
        ("slow-step", 'workflow slow-step step "nap": context canceled'),
    ],
)
async def test_a_run_whose_rpc_client_leaves_is_cancelled(
    server: Server, name: str, error: str, half: bool, autojump_clock: MockClock
) -> None:
    async with server.run():
        stream = await server.open_stream()
        peer = HttpPeer(stream)
        frame = {"method": "workflow.start", "token": "demo-token", "data": {"name": name}}
        await peer.send("POST", "/dwp/rpc", body=json.dumps(frame).encode())
        await trio.sleep(1)
        assert server.runs()[0].state == "running"
        if half:
            await stream.send_eof()
        else:
            await trio.aclose_forcefully(stream)
        await trio.testing.wait_all_tasks_blocked()
        (run,) = server.runs()
        assert (run.state, run.error) == ("failed", error)
        assert run.steps == ()
        assert server.events[-1].type == "workflow.failed"


async def test_the_next_request_may_come_while_a_run_lasts(
    server: Server, autojump_clock: MockClock
) -> None:
    async with server.run():
        peer = await connect_http(server)
        frame: dict[str, Any] = {"method": "workflow.start", "token": "demo-token"}
        frame["data"] = {"name": "slow"}
        await peer.send("POST", "/dwp/rpc", body=json.dumps(frame).encode())
        await trio.sleep(1)
        body = b'{"id":"2","method":"stats","token":"demo-token"}'
        head = f"POST /dwp/rpc HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        await peer.stream.send_all(head.encode() + body)
        assert (await peer.receive()).json["data"]["state"] == "completed"
        rest = b""
        while b'"correl_id":"2"' not in rest:
            rest += await peer.stream.receive_some()


async def test_a_run_whose_client_sends_too_much_behind_it_is_served_all_the_same(
    server: Server, autojump_clock: MockClock
) -> None:
    async with server.run():
        peer = await connect_http(server)
        frame = {"method": "workflow.start", "token": "demo-token", "data": {"name": "slow"}}
        await peer.send("POST", "/dwp/rpc", body=json.dumps(frame).encode())
        await trio.sleep(1)
        await peer.stream.send_all(b"x" * 200_000)
        assert (await peer.receive()).json["data"]["state"] == "completed"


# Event streams


async def open_events(server: Server, query: str) -> HttpPeer:
    peer = await connect_http(server)
    await peer.send("GET", f"/dwp/sse?{query}")
    return peer


async def test_a_stream_gets_the_events_of_its_channel(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        events = await open_events(server, "token=demo-token&channel=jobs")
        await trio.sleep(1)
        (session, stream) = server.connections
        assert (session.transport, stream.transport) == ("websocket", "sse")
        assert stream.channels == {"jobs"}
        assert (await peer.call("stats"))["broker"]["subscriber_count"] == 2
        await peer.call("job.enqueue", {"name": "noop"})
        response = await events.receive(1)
        assert not response.ended
        types = [line[7:] for line in response.body.decode().split("\n") if line[:6] == "event:"]
        assert types == ["job.enqueued", "job.started", "job.completed"]


async def test_a_stream_is_silent_after_a_thousand_events(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        events = await open_events(server, "token=demo-token&channel=jobs")
        await trio.sleep(1)
        for _ in range(340):
            await peer.call("job.enqueue", {"name": "noop"})
            await trio.testing.wait_all_tasks_blocked()
        body = (await events.receive(1)).body
        assert body.count(b"event: ") == 1000
        assert server.connections[1].credits == 0
        assert server.connections[1].events_dropped == 20


async def test_a_stream_whose_client_leaves_is_forgotten(
    server: Server, autojump_clock: MockClock
) -> None:
    async with running(server) as peer:
        events = await open_events(server, "token=demo-token&channel=jobs")
        await trio.sleep(1)
        assert len(server.connections) == 2
        await trio.aclose_forcefully(events.stream)
        await trio.testing.wait_all_tasks_blocked()
        assert len(server.connections) == 1
        assert (await peer.call("stats"))["broker"]["topic_count"] == 0


async def test_a_refused_stream_leaves_the_connection_usable(server: Server) -> None:
    async with server.run():
        peer = await open_events(server, "token=wrong&channel=jobs")
        response = await peer.receive()
        assert (response.status, response.body, response.ended) == (200, b"retry: 3000\n\n", True)
        assert (await peer.rpc("stats"))["type"] == "response"


async def test_a_websocket_and_a_stream_share_one_port() -> None:
    server = Server(TOKENS)
    async with server.run():
        session = await connect(server)
        http = await connect_http(server)
        await http.rpc("workflow.event", {"name": "e"})
        await session.call("stats")
    assert server.statistics().frames == 3
