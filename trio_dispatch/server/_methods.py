"""From a request to its answer: one function per method (protocol, "Methods").

The transports differ in little: over WebSocket, frames can ping, grant credits and subscribe, and a
run outlives its connection; over RPC a refusal for want of a scope has another text, and a run ends
with its request. Each transport says so in its `Caller`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import attrs
import msgspec
import trio

from trio_dispatch._wire.frames import ErrorCode, Method
from trio_dispatch.server import _wire
from trio_dispatch.server._activity import Activity
from trio_dispatch.server._awaited_events import EventRow
from trio_dispatch.server._broker import InvalidTopic, Subscriber, check_topic
from trio_dispatch.server._engine import Engine
from trio_dispatch.server._go_json import GoStruct
from trio_dispatch.server._identity import Identity, scope_of
from trio_dispatch.server._ids import JOB_PREFIX, RUN_PREFIX, InvalidId, check_id
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._requests import (
    FederationEnqueueRequest,
    FederationEventRequest,
    FederationHeartbeatRequest,
    InvalidRequest,
    JobCancelRequest,
    JobEnqueueRequest,
    JobGetRequest,
    SubscribeRequest,
    UnsubscribeRequest,
    WorkflowEventRequest,
    WorkflowGetRequest,
    WorkflowStartRequest,
    WorkflowTimelineRequest,
    read_request,
)
from trio_dispatch.server._rows import Rows
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._store import CANCELLED, COMPLETED, FAILED, StoreAway

R = TypeVar("R", bound=GoStruct)

_UNREACHABLE: Final = (
    "failed to connect to `user=postgres database=dispatch`: 127.0.0.1:25432 (127.0.0.1): "
    "dial error: dial tcp 127.0.0.1:25432: connect: connection refused"
)
_NULL_PAYLOAD: Final = (
    'ERROR: null value in column "payload" of relation "dispatch_jobs" violates not-null '
    "constraint (SQLSTATE 23502)"
)
"""What a database says (recordings `store_away` and `postgres_jobs`)."""


@attrs.define(kw_only=True, eq=False)
class Caller:
    """Who sends requests, and by which transport."""

    identity: Identity
    subscriber: Subscriber | None = None
    """Where events go. None over RPC, where subscribing is answered and does nothing."""
    forbidden: str = "insufficient permissions"
    request: trio.CancelScope | None = None
    """Cancelled when the caller leaves, over RPC: a run ends with the request that started it.
    None over WebSocket, where a run outlives its connection."""
    blocked: bool = False
    """Whether a run is holding up the caller's connection."""


class Refused(Exception):
    """The request is answered by an error frame."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def _read(data: msgspec.Raw, type: type[R], what: str = "request") -> R:
    try:
        return read_request(data, type, what)
    except InvalidRequest as exc:
        raise Refused(ErrorCode.BAD_REQUEST, str(exc)) from exc


def _read_id(text: str, prefix: str, what: str) -> str:
    try:
        return check_id(text, prefix)
    except InvalidId as exc:
        raise Refused(ErrorCode.BAD_REQUEST, f"invalid {what} ID: {exc}") from exc


def _text(raw: msgspec.Raw) -> bytes | None:
    return bytes(raw) or None


class Methods:
    """The dispatch table, over one engine.

    Args:
        federation_id: the server's name among its peers; None where federation is off.
    """

    def __init__(
        self,
        engine: Engine,
        federation_id: str | None,
        quirks: Quirks,
        steering: Steering,
        activity: Activity,
    ) -> None:
        self._activity = activity
        self._engine = engine
        self._quirks = quirks
        self._steering = steering
        self._store = engine.store
        self._broker = engine.broker
        self._rows = Rows(quirks)
        self._federation_id = federation_id
        self._noticed_away = False
        self.frames = 0
        """Frames handled."""
        self._table: Mapping[str, Callable[[Caller, msgspec.Raw], Awaitable[object]]] = {
            Method.JOB_ENQUEUE: self._enqueue,
            Method.JOB_GET: self._get_job,
            Method.JOB_CANCEL: self._cancel_job,
            Method.WORKFLOW_START: self._start,
            Method.WORKFLOW_GET: self._get_run,
            Method.WORKFLOW_TIMELINE: self._timeline,
            Method.WORKFLOW_EVENT: self._post_event,
            Method.SUBSCRIBE: self._subscribe,
            Method.UNSUBSCRIBE: self._unsubscribe,
            Method.STATS: self._stats,
            Method.FEDERATION_HEARTBEAT: self._federation_heartbeat,
            Method.FEDERATION_ENQUEUE: self._federation_enqueue,
            Method.FEDERATION_EVENT: self._federation_event,
        }

    async def answer(self, caller: Caller, frame: _wire.Incoming) -> _wire.Outgoing | None:
        """Carry out *frame*; return its answer, None for a frame that has none.

        Blocks while a workflow that it starts is running.
        """
        self.frames += 1
        if not self._activity.wanted:
            return await self._answer(caller, frame)
        began = trio.current_time()
        answer = await self._answer(caller, frame)
        self._activity.request(caller.identity, frame, answer, trio.current_time() - began)
        return answer

    async def _answer(self, caller: Caller, frame: _wire.Incoming) -> _wire.Outgoing | None:
        clock = self._engine.clock
        try:
            # Over WebSocket an empty method needs no scope, over RPC that of an unknown one.
            is_checked = frame.method or caller.subscriber is None
            scope = scope_of(frame.method) if is_checked else None
            if scope is not None and not caller.identity.allows(scope):
                raise Refused(ErrorCode.FORBIDDEN, caller.forbidden)
            if frame.credits > 0 and caller.subscriber is not None:
                # With a method only its scope was checked, and the method is ignored; no answer
                # either way (protocol, "Credits").
                caller.subscriber.grant(frame.credits)
                return None
            rule = await self._steering.meet(frame.method)
            if rule is not None and rule.code is not None:
                raise Refused(rule.code, rule.message)
            handler = self._table.get(frame.method)
            if handler is None:
                raise Refused(ErrorCode.METHOD_NOT_ALLOWED, f"unknown method: {frame.method}")
            data = await handler(caller, frame.data)
        except Refused as exc:
            return _wire.error(clock, frame, exc.code, exc.message)
        return _wire.response(clock, frame, data)

    # The store. What each method answers while it is away is recorded (`store_away`).

    def _failure(self) -> str:
        """Why the store cannot be reached; empty where it can."""
        if not self._store.away:
            self._noticed_away = False
            return ""
        if self._noticed_away:
            return _UNREACHABLE
        self._noticed_away = True
        return "unexpected EOF"

    # Jobs

    async def _enqueue(
        self,
        caller: Caller,
        data: msgspec.Raw,
        type: type[JobEnqueueRequest | FederationEnqueueRequest] = JobEnqueueRequest,
        what: str = "request",
    ) -> object:
        request = _read(data, type, what)
        failure = self._failure()
        if not failure and self._quirks.needs_payload and not bytes(request.payload):
            failure = _NULL_PAYLOAD
        if failure:
            text = f"enqueue failed: dispatch/bun: enqueue job: pgdriver: exec: {failure}"
            raise Refused(ErrorCode.INTERNAL, text)
        job = self._engine.enqueue(
            request.name,  # an empty name is accepted (recording `job_errors`)
            _text(request.payload),
            request.queue,
            max(request.priority, 0),
            caller.identity,
        )
        return {"job_id": job.id, "queue": job.queue, "state": job.state}

    async def _get_job(self, _caller: Caller, data: msgspec.Raw) -> object:
        job_id = _read_id(_read(data, JobGetRequest).job_id, JOB_PREFIX, "job")
        failure = self._failure()
        if failure:
            text = f"job not found: dispatch/bun: get job: {failure}"
            raise Refused(ErrorCode.NOT_FOUND, text)
        job = self._store.jobs.get(job_id)
        if job is None:
            raise Refused(ErrorCode.NOT_FOUND, "job not found: dispatch: job not found")
        return self._rows.job(job)

    async def _cancel_job(self, _caller: Caller, data: msgspec.Raw) -> object:
        job_id = _read_id(_read(data, JobCancelRequest).job_id, JOB_PREFIX, "job")
        job = None if self._failure() else self._store.jobs.get(job_id)
        if job is None:
            raise Refused(ErrorCode.NOT_FOUND, "job not found")
        if not self._quirks.cancel_rewrites:
            if job.state in {COMPLETED, FAILED, CANCELLED}:
                raise Refused(ErrorCode.CONFLICT, f"the job is {job.state} already")
            self._engine.workers.cancel(job)
            return {"status": "cancelled"}
        self._store.cancel_job(job, self._engine.clock.now())
        return {"status": "cancelled"}

    # Workflows

    async def _start(self, caller: Caller, data: msgspec.Raw) -> object:
        request = _read(data, WorkflowStartRequest)
        name = request.name
        try:
            run = self._engine.start_run(name, _text(request.input), caller.identity)
        except LookupError as exc:
            message = f"workflow start failed: {exc.args[0]}"
            raise Refused(ErrorCode.INTERNAL, message) from None
        except StoreAway:
            message = (
                f'workflow start failed: create run for workflow "{name}": dispatch/bun: '
                f"create run: pgdriver: exec: {self._failure()}"
            )
            raise Refused(ErrorCode.INTERNAL, message) from None
        if not self._quirks.runs_block and caller.request is None:
            return {"run_id": run.row.id, "name": name, "state": run.state}
        caller.blocked = True
        try:
            with caller.request or contextlib.nullcontext():
                await run.done.wait()
            if not run.done.is_set():
                # Who asked has left, or closed its sending side, and may still read the answer.
                run.scope.cancel()
                await run.done.wait()
        finally:
            caller.blocked = False
        return {"run_id": run.row.id, "name": name, "state": run.state}

    async def _get_run(self, _caller: Caller, data: msgspec.Raw) -> object:
        run_id = _read_id(_read(data, WorkflowGetRequest).run_id, RUN_PREFIX, "run")
        failure = self._failure()
        if failure:
            text = f"run not found: dispatch/bun: get run: {failure}"
            raise Refused(ErrorCode.NOT_FOUND, text)
        run = self._store.runs.get(run_id)
        if run is None:
            raise Refused(ErrorCode.NOT_FOUND, "run not found: dispatch: run not found")
        return self._rows.run(run)

    async def _timeline(self, _caller: Caller, data: msgspec.Raw) -> object:
        run_id = _read_id(_read(data, WorkflowTimelineRequest).run_id, RUN_PREFIX, "run")
        failure = self._failure()
        if failure:
            text = (
                f"timeline failed: list checkpoints for run {run_id}: dispatch/bun: "
                f"list checkpoints: pgdriver: query: {failure}"
            )
            raise Refused(ErrorCode.INTERNAL, text)
        run = self._store.runs.get(run_id)
        # An unknown run has an empty timeline (recording `workflows`).
        return [] if run is None else [self._rows.step(step) for step in run.steps.values()]

    async def _post_event(self, caller: Caller, data: msgspec.Raw) -> object:
        request = _read(data, WorkflowEventRequest)
        event = self._post(caller, request)
        return {"event_id": event.id, "name": event.name}

    def _post(
        self, caller: Caller, request: WorkflowEventRequest | FederationEventRequest
    ) -> EventRow:
        failure = self._failure()
        if failure:
            text = f"publish event failed: dispatch/bun: publish event: pgdriver: exec: {failure}"
            raise Refused(ErrorCode.INTERNAL, text)
        name, payload = request.name, _text(request.payload)
        return self._engine.post_event(name, payload, caller.identity)

    # Subscriptions

    async def _subscribe(self, caller: Caller, data: msgspec.Raw) -> object:
        channel = _read(data, SubscribeRequest).channel
        try:
            if caller.subscriber is None:
                check_topic(channel)
            else:
                self._broker.subscribe(caller.subscriber, channel)
        except InvalidTopic as exc:
            raise Refused(ErrorCode.BAD_REQUEST, str(exc)) from exc
        return {"channel": channel, "status": "subscribed"}

    async def _unsubscribe(self, caller: Caller, data: msgspec.Raw) -> object:
        channel = _read(data, UnsubscribeRequest).channel
        if caller.subscriber is not None:
            self._broker.unsubscribe(caller.subscriber, channel)
        return {"channel": channel, "status": "unsubscribed"}

    async def _stats(self, _caller: Caller, _data: msgspec.Raw) -> object:
        stats: dict[str, Any] = {
            "broker": {
                "topic_count": self._broker.topic_count,
                "subscriber_count": self._broker.subscriber_count,
                "total_published": self._broker.deliveries,
                "total_dropped": 0,  # whatever was dropped (protocol, "Methods")
            },
            "connections": 0,  # whatever is connected
        }
        if self._federation_id is not None:
            stats["federation"] = {
                "total_peers": 0,
                "connected_peers": 0,
                "jobs_forwarded": 0,
                "events_forwarded": 0,
            }
        return stats

    # Federation: answered as recorded (`federation`); no peer is ever called.

    def _local_id(self) -> str:
        if self._federation_id is None:
            raise Refused(ErrorCode.METHOD_NOT_ALLOWED, "federation not enabled")
        return self._federation_id

    async def _federation_heartbeat(self, _caller: Caller, data: msgspec.Raw) -> object:
        local_id = self._local_id()
        _read(data, FederationHeartbeatRequest, "heartbeat")
        return {"peer_id": local_id, "status": "ok"}

    async def _federation_enqueue(self, caller: Caller, data: msgspec.Raw) -> object:
        self._local_id()
        return await self._enqueue(caller, data, FederationEnqueueRequest, "federation enqueue")

    async def _federation_event(self, caller: Caller, data: msgspec.Raw) -> object:
        self._local_id()
        request = _read(data, FederationEventRequest, "federation event")
        event = self._post(caller, request)
        return {"event_id": event.id, "name": event.name, "source": request.source_id}
