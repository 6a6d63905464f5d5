"""The order service's own fixtures, on those of trio_dispatch."""

from __future__ import annotations

import pytest
from orders import OrderService, Warehouse, register

from trio_dispatch import Client
from trio_dispatch.server import Identity, Quirks, Server


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse(stock={"pen": 1_000, "desk": 10})  # type: ignore[arg-type]


@pytest.fixture
def dispatch_server(warehouse: Warehouse) -> Server:
    identity = Identity(subject="test", app_id="test-app", org_id="test-org", scopes={"*"})
    # The service's own workers keep to max_retries and timeout as they are registered.
    quirks = Quirks(definitions_ignored=False)
    server = Server({"test-token": identity}, quirks=quirks, seed=0)
    register(server, warehouse)
    return server


@pytest.fixture
def service(dispatch_client: Client) -> OrderService:
    return OrderService(dispatch_client)
