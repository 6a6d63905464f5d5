"""Which library carries the WebSocket."""

from __future__ import annotations

import importlib.metadata

import pytest

from trio_dispatch._transport.websocket import choose_library


def pretend(monkeypatch: pytest.MonkeyPatch, version: str | None) -> None:
    def find(name: str) -> str:
        assert name == "websockets"
        if version is None:
            raise importlib.metadata.PackageNotFoundError
        return version

    monkeypatch.setattr(importlib.metadata, "version", find)


@pytest.mark.parametrize(
    ("installed", "chosen"),
    [("15.0.1", "websockets"), ("14.2", "trio-websocket"), (None, "trio-websocket")],
)
def test_auto_takes_the_fastest_that_will_do(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, chosen: str
) -> None:
    pretend(monkeypatch, installed)
    assert choose_library("auto") == chosen
    assert choose_library("trio-websocket") == "trio-websocket"


@pytest.mark.parametrize(
    ("installed", "state"), [(None, "is not installed"), ("12.0", "12.0 is too old")]
)
def test_one_that_was_named_must_be_there(
    monkeypatch: pytest.MonkeyPatch, installed: str | None, state: str
) -> None:
    pretend(monkeypatch, installed)
    with pytest.raises(ModuleNotFoundError, match=f"{state}: pip install"):
        choose_library("websockets")
