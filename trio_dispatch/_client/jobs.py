"""Jobs: handles, many at once, and waiting for their end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Final

import attrs
import msgspec
import trio

from trio_dispatch._client.asking import Asking
from trio_dispatch._link.requests import Request
from trio_dispatch._wire.arguments import check_int, check_text, encode_payload
from trio_dispatch._wire.codecs import decode_leniently
from trio_dispatch._wire.errors import (
    ConnectionLost,
    DispatchError,
    EnqueueManyFailed,
    JobCancelled,
    JobFailed,
    PermissionDenied,
    ProtocolError,
    RequestError,
    RequestTimeout,
)
from trio_dispatch._wire.frames import Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.models import Enqueued, Job

if TYPE_CHECKING:
    from trio_dispatch._client.client import Client
    from trio_dispatch._client.subscriptions import Subscription
    from trio_dispatch._link.link import Link

IN_HAND: Final = 512
"""Entries of an ``enqueue_many`` that are queued or in flight: enough to keep the wire busy."""

_END_EVENTS: Final = frozenset({"job.completed", "job.failed", "job.dlq", "job.cancelled"})

_enqueued: Final = msgspec.json.Decoder(Enqueued)


@attrs.frozen
class EnqueueRequest:
    """One entry of `Client.enqueue_many`: the arguments of `Client.enqueue`."""

    name: str
    payload: object = None
    queue: str | None = attrs.field(default=None, kw_only=True)
    priority: int = attrs.field(default=0, kw_only=True)


class _EnqueueData(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    payload: msgspec.Raw | None = None
    queue: str | None = None
    priority: int = 0


def enqueue_frame(name: str, payload: object, queue: str | None, priority: int) -> Frame:
    """Build the frame that enqueues a job. Raises for what no server can make sense of."""
    data = _EnqueueData(
        check_text(name, "a job's name"),
        None if payload is None else encode_payload(payload, "the payload", name),
        None if queue is None else check_text(queue, "a queue's name"),
        check_int(priority, "priority"),
    )
    return Frame(type=FrameType.REQUEST, method=Method.JOB_ENQUEUE, data=data)


class JobHandle:
    """A job that this client has enqueued.

    Attributes:
        job_id: the server's id.
        queue: the queue that the job was put into.
        state: the last state that this handle has heard of; `refresh` and `wait` renew it.
    """

    def __init__(self, client: Client, enqueued: Enqueued) -> None:
        self._client = client
        self.job_id = enqueued.job_id
        self.queue = enqueued.queue
        self.state = enqueued.state

    def __repr__(self) -> str:
        return f"<JobHandle {self.job_id} in {self.queue!r}: {self.state}>"

    async def wait(self) -> Job:
        """Wait until the job has ended, and return it. See `Client.wait_job`."""
        try:
            job = await self._client.wait_job(self.job_id)
        except JobFailed as exc:
            self.state = exc.job.state
            raise
        self.state = job.state
        return job

    async def cancel(self) -> None:
        """Cancel the job on the server. See `Client.cancel_job`."""
        await self._client.cancel_job(self.job_id)
        self.state = "cancelled"

    async def refresh(self) -> Job:
        """Ask the server for the job's present state, and return it."""
        job = await self._client.get_job(self.job_id)
        self.state = job.state
        return job


def read_handle(client: Client, answer: WireFrame) -> JobHandle:
    """Read the answer to ``job.enqueue``."""
    try:
        return JobHandle(client, decode_leniently(answer.data, _enqueued))
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise ProtocolError(f"the answer to {Method.JOB_ENQUEUE} cannot be read: {exc}") from exc


class _Batch:
    """An ``enqueue_many`` under way: keeps a window of entries in hand until all are done."""

    def __init__(self, client: Client, link: Link, frames: list[tuple[Frame, bytes]]) -> None:
        self._client = client
        self._link = link
        self._frames: Iterator[tuple[int, tuple[Frame, bytes]]] = iter(enumerate(frames))
        self.handles: list[JobHandle | None] = [None] * len(frames)
        self.errors: dict[int, Exception] = {}
        self._open: dict[Request, int] = {}
        self._finished = trio.Event()
        self._cut = False

    async def run(self) -> None:
        for _ in range(IN_HAND):
            self._next()
        if not self._open:
            self._finished.set()
        try:
            await self._finished.wait()
        finally:
            self._cut = True
            for request in list(self._open):
                request.cancel()
                self._link.withdraw(request)

    def _next(self) -> None:
        """Take one more entry in hand; if the client has ended, all that are left fail."""
        for index, (frame, text) in self._frames:
            request = Request(frame, text, on_done=self._done)
            self._open[request] = index
            try:
                self._link.submit(request)
            except DispatchError as exc:
                del self._open[request]
                self.errors[index] = exc
            else:
                return

    def _done(self, request: Request) -> None:
        if self._cut:
            return
        index = self._open.pop(request)
        if request.answer is not None:
            try:
                self.handles[index] = read_handle(self._client, request.answer)
            except ProtocolError as exc:
                self.errors[index] = exc
        elif request.error is not None:
            self.errors[index] = request.error
        self._next()
        if not self._open:
            self._finished.set()


async def enqueue_many(
    client: Client, link: Link, requests: Iterable[EnqueueRequest]
) -> list[JobHandle]:
    """See `Client.enqueue_many`."""
    frames: list[tuple[Frame, bytes]] = []
    for number, entry in enumerate(requests):
        if not isinstance(entry, EnqueueRequest):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"entry {number} is an EnqueueRequest, not {type(entry).__name__}")
        frame = enqueue_frame(entry.name, entry.payload, entry.queue, entry.priority)
        frames.append((frame, link.check_frame(frame)))
    await trio.lowlevel.checkpoint()
    link.check_open()
    batch = _Batch(client, link, frames)
    await batch.run()
    if batch.errors:
        raise EnqueueManyFailed(
            f"{len(batch.errors)} of {len(frames)} jobs were not enqueued",
            [batch.errors[index] for index in sorted(batch.errors)],
            batch.handles,
        )
    return [handle for handle in batch.handles if handle is not None]


async def wait_job(client: Client, job_id: str) -> Job:
    """See `Client.wait_job`."""
    job = await finished_job(client, job_id)
    if job.state == "completed":
        return job
    raise (JobCancelled if job.state == "cancelled" else JobFailed)(job)


async def finished_job(client: Client, job_id: str) -> Job:
    """Wait until a job has finished, in whatever way, and return it."""
    subscription = client.subscribe(f"job:{job_id}", buffer=16, overflow="drop_oldest")
    subscription.patient = True
    try:
        async with subscription:
            return await _watch_and_ask(client, job_id, subscription)
    except PermissionDenied as exc:
        if exc.method != Method.SUBSCRIBE:
            raise
        return await _watch_and_ask(client, job_id, None)


async def _watch_and_ask(client: Client, job_id: str, events: Subscription | None) -> Job:
    """Ask for the job until it has ended. Events only say when asking is worth it."""
    asking = Asking()
    while True:
        try:
            job = await client.get_job(job_id)
        except (ConnectionLost, RequestTimeout):
            # Asking again does no harm, and is all that can be done.
            if client.closed:
                raise
        else:
            if job.finished:
                return job
        deadline = asking.next_time()
        if events is None:
            await trio.sleep_until(deadline)
            continue
        with trio.move_on_at(deadline):
            while True:
                try:
                    event = await events.receive()
                except RequestError:
                    events = None  # not restored after a reconnect: ask now and then instead
                    break
                if event.type in _END_EVENTS or event.type == "stream.gap":
                    break
