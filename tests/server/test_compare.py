"""The embedded server against what a real one was recorded to answer, and the driver itself.

By hand: ``python -m tests.server.compare URL1 URL2`` holds any two servers against each other.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock

from tests.server.compare.__main__ import comparable
from tests.server.compare.exchanges import Message, Runner
from tests.server.compare.fuzz import Fuzz
from tests.server.compare.play import Player
from tests.server.compare.reference import reference_server
from tests.server.compare.scenarios import SCENARIOS
from trio_dispatch.server import Quirks, Server

RECORDED: dict[str, Any] = json.loads(
    Path(__file__).with_name("compare").joinpath("recorded.json").read_text(encoding="utf-8")
)


async def answers(server: Server, messages: list[Message]) -> list[Any]:
    async with server.run(), trio.open_nursery() as nursery:
        runner = Runner(server.open_stream, "/dwp", nursery)
        await runner.prepare()
        found = [await runner.run(message) for message in messages]
        nursery.cancel_scope.cancel()
    return found


async def test_odd_messages_are_answered_as_by_a_real_server_to_the_letter(
    autojump_clock: MockClock,
) -> None:
    recorded = RECORDED["messages"]
    messages = [Message.decode(one) for one in recorded]
    found = await answers(reference_server(), messages)
    different = [
        (message, one["got"], got)
        for message, one, got in zip(messages, recorded, found, strict=True)
        if comparable(one["got"], exact=True) != comparable(got, exact=True)
    ]
    assert different == []


@pytest.mark.parametrize("name", SCENARIOS)
async def test_scenarios_go_as_on_a_real_server(name: str, autojump_clock: MockClock) -> None:
    server = reference_server()
    async with server.run():
        transcript = await Player(server.open_stream).play(SCENARIOS[name])
    assert comparable(transcript) == comparable(RECORDED["scenarios"][name])


def test_messages_are_the_same_for_the_same_seed() -> None:
    assert Fuzz(5).messages(200) == Fuzz(5).messages(200)
    kinds = {message.kind for message in Fuzz(5).messages(500)}
    assert kinds == {"text", "binary", "pack", "auth", "raw", "rpc", "http"}
    message = Fuzz(5).messages(1)[0]
    assert Message.decode(json.loads(json.dumps(message.encode()))) == message


async def test_the_driver_sees_a_server_that_answers_otherwise(autojump_clock: MockClock) -> None:
    name = "a run blocks its connection, and pings wait"
    server = reference_server(attrs.evolve(Quirks(), runs_block=False))
    async with server.run():
        transcript = await Player(server.open_stream).play(SCENARIOS[name])
    assert comparable(transcript) != comparable(RECORDED["scenarios"][name])
