"""No test of remote calls depends on the environment that it runs in."""

from __future__ import annotations

import pytest

NAMES = (
    "DISPATCH_API_KEY",
    "DISPATCH_API_URL",
    "DISPATCH_ENDPOINT_ADDR",
    "DISPATCH_ENDPOINT_URL",
    "DISPATCH_VERIFICATION_KEY",
)


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
