"""The client: all methods of the protocol, typed, on one link that reconnects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar, overload

import msgspec
import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, decode_answer, is_safe, request_frame
from trio_dispatch._client.enqueueing import EnqueueRequest, enqueue_many
from trio_dispatch._client.event_links import hear
from trio_dispatch._client.finished_jobs import EnqueuedJobs, FinishedJobs, JobsToRun
from trio_dispatch._client.jobs import JobHandle
from trio_dispatch._client.observer import ClientObserver
from trio_dispatch._client.options import ClientSettings
from trio_dispatch._client.references import (
    JobReference,
    RunReference,
    is_known,
    job_id_of,
    run_id_of,
)
from trio_dispatch._client.run_connections import RunConnections
from trio_dispatch._client.run_handle import RunHandle
from trio_dispatch._client.run_starts import RunStarts, encode_input
from trio_dispatch._client.statistics import ClientStatistics
from trio_dispatch._client.subscription import Subscription
from trio_dispatch._client.subscriptions import Subscriptions
from trio_dispatch._client.waiting import wait_job
from trio_dispatch._client.watching import RunWatch
from trio_dispatch._link.mailbox import Overflow
from trio_dispatch._link.resource import ConnectedResource
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.definitions import JobType, WorkflowType
from trio_dispatch._wire.errors import NotSupported
from trio_dispatch._wire.frames import Frame, Method
from trio_dispatch._wire.models import Job, Stats, TimelineStep, WorkflowRun

P = TypeVar("P")
I = TypeVar("I")  # noqa: E741


class Client(ConnectedResource):
    """A client of a Dispatch server, made by `open_client` or `connect_client`.

    You may call its methods from any task of the ``trio.run`` that the client belongs to. Methods
    that ask the server wait while there is no connection, and all of them may raise these errors:

    - `RequestTimeout`: no answer arrived within ``request_timeout``;
    - `ConnectionLost`: the connection was lost during a request, and the server may have carried
      the request out;
    - `RequestError`: the server answered with an error; the subclass depends on its code;
    - `ProtocolError`: the answer is invalid;
    - `ClientClosed`, or the error that ended the client: the client is closed.

    If you cancel a call before its frame is written, nothing is sent. If you cancel it later, the
    server carries the request out, and the client drops the answer.
    """

    def __init__(self, settings: ClientSettings) -> None:
        self._settings = settings
        self._by_http = settings.link.addresses[0].is_http
        self._subscriptions = Subscriptions(
            shared=not self._by_http,
            instruments=settings.link.instruments,
            timeout=settings.link.request_timeout,
            servers=settings.servers_heard,
        )
        events = hear(settings.link, self._subscriptions.feeds)
        self._observer = ClientObserver(events, self._run_background, lambda: self._calls.on_end())  # noqa: PLW0108
        self._link = Supervisor(settings.link, self._observer)
        events.send_over(self._link)
        self._calls = Calls(self._link, self._subscriptions)
        self._background = Background(self._calls.why_ended)
        self._run_connections = RunConnections(
            self._link, settings.link, settings.run_link, settings.max_concurrent_runs
        )
        self._run_starts = RunStarts(self._calls, self._run_connections, self._background)

    # The connection.

    @property
    def session_id(self) -> str | None:
        """The server's id of the present session; None while there is none."""
        return self._observer.session_id if self.connected else None

    @property
    def transport(self) -> str:
        """The transport in use: ``trio-websocket``, ``websockets`` or ``http``."""
        return "http" if self._by_http else self._settings.link.dial.library

    def statistics(self) -> ClientStatistics:
        """Return counts of what this client has done. `stats` returns the server's figures."""
        places = self._run_connections.places.statistics()
        return ClientStatistics(
            link=self._link.statistics(),
            subscriptions=len(self._subscriptions),
            wanted_channels=len(self._subscriptions.wanted),
            undecodable_events=self._subscriptions.undecodable
            + self._run_starts.matching.undecodable,
            runs=places.borrowed_tokens,
            runs_waiting=places.tasks_waiting,
            runs_limit=self._settings.max_concurrent_runs,
        )

    # Jobs.

    @overload
    async def enqueue(
        self, name: str, payload: object = None, *, queue: str | None = None, priority: int = 0
    ) -> JobHandle: ...

    @overload
    async def enqueue(
        self, name: JobType[P], payload: P, *, queue: str | None = None, priority: int = 0
    ) -> JobHandle: ...

    async def enqueue(
        self,
        name: str | JobType[Any],
        payload: object = None,
        *,
        queue: str | None = None,
        priority: int = 0,
    ) -> JobHandle:
        """Enqueue a job.

        Args:
            name: the name that workers know the job by, or a `JobType`. A server accepts any name,
                and a job that no worker knows stays ``running`` forever.
            payload: anything that msgspec encodes as JSON; with a `JobType`, a value of its type.
                None is sent as ``null``.
            queue: the queue (default: the `JobType`'s, or the server's).
            priority: above 0, the job is claimed before others of its queue.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
        """
        enqueued = await self._calls.enqueue(name, payload, queue, priority)
        return JobHandle(self._calls, enqueued)

    async def enqueue_many(self, requests: Iterable[EnqueueRequest]) -> list[JobHandle]:
        """Enqueue many jobs, hundreds at a time. Returns their handles, in order.

        All entries are checked before the first is sent. If you cancel the call, entries that are
        not yet written are withdrawn.

        Raises:
            TypeError, ValueError: an entry cannot be sent; no entry was sent.
            EnqueueManyFailed: some entries failed. The group holds an error for each of them, and
                ``handles`` a handle for each of the others.
        """
        return await enqueue_many(self._calls, requests)

    async def get_job(self, job_id: JobReference) -> Job:
        """Get a job. Raises `NotFound` if there is no job with that id."""
        return await self._calls.get_job(job_id_of(job_id))

    async def cancel_job(self, job_id: JobReference) -> None:
        """Cancel a job.

        A pending or retrying job will not run. A running job continues, and may still end
        ``completed``. A finished job becomes ``cancelled``, too. The server publishes no event.

        Raises:
            NotFound: there is no job with that id.
        """
        await self._calls.cancel_job(job_id_of(job_id))

    async def wait_job(self, job: JobReference) -> Job:
        """Wait until a job has completed, and return it.

        The client asks the server at once, when an event reports the end, after a lost connection,
        and at intervals: after 10 ms, then after an eighth of the time waited so far, and at least
        every 5 s. There is no timeout: a job that no worker knows runs forever, so use a cancel
        scope if that can happen. Cancelling ends the wait and does not affect the job.

        Raises:
            JobFailed: the job failed for good; ``job`` is its last state.
            JobCancelled: the job was cancelled.
            NotFound: there is no job with that id.
        """
        return await wait_job(self._calls, job_id_of(job), known=is_known(job))

    def wait_jobs(self, jobs: Iterable[JobReference]) -> FinishedJobs:
        """Wait for many jobs, for the length of a block.

        ``async with client.wait_jobs(handles) as finished: async for job in finished:`` yields each
        job once, in its last state, in the order in which they finish. Failed and cancelled jobs do
        not raise: check ``job.state``. As for `wait_job` there is no timeout.
        """
        source = EnqueuedJobs(jobs)
        return FinishedJobs("client.wait_jobs(…)", self._calls, self._background, source)

    def run_jobs(self, requests: Iterable[EnqueueRequest], *, limit: int = 10) -> FinishedJobs:
        """Enqueue jobs and wait for them, *limit* of them at once, for the length of a block.

        ``async with client.run_jobs(requests, limit=8) as finished: async for job in finished:``
        yields each job when it has finished; failed and cancelled jobs do not raise. The client
        reads the next of *requests* only when a job has finished, so *requests* may be endless.
        When the block exits, the client enqueues no more; jobs that are enqueued continue.
        """
        source = JobsToRun(self._calls, requests, limit)
        return FinishedJobs("client.run_jobs(…)", self._calls, self._background, source)

    # Workflows.

    @overload
    async def start_workflow(self, name: str, input: object = ...) -> RunHandle: ...

    @overload
    async def start_workflow(self, name: WorkflowType[I], input: I) -> RunHandle: ...

    async def start_workflow(
        self, name: str | WorkflowType[Any], input: object = msgspec.UNSET
    ) -> RunHandle:
        """Start a workflow on a separate connection, and return while it runs.

        Returns as soon as the run is known or has ended. If neither happens within 2 s after the
        start was sent, it returns a handle whose run becomes known later. While
        ``max_concurrent_runs`` runs are under way, further starts wait in order before they are
        sent.

        If you cancel the call before the start is written, nothing is started. If you cancel it
        later, the run continues.

        Args:
            name: the workflow's name, or its `WorkflowType`.
            input: anything that msgspec encodes as JSON (default: an empty object). The client
                adds insignificant whitespace to objects and arrays, to recognize the run by it.

        Raises:
            TypeError, ValueError: an argument cannot be sent.
            ServerError: no workflow with that name is registered.
            ConnectFailed: no connection could be made for the run, with ``reconnect=False`` or
                within ``max_reconnect_attempts`` attempts.
            NotSupported: the client uses HTTP, and a run over HTTP ends with its request.
        """
        self._needs_websocket("start_workflow()")
        name, text = encode_input(name, input)
        return RunHandle(self._calls, await self._run_starts.start(name, text))

    @overload
    async def run_workflow(
        self, name: str, input: object = ..., *, cancel_with_scope: bool = False
    ) -> WorkflowRun: ...

    @overload
    async def run_workflow(
        self, name: WorkflowType[I], input: I, *, cancel_with_scope: bool = False
    ) -> WorkflowRun: ...

    async def run_workflow(
        self,
        name: str | WorkflowType[Any],
        input: object = msgspec.UNSET,
        *,
        cancel_with_scope: bool = False,
    ) -> WorkflowRun:
        """Start a workflow, wait until the run has ended, and return it.

        Args:
            name: the workflow's name.
            input: as for `start_workflow`.
            cancel_with_scope: if False, the run continues when you cancel this call. If True, the
                server cancels the run, too (protocol, "HTTP RPC"): it fails with ``context
                canceled``. The start then goes over HTTP to ``<path>/rpc`` of the same server, and
                a lost connection also ends the run. Needs ``trio-dispatch[http]``.

        Raises:
            WorkflowFailed: the run failed; ``run`` is its last state.
            ConnectionLost: the run's connection was lost, and the run was not found.
            NotSupported: the client uses HTTP, and *cancel_with_scope* is False.
        """
        if cancel_with_scope:
            name, text = encode_input(name, input)
            try:
                from trio_dispatch._client.rpc_run import run_in_scope
            except ModuleNotFoundError as exc:
                raise NotSupported(
                    "cancel_with_scope=True uses HTTP: pip install 'trio-dispatch[http]'"
                ) from exc
            return await run_in_scope(
                self._calls, self._link, self._settings.link, self._background, name, text
            )
        self._needs_websocket(
            "run_workflow() without cancel_with_scope=True", "cancel_with_scope=True"
        )
        handle = await self.start_workflow(name, input)
        return await handle.wait()

    async def get_workflow(self, run_id: RunReference) -> WorkflowRun:
        """Get a workflow run. Raises `NotFound` if there is no run with that id."""
        return await self._calls.get_workflow(run_id_of(run_id))

    async def workflow_timeline(self, run_id: RunReference) -> list[TimelineStep]:
        """Get the steps that a run has finished, in order; none if the run does not exist."""
        return await self._calls.workflow_timeline(run_id_of(run_id))

    async def publish_event(self, name: str, payload: object = None) -> str:
        """Publish an event that workflows wait for. Returns the event's id.

        One event releases one waiting workflow. The server keeps the event until a workflow waits
        for it, so you may publish it early.

        Args:
            name: the event's name.
            payload: anything that msgspec encodes as JSON. With None, no payload is sent.
        """
        return await self._calls.publish_event(name, payload)

    # Subscriptions.

    def subscribe(
        self, *channels: str, buffer: int = 1024, overflow: Overflow = "raise"
    ) -> Subscription:
        """Subscribe to channels, for the length of a block.

        The block ``async with client.subscribe("jobs") as events:`` begins when the server has
        confirmed all channels. ``async for event in events:`` yields their events in the order of
        arrival, each once even if it matches several channels. A `StreamGap` marks where the
        connection was lost. Leaving the block unsubscribes without waiting.

        Args:
            channels: ``jobs``, ``workflows``, ``firehose``, ``job:<id>``, ``workflow:<id>``,
                ``queue:<name>``.
            buffer: the most unread events to store.
            overflow: what happens when the buffer is full. ``"raise"``: new events are lost until
                the reader has read the stored ones and then got one `SubscriptionOverflow`.
                ``"drop_oldest"``: the oldest event is dropped, and ``dropped`` counts it.

        Raises:
            TypeError, ValueError: no server has such a channel, or an option is invalid.
        """
        return self._calls.subscribe(*channels, buffer=buffer, overflow=overflow)

    def watch(self, run_id: RunReference) -> RunWatch:
        """Watch any workflow run, no matter who started it, for the length of a block.

        ``async for event in watch:`` yields the run's events from now on and ends when the run has
        ended; if it has already ended, at once. Then ``watch.run`` is the run's last state.
        """
        return RunWatch(self._calls, run_id_of(run_id))

    # The rest.

    async def stats(self) -> Stats:
        """Get the server's statistics. `statistics` returns this client's own figures."""
        return await self._calls.stats()

    async def request(self, method: str, data: object = None, *, safe: bool = False) -> object:
        """Send a request by the name of its method, and return the answer's data.

        Use it for methods that this client has no function for. ``workflow.start`` gets a separate
        connection, as for `start_workflow`.

        Args:
            method: the method's name.
            data: anything that msgspec encodes as JSON. With None, no data is sent.
            safe: whether the request may be sent once more if the connection is lost. Methods that
                only read are always safe.
        """
        frame = request_frame(method, data)
        if method != Method.WORKFLOW_START:
            return await self._calls.request(frame, safe=safe or is_safe(method))
        self._needs_websocket(f"request({method!r})")
        return decode_answer(method, await self._run_starts.send(frame))

    async def send(self, frame: Frame) -> None:
        """Send a frame unchanged, and return when it is written, without waiting for an answer.

        If an answer arrives, it is counted in ``statistics().link.strays`` and dropped.

        Raises:
            TypeError, ValueError: *frame* cannot be encoded, or it starts a workflow, which would
                block this connection.
            NotSupported: the client uses HTTP, where every request has an answer.
        """
        self._needs_websocket("send()", "request()")
        if frame.method == Method.WORKFLOW_START:
            raise ValueError("a run blocks its connection: use start_workflow()")
        await self._calls.send(frame)

    # Helpers.

    def _needs_websocket(
        self, what: str, instead: str = "run_workflow(..., cancel_with_scope=True)"
    ) -> None:
        if self._by_http:
            url = self._link.address.shown_for_websocket
            raise NotSupported(f"{what} does not work over HTTP: use {url!r}, or {instead}")

    async def _run_background(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._background.run)
            nursery.start_soon(self._run_connections.run)
