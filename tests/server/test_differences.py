"""Small cases of what a real server answers, each of which the embedded one once did not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from trio.testing import MockClock

from tests.server.compare.normal import without_results
from tests.server.compare.play import Player
from tests.server.recorded_server import recorded_server

CASES: list[dict[str, Any]] = json.loads(
    Path(__file__).with_name("differences.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["name"]))
async def test_the_server_answers_as_a_real_one(
    case: dict[str, Any], autojump_clock: MockClock
) -> None:
    embedded = recorded_server()
    async with embedded.run():
        transcript = await Player(embedded.open_stream).play(case["steps"])
    shown = json.loads(json.dumps(transcript))
    assert without_results(shown) == without_results(case["real_server"])
