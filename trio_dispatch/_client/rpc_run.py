"""A run that belongs to an HTTP request: the server ends it when the request ends.

This module is imported only if it is used, because it needs httpx.
"""

from __future__ import annotations

from typing import Final

import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, start_frame
from trio_dispatch._client.run_starts import read_started
from trio_dispatch._client.run_state import ask_for_end
from trio_dispatch._link.http.wire import (
    HttpWire,
    Interrupted,
    NotAFrame,
    NotDelivered,
    error_of,
)
from trio_dispatch._link.reconnecting import Reconnecting
from trio_dispatch._link.settings import LinkSettings
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.errors import (
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    WorkflowFailed,
    fresh,
    request_error,
)
from trio_dispatch._wire.frames import Frame, Method, WireFrame
from trio_dispatch._wire.models import WorkflowRun

UNAVAILABLE: Final = 503
"""The status with which a proxy reports that no server took the request."""


async def run_in_scope(
    calls: Calls,
    link: Supervisor,
    settings: LinkSettings,
    background: Background,
    name: str,
    text: bytes,
) -> WorkflowRun:
    """Start a workflow by RPC, and wait for its end. Cancelling this cancels the run.

    Args:
        calls: used to get the run when it has ended.
        link: provides the address and the token.
        settings: how often to try again if there is no connection.
        background: runs the request, which ends with the client.
        name: the workflow's name.
        text: its encoded input.
    """
    frame = start_frame(name, text)
    calls.check_frame(frame)
    await trio.lowlevel.checkpoint()
    calls.check_open()
    call = _RpcCall(calls, link, settings, frame)
    background.spawn(call.carry_out)
    started = read_started(await call.wait())
    run = await ask_for_end(calls, started.run_id, answered=started.state)
    if run.state == "failed":
        raise WorkflowFailed(run)
    return run


class _RpcCall:
    """One request over HTTP, in its own task, which ends with the client or with its caller."""

    def __init__(
        self, calls: Calls, link: Supervisor, settings: LinkSettings, frame: Frame
    ) -> None:
        self._calls = calls
        self._link = link
        self._reconnecting = Reconnecting(settings, first=False)
        self._frame = frame
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._answer: WireFrame | None = None
        self._error: Exception | None = None

    async def wait(self) -> WireFrame:
        """Wait for the answer. If this is cancelled, the request is closed."""
        try:
            await self._done.wait()
        except trio.Cancelled:
            self._scope.cancel()
            raise
        if self._error is not None:
            raise fresh(self._error)
        assert self._answer is not None
        return self._answer

    async def carry_out(self) -> None:
        """Send the request when there is a connection, and store its answer."""
        try:
            with self._scope:
                answer = await self._send_when_possible()
                if answer.error is not None:
                    self._error = request_error(answer.error, Method.WORKFLOW_START)
                self._answer = answer
        except DispatchError as exc:
            self._error = exc
        finally:
            if self._answer is None and self._error is None:
                self._error = self._calls.why_ended()
            self._done.set()

    async def _send_when_possible(self) -> WireFrame:
        """Send the request, and try again only if it certainly reached no server."""
        while True:
            await self._link.wait_connected()
            token = await self._get_token()
            try:
                return await self._send(token)
            except ConnectFailed as exc:
                error = self._reconnecting.failed(exc)
                if error is not None:
                    raise error from exc.__cause__
                delay = self._reconnecting.delay(exc)
            await trio.sleep(delay)

    async def _send(self, token: str | None) -> WireFrame:
        method, shown = Method.WORKFLOW_START, self._link.address.shown
        try:
            async with HttpWire(self._link.address, self._link.dial, token) as wire:
                return await wire.post(self._frame)
        except NotDelivered as exc:
            raise ConnectFailed(f"{method}: cannot connect to {shown} over HTTP: {exc}") from exc
        except Interrupted as exc:
            raise ConnectionLost(
                f"{method} was sent over HTTP, and the run ends with its request: {exc}", True
            ) from exc
        except NotAFrame as exc:
            if exc.status == UNAVAILABLE:
                text = f"{method}: {shown} is not available: {exc}"
                raise ConnectFailed(text, exc.retry_after) from exc
            raise error_of(exc, f"{method} over HTTP", safe=False) from exc

    async def _get_token(self) -> str | None:
        within = self._link.dial.connect_timeout
        with trio.move_on_after(within):
            return await self._link.get_token()
        raise ConnectFailed(f"the token provider did not return within {within:g} s")
