"""The order service's own fixtures, on those of trio_dispatch."""

from __future__ import annotations

import pytest
from orders import OrderService, Warehouse, register

from trio_dispatch import Client
from trio_dispatch.server import Server


@pytest.fixture
def warehouse() -> Warehouse:
    return Warehouse(stock={"pen": 1_000, "desk": 10})  # type: ignore[arg-type]


@pytest.fixture
def dispatch_server(dispatch_server: Server, warehouse: Warehouse) -> Server:
    register(dispatch_server, warehouse)
    return dispatch_server


@pytest.fixture
def service(dispatch_client: Client) -> OrderService:
    return OrderService(dispatch_client)
