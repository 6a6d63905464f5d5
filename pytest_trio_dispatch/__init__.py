"""Fixtures for tests of programs that use trio_dispatch. pytest finds this plugin by itself.

It is a separate package because pytest imports its plugins first: trio_dispatch is imported only
when a test uses a fixture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncGenerator, Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

import pytest

if TYPE_CHECKING:
    from trio_dispatch import Client
    from trio_dispatch.server import Server
    from trio_dispatch.testing import FaultyProxy

__all__: list[str] = []

F = TypeVar("F", bound=Callable[..., object])


def _trio_fixture(function: F) -> F:
    """Make a pytest-trio fixture; without pytest-trio, a fixture that reports what is missing."""
    made: Any
    if importlib.util.find_spec("pytest_trio") is not None:
        from pytest_trio import trio_fixture

        made = trio_fixture(function)
    else:

        @pytest.fixture(name=function.__name__)
        def missing() -> None:
            pytest.fail(
                f"the fixture {function.__name__} needs pytest-trio: "
                "pip install 'trio-dispatch[testing]'"
            )

        made = missing
    return cast("F", made)


@pytest.fixture
def dispatch_server() -> Server:
    """An embedded server, not running yet, with the token ``test-token``, which has all scopes.

    Override it to register jobs and workflows, or to choose other tokens, queues or quirks.
    """
    from trio_dispatch.server import Identity, Server

    identity = Identity(subject="test", app_id="test-app", org_id="test-org", scopes={"*"})
    return Server({"test-token": identity}, seed=0)


@pytest.fixture
def dispatch_client_options() -> dict[str, Any]:
    """Options of `trio_dispatch.open_client` for the clients below (default: none)."""
    return {}


@_trio_fixture
async def dispatch_client(
    dispatch_server: Server, dispatch_client_options: dict[str, Any]
) -> AsyncGenerator[Client, None]:
    """A client of `dispatch_server`, in memory, which runs the server."""
    async with dispatch_server.open_client(**dispatch_client_options) as client:
        yield client


@_trio_fixture
async def dispatch_proxy(dispatch_server: Server) -> AsyncGenerator[FaultyProxy, None]:
    """A network to `dispatch_server` that fails on demand; it runs the server."""
    from trio_dispatch.testing import FaultyProxy

    async with (
        dispatch_server.run(),
        FaultyProxy.in_memory(dispatch_server.open_stream) as proxy,
    ):
        yield proxy


@_trio_fixture
async def faulty_dispatch_client(
    dispatch_server: Server, dispatch_proxy: FaultyProxy, dispatch_client_options: dict[str, Any]
) -> AsyncGenerator[Client, None]:
    """A client of `dispatch_server` behind `dispatch_proxy`."""
    async with dispatch_server.open_client(
        open_stream=dispatch_proxy.open_stream, **dispatch_client_options
    ) as client:
        yield client
