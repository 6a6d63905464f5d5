"""A run that its HTTP request holds: it ends on the server when the request goes away."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from trio_dispatch._client.run_connections import CarriedRequest
from trio_dispatch._link.http.wire import HttpWire, Interrupted, NotAFrame, NotDelivered
from trio_dispatch._link.settings import DialSettings
from trio_dispatch._wire.errors import (
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    ProtocolError,
    request_error,
)
from trio_dispatch._wire.frames import Method
from trio_dispatch._wire.url import Address


async def carry_by_rpc(
    carried: CarriedRequest,
    address: Address,
    dial: DialSettings,
    get_token: Callable[[], Awaitable[str | None]],
    why_ended: Callable[[], Exception],
) -> None:
    """Send *carried* by RPC and settle it. When its scope is cancelled, the request is closed."""
    method = Method.WORKFLOW_START
    error: DispatchError
    try:
        with carried.scope:
            token = await get_token()
            async with HttpWire(address, dial, token) as wire:
                answer = await wire.post(carried.request.frame)
            if answer.error is not None:
                carried.settle(None, request_error(answer.error, method))
            carried.settle(answer, None)
    except NotDelivered as exc:
        error = ConnectFailed(f"{method}: cannot connect to {address.shown} by HTTP: {exc}")
        error.__cause__ = exc
        carried.settle(None, error)
    except Interrupted as exc:
        error = ConnectionLost(
            f"{method} was sent by HTTP, and the run ends with its request: {exc}", True
        )
        error.__cause__ = exc
        carried.settle(None, error)
    except NotAFrame as exc:
        error = ProtocolError(f"{method} by HTTP: {exc}")
        error.__cause__ = exc
        carried.settle(None, error)
    finally:
        carried.settle(None, why_ended())
