"""Tests of the client run over every wire, unless `pytest.mark.wires` names those they need."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client import support


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("wires")
    wires = tuple(mark.args if mark else support.WIRES)
    metafunc.parametrize("wire", wires, indirect=True)


@pytest.fixture(autouse=True)
def wire(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the wire that `support.memory_client` uses."""
    before = support.wire
    support.wire = request.param
    yield request.param
    support.wire = before
