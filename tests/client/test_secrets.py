"""Nobody's log shows a token, however talkative it is."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio

import trio_dispatch
from tests.client import support
from trio_dispatch import AuthError

TOKEN = "s3cret-t0ken-of-nobodys-business"


async def test_no_log_shows_the_token_of_a_full_session(
    caplog: pytest.LogCaptureFixture, wire: str
) -> None:
    """On real sockets, with every logger of every library at DEBUG."""
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "websockets", "websockets.client", "trio-websocket"):
        caplog.set_level(logging.DEBUG, logger=name)
    server = support.make_server()
    refused: list[str] = []
    async with server.serve("127.0.0.1", 0) as url:
        options = support.WIRES[wire]
        where = url.replace("ws", "http", 1) if wire == "http" else url
        for token in (TOKEN, "demo-token"):
            try:
                arguments: dict[str, Any] = options | {"url": where, "token": token}
                async with trio_dispatch.open_client(**arguments) as client:
                    async with client.subscribe("jobs") as events:
                        handle = await client.enqueue("noop")
                        await events.receive()
                        await handle.wait()
                    if wire != "http":
                        await client.run_workflow("order-pipeline", {"items": ["a"]})
                    with trio.move_on_after(0.05):
                        await client.run_workflow("nap", cancel_with_scope=True)
            except AuthError as exc:
                refused.append(f"{exc} {exc!r}")
    assert len(refused) == 1
    assert TOKEN not in refused[0]
    assert len(caplog.records) > 10
    for record in caplog.records:
        shown = record.getMessage() + repr(record.args) + str(record.exc_text)
        assert TOKEN not in shown, record
        assert "demo-token" not in shown, record
