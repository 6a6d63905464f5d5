"""A run that its HTTP request holds: it ends on the server when the request goes away.

Imported only when it is asked for, because it needs httpx.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, start_frame
from trio_dispatch._client.run_connections import CarriedRequest
from trio_dispatch._client.runs import read_started
from trio_dispatch._client.watching import finished_run
from trio_dispatch._link.http.wire import HttpWire, Interrupted, NotAFrame, NotDelivered
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.errors import (
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    ProtocolError,
    WorkflowFailed,
    request_error,
)
from trio_dispatch._wire.frames import Method
from trio_dispatch._wire.models import WorkflowRun


async def run_in_scope(
    calls: Calls, link: Supervisor, background: Background, name: str, text: bytes
) -> WorkflowRun:
    """Start a workflow by RPC, and wait for its end. Cancelled, it cancels the run.

    Args:
        calls: asks for the run when it has ended.
        link: knows the address and the token.
        background: where the request lives, which ends with the client.
        name: the workflow's name.
        text: its encoded input.
    """
    frame = start_frame(name, text)
    encoded = calls.check_frame(frame)
    await trio.lowlevel.checkpoint()
    calls.check_open()
    carried = CarriedRequest(frame, encoded)
    background.spawn(_carry, carried, link, calls.why_ended)
    started = read_started(await carried.wait())
    run = await finished_run(calls, started.run_id)
    if run.state == "failed":
        raise WorkflowFailed(run)
    return run


async def _carry(
    carried: CarriedRequest, link: Supervisor, why_ended: Callable[[], Exception]
) -> None:
    """Send *carried* by RPC and settle it. When its scope is cancelled, the request is closed."""
    method = Method.WORKFLOW_START
    error: DispatchError
    try:
        with carried.scope:
            token = await link.get_token()
            async with HttpWire(link.address, link.dial, token) as wire:
                answer = await wire.post(carried.request.frame)
            if answer.error is not None:
                carried.settle(None, request_error(answer.error, method))
            carried.settle(answer, None)
    except NotDelivered as exc:
        error = ConnectFailed(f"{method}: cannot connect to {link.address.shown} by HTTP: {exc}")
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
