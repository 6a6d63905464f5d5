"""The typed requests and `subscribe`, on a link that stays connected.

Jobs, runs, handles and watching depend on `Calls` and not on a whole client, because they need no
more.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

import msgspec

from trio_dispatch._client.polling import QuestionLimit
from trio_dispatch._client.subscription import Subscription
from trio_dispatch._client.subscriptions import Listener, Subscriptions
from trio_dispatch._link.mailbox import Overflow
from trio_dispatch._link.requests import Request
from trio_dispatch._link.supervisor import Supervisor
from trio_dispatch._wire.arguments import check_count, check_int, check_text, encode_payload
from trio_dispatch._wire.channels import check_channel
from trio_dispatch._wire.codecs import UndecodableFrame, decode_data, decode_leniently
from trio_dispatch._wire.definitions import JobType
from trio_dispatch._wire.errors import ProtocolError
from trio_dispatch._wire.frames import SAFE_METHODS, Frame, FrameType, Method, WireFrame
from trio_dispatch._wire.models import (
    Enqueued,
    Event,
    Job,
    Published,
    Stats,
    TimelineStep,
    WorkflowRun,
    read_job,
    read_run,
    read_stats,
    read_timeline,
)

T = TypeVar("T")

_enqueued: Final = msgspec.json.Decoder(Enqueued)
_published: Final = msgspec.json.Decoder(Published)


class _EnqueueData(msgspec.Struct, frozen=True, omit_defaults=True):
    name: str
    payload: msgspec.Raw
    queue: str | None = None
    priority: int = 0


class _StartData(msgspec.Struct, frozen=True):
    name: str
    input: msgspec.Raw


def enqueue_frame(
    name: str | JobType[Any], payload: object, queue: str | None, priority: int
) -> Frame:
    """Build the frame that enqueues a job. Raises `TypeError` or `ValueError` if it is invalid."""
    if isinstance(name, JobType):
        definition, name = name, name.name
        payload = definition.encode(payload)
        queue = definition.queue if queue is None else queue
        priority = priority or definition.priority
    data = _EnqueueData(
        check_text(name, "a job's name"),
        # A null is sent as such: on Postgres a job without a payload is refused (protocol, "Several
        # servers on one store").
        encode_payload(payload, "the payload", name),
        None if queue is None else check_text(queue, "a queue's name"),
        check_int(priority, "priority"),
    )
    return Frame(type=FrameType.REQUEST, method=Method.JOB_ENQUEUE, data=data)


def read_enqueued(answer: WireFrame) -> Enqueued:
    """Read the answer to ``job.enqueue``."""
    return read_answer(Method.JOB_ENQUEUE, answer, lambda data: decode_leniently(data, _enqueued))


def start_frame(name: str, text: bytes) -> Frame:
    """Build the frame that starts a workflow with an encoded input."""
    data = _StartData(name, msgspec.Raw(text))
    return Frame(type=FrameType.REQUEST, method=Method.WORKFLOW_START, data=data)


def read_answer(method: str, answer: WireFrame, read: Callable[[bytes], T]) -> T:
    """Read the data of *answer*. Raises `ProtocolError` if it is invalid."""
    try:
        return read(bytes(answer.data))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as exc:
        raise _unreadable(method, exc) from exc


def _unreadable(method: str, cause: Exception) -> ProtocolError:
    return ProtocolError(f"the answer to {method} cannot be read: {cause}")


class Calls:
    """Every method of the protocol except ``workflow.start``, which needs a separate connection."""

    def __init__(self, link: Supervisor, subscriptions: Subscriptions) -> None:
        self._link = link
        self._subscriptions = subscriptions
        self.questions = QuestionLimit()
        """The limit on questions that all waits share."""
        self.at_end: set[Callable[[], None]] = set()
        """Functions to call when the client has ended."""

    def on_end(self) -> None:
        """The client has ended."""
        for call in list(self.at_end):
            call()

    # The link's state.

    @property
    def closed(self) -> bool:
        """Whether the client has ended, so that no call can succeed any more."""
        return self._link.closed

    def check_open(self) -> None:
        """Raise `ClientClosed` if the client has ended."""
        self._link.check_open()

    def why_ended(self, request: Request | None = None) -> Exception:
        """Make the error for a task that was waiting when the client ended."""
        return self._link.why_ended(self._link.error, request)

    # Requests.

    def check_frame(self, frame: Frame) -> bytes:
        """Return the JSON text of a frame. Raises if the frame cannot be sent."""
        return self._link.check_frame(frame)

    def submit(self, request: Request) -> None:
        """Queue *request*, which notifies its owner when it is done."""
        self._link.submit(request)

    def withdraw(self, request: Request) -> None:
        """Stop waiting for *request*."""
        self._link.withdraw(request)

    def ask(self, frame: Frame, *, safe: bool = False) -> Awaitable[WireFrame]:
        """Send *frame* and return its answer."""
        return self._link.ask(Request(frame, self._link.check_frame(frame), safe=safe))

    async def request(self, frame: Frame, *, safe: bool) -> object:
        """Send *frame* and return its answer's data, decoded."""
        return decode_answer(frame.method, await self.ask(frame, safe=safe))

    async def send(self, frame: Frame) -> None:
        """Send *frame* and return when it is written, without waiting for an answer."""
        await self._link.call(Request(frame, self._link.check_frame(frame), answered=False))

    async def enqueue(
        self, name: str | JobType[Any], payload: object, queue: str | None, priority: int
    ) -> Enqueued:
        """Enqueue a job."""
        return read_enqueued(await self.ask(enqueue_frame(name, payload, queue, priority)))

    async def get_job(self, job_id: str) -> Job:
        """Get a job."""
        return await self._read(Method.JOB_GET, "job_id", job_id, read_job)

    async def cancel_job(self, job_id: str) -> None:
        """Cancel a job."""
        await self.ask(about(Method.JOB_CANCEL, "job_id", job_id))

    async def get_workflow(self, run_id: str) -> WorkflowRun:
        """Get a workflow run."""
        return await self._read(Method.WORKFLOW_GET, "run_id", run_id, read_run)

    async def workflow_timeline(self, run_id: str) -> list[TimelineStep]:
        """Get the steps that a run has finished."""
        return await self._read(Method.WORKFLOW_TIMELINE, "run_id", run_id, read_timeline)

    async def publish_event(self, name: str, payload: object) -> str:
        """Publish an event that workflows wait for. Returns its id."""
        data: dict[str, object] = {"name": check_text(name, "an event's name")}
        if payload is not None:
            data["payload"] = encode_payload(payload, f"the payload of event {name!r}")
        method = Method.WORKFLOW_EVENT
        answer = await self.ask(Frame(type=FrameType.REQUEST, method=method, data=data))
        return read_answer(method, answer, lambda text: decode_leniently(text, _published).event_id)

    async def stats(self) -> Stats:
        """Get the server's statistics."""
        frame = Frame(type=FrameType.REQUEST, method=Method.STATS)
        return read_answer(Method.STATS, await self.ask(frame, safe=True), read_stats)

    async def _read(self, method: str, key: str, id: str, read: Callable[[bytes], T]) -> T:
        answer = await self.ask(about(method, key, id), safe=True)
        return read_answer(method, answer, read)

    # Subscriptions.

    def subscribe(
        self,
        *channels: str,
        buffer: int = 1024,
        overflow: Overflow = "raise",
        patient: bool = False,
    ) -> Subscription:
        """See `Client.subscribe`.

        Args:
            channels: see there.
            buffer: see there.
            overflow: see there.
            patient: whether entering has no timeout, as for everything that waits.
        """
        if not channels:
            raise TypeError("subscribe() needs at least one channel")
        names = dict.fromkeys(check_channel(channel) for channel in channels)
        check_count(buffer, "buffer")
        if overflow not in ("raise", "drop_oldest"):
            raise ValueError(f"overflow is 'raise' or 'drop_oldest', not {overflow!r}")
        return Subscription(self._subscriptions, names, buffer, overflow, patient=patient)

    def listen(self, *channels: str, on_event: Callable[[Event], None]) -> Listener:
        """Call *on_event* with the events of *channels* from now on. Returns without waiting."""
        return self._subscriptions.listen(*channels, on_event=on_event)


def request_frame(method: str, data: object) -> Frame:
    """Build the frame of a request by name. Raises if the data cannot be sent."""
    check_text(method, "a method's name")
    encoded = None if data is None else encode_payload(data, f"the data of {method}")
    return Frame(type=FrameType.REQUEST, method=method, data=encoded)


def is_safe(method: str) -> bool:
    """Return whether *method* only reads, so that a request may be sent once more."""
    return method in SAFE_METHODS


def decode_answer(method: str, answer: WireFrame) -> object:
    """Decode an answer's data."""
    try:
        return decode_data(answer.data)
    except UndecodableFrame as exc:
        raise _unreadable(method, exc) from exc


def about(method: str, key: str, id: str) -> Frame:
    """Build the frame of a request about one job or run."""
    what = "a job's id" if key == "job_id" else "a run's id"
    return Frame(type=FrameType.REQUEST, method=method, data={key: check_text(id, what)})
