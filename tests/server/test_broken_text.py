"""Payloads that hold what is no text: kept byte for byte, and mended for who reads them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.compare.raw import masked
from tests.server.peer import TOKENS, Peer, connect
from trio_dispatch.server import Server, Workflow

BROKEN = [b'["\\ud800", "a"]', b'["\xff", "a"]']


async def call(peer: Peer, method: bytes, data: bytes) -> Any:
    """Send *data* as it is, in a binary message."""
    frame = b'{"id":"1","method":"%b","data":%b}' % (method, data)
    await peer.send_bytes(masked(frame, 0x82))
    answer = await peer.answer()
    assert answer["type"] == "response", answer
    return answer["data"]


@pytest.mark.parametrize("payload", BROKEN)
async def test_a_job_is_given_mended_text_and_job_get_what_came(
    payload: bytes, autojump_clock: MockClock
) -> None:
    server = Server(TOKENS)
    given: list[Any] = []

    @server.job("note")
    async def note(value: Any) -> None:
        given.append(value)

    async with server.run():
        peer = await connect(server)
        job = await call(peer, b"job.enqueue", b'{"name":"note","payload":%b}' % payload)
        await server.idle()
        assert given == [["\ufffd", "a"]]
        row = await peer.call("job.get", {"job_id": job["job_id"]})
        assert base64.b64decode(row["payload"]) == payload
        assert server.jobs()[0].payload == ["\ufffd", "a"]
        assert server.jobs()[0].payload_bytes == payload
        server.assert_enqueued("note", ["\ufffd", "a"])


@pytest.mark.parametrize("payload", BROKEN)
async def test_an_event_is_given_with_mended_text(
    payload: bytes, autojump_clock: MockClock
) -> None:
    server = Server(TOKENS)
    given: list[Any] = []

    @server.workflow("waits")
    async def waits(workflow: Workflow, input: Any) -> None:
        event = await workflow.wait_for_event("e", timeout=60)
        assert event is not None
        given.append((input, event.payload))

    async with server.run():
        peer = await connect(server)
        await call(peer, b"workflow.event", b'{"name":"e","payload":%b}' % payload)
        run = await call(peer, b"workflow.start", b'{"name":"waits","input":%b}' % payload)
        assert run["state"] == "completed"
        assert given == [(["\ufffd", "a"], ["\ufffd", "a"])]


async def test_a_payload_that_is_nested_too_deeply_fails_its_job_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS)
    given: list[Any] = []

    @server.job("note")
    async def note(value: Any) -> None:
        given.append(value)

    async with server.run():
        peer = await connect(server)
        deep = b"[" * 9990 + b"]" * 9990
        await call(peer, b"job.enqueue", b'{"name":"note","payload":%b}' % deep)
        await trio.sleep(1000)
        (job,) = server.jobs()
        if given:  # from Python 3.14 on there is room for that many levels
            assert job.state == "completed"
        else:
            assert job.state == "failed"
            assert job.payload == deep
        await call(peer, b"workflow.event", b'{"name":"e","payload":%b}' % deep)
        await peer.call("stats")
