"""Tests of the client run over every wire, unless `pytest.mark.wires` names those they need.

The wires are shared out among the Pythons (see `tests.shares`): each takes half of them, so that
every test runs over each of its wires on two Pythons.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import support
from tests.shares import EVERYTHING, HALF


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("wires")
    wires = tuple(mark.args if mark else support.WIRES)
    metafunc.parametrize("wire", _our_share(wires), indirect=True)


def _our_share(wires: tuple[str, ...]) -> tuple[str, ...]:
    if EVERYTHING or len(wires) < 2:
        return wires
    half = support.HALVES[HALF]
    return tuple(wire for wire in wires if wire in half) or wires


@pytest.fixture(autouse=True)
def wire(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the wire that `support.memory_client` uses."""
    before = support.wire
    support.wire = request.param
    yield request.param
    support.wire = before
