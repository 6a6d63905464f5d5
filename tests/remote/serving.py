"""A service in memory, with a client: nothing of it needs a socket or a real clock."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs

from trio_dispatch import remote


@attrs.frozen
class Served:
    """A service, and a client of it."""

    service: remote.Service
    client: remote.Client

    async def outcome(self, call: remote.Call) -> remote.Outcome:
        """Dispatch *call*, and wait for its end."""
        return await self.service.wait(await self.client.dispatch(call))


@asynccontextmanager
async def serving(*endpoints: remote.Endpoint, **options: Any) -> AsyncGenerator[Served, None]:
    """Open both."""
    async with (
        remote.open_service(host=None, endpoints=endpoints, seed=7, **options) as service,
        service.open_client() as client,
    ):
        yield Served(service, client)
