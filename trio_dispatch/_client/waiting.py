"""Waiting for the end of jobs and runs. Only this module decides that one has ended.

Events show when it is worth asking, and the state in the server's answer decides. A wait subscribes
and asks at the same time. It asks again when an event reports an end, after a gap, and at intervals
(``polling``), because behind a load balancer a client does not receive most events. One wait may
watch thousands of jobs with one subscription, one task, and a request for each question.

The meaning of an answer:

    ===================================== ====================================================
    answer                                what follows
    ===================================== ====================================================
    a last state                          over
    another state                         ask again
    another state, 10 s after an event    over, by the event: the store contradicts its server
    reported an end
    404, for something not known to exist over: there is no such job or run
    404, for something known to exist     ask again; over if it says so for 10 s
    connection lost, timed out, 5xx       ask again
    any other error, or the client's end  over
    ===================================== ====================================================
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Mapping
from typing import Final, Generic, Protocol, TypeVar

import attrs
import trio

from trio_dispatch._client.calls import Calls, about, read_answer
from trio_dispatch._client.polling import QUESTIONS_PER_SECOND, next_question
from trio_dispatch._client.subscriptions import Listener
from trio_dispatch._link.requests import Request
from trio_dispatch._wire.channels import JOBS, WORKFLOWS
from trio_dispatch._wire.errors import (
    ConnectionLost,
    JobCancelled,
    JobFailed,
    NotFound,
    ProtocolError,
    RequestTimeout,
    ServerError,
    fresh,
)
from trio_dispatch._wire.frames import Method
from trio_dispatch._wire.models import Event, Job, StreamGap, WorkflowRun, read_job, read_run

CONTRADICTION_TIME: Final = 10.0
"""Seconds for which the server's answers may contradict each other before a wait ends."""

NARROW: Final = 8
"""Up to this many jobs, a wait subscribes to the channel of each; above it, to all jobs."""

_TRANSIENT: Final = (ConnectionLost, RequestTimeout, ServerError)
"""Errors after which a wait asks again: this is harmless, and nothing else helps."""


class _Model(Protocol):
    @property
    def finished(self) -> bool: ...


M = TypeVar("M", bound=_Model)


@attrs.frozen(kw_only=True)
class Kind(Generic[M]):
    """A kind of thing to wait for: jobs or runs."""

    method: str
    key: str
    prefix: str
    """The prefix of an id in a channel."""
    channel: str
    """The channel of all things of the kind."""
    ends: Mapping[str, str]
    """The events that report an end, with the states that they report."""
    read: Callable[[bytes], M]
    subject: Callable[[Event], str | None]
    """Returns the id of the job or run that an event is about."""
    ended: Callable[[M, str, str], M]
    """Makes a model with the state and the error that an event reported."""


JOB: Final = Kind[Job](
    method=Method.JOB_GET,
    key="job_id",
    prefix="job:",
    channel=JOBS,
    ends={
        "job.completed": "completed",
        "job.failed": "failed",
        "job.dlq": "failed",
        "job.cancelled": "cancelled",
    },
    read=read_job,
    subject=lambda event: event.job_id,
    ended=lambda job, state, error: attrs.evolve(
        job, state=state, last_error=error or job.last_error
    ),
)

RUN: Final = Kind[WorkflowRun](
    method=Method.WORKFLOW_GET,
    key="run_id",
    prefix="workflow:",
    channel=WORKFLOWS,
    ends={"workflow.completed": "completed", "workflow.failed": "failed"},
    read=read_run,
    subject=lambda event: event.run_id,
    ended=lambda run, state, error: attrs.evolve(run, state=state, error=error or run.error),
)


class Alarm:
    """Wakes one task, when it is rung or at a deadline."""

    def __init__(self) -> None:
        self._rung = False
        self._lot = trio.lowlevel.ParkingLot()

    def ring(self) -> None:
        """Wake the task, now or as soon as it waits."""
        self._rung = True
        self._lot.unpark_all()

    async def wait(self, deadline: float) -> None:
        """Wait until rung or until *deadline* (`trio.current_time`). This is a checkpoint."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._rung:
            await trio.lowlevel.cancel_shielded_checkpoint()
        elif deadline == math.inf:
            await self._lot.park()
        else:
            with trio.move_on_at(deadline):
                await self._lot.park()
        self._rung = False


class _Watched(Generic[M]):
    """One job or run that is waited for."""

    __slots__ = (
        "began",
        "end_event",
        "end_heard_at",
        "id",
        "is_guess",
        "known",
        "missing_since",
        "next_time",
        "request",
    )

    def __init__(self, id: str, known: bool) -> None:
        self.id = id
        self.known = known
        """Whether it is known to exist."""
        self.is_guess = False
        """Whether the question under way was not caused by an event."""
        self.began = trio.current_time()
        self.next_time = -math.inf
        """When to ask next (`trio.current_time`)."""
        self.request: Request | None = None
        """The question under way."""
        self.end_event: Event | None = None
        """The event that reported its end, if one has arrived."""
        self.end_heard_at = math.inf
        self.missing_since = math.inf
        """Since when the server reports that it does not exist, although it did."""


class EndWatch(Generic[M]):
    """Finds out when jobs or runs have ended.

    Args:
        calls: used to ask and to subscribe.
        kind: jobs or runs.
        on_end: called with an id and its end: the last state, or the error that ends the wait. It
            may add further ids.
        has_room: returns whether another end can be taken; if not, no questions are asked. Call
            `ring` when that changes.
    """

    def __init__(
        self,
        calls: Calls,
        kind: Kind[M],
        on_end: Callable[[str, M | Exception], None],
        has_room: Callable[[], bool] = lambda: True,
    ) -> None:
        self._calls = calls
        self._kind = kind
        self._on_end = on_end
        self._has_room = has_room
        self._watched: dict[str, _Watched[M]] = {}
        self._due: list[tuple[float, int, _Watched[M]]] = []
        self._order = itertools.count()
        self._alarm = Alarm()
        self._listener: Listener | None = None
        self._next_guess = -math.inf
        """When the next question that was not caused by an event may be asked."""
        self.complete = False
        """Whether no more will be added, so that `run` may return when all have ended."""

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._watched)

    def listen(self, *ids: str) -> None:
        """Subscribe to the events of *ids*, or of all, without waiting for the server."""
        channels = [self._kind.prefix + id for id in ids] or [self._kind.channel]
        self._listener = self._calls.listen(*channels, on_event=self.hear)

    def add(self, id: str, *, known: bool) -> None:
        """Also wait for *id*.

        Args:
            id: the id of a job or a run.
            known: whether it is known to exist.
        """
        if id not in self._watched:
            watched = self._watched[id] = _Watched[M](id, known)
            self._ask_at(watched, watched.began)
            self._alarm.ring()

    def ring(self) -> None:
        """Check again, because there is space, or because nothing more will be added."""
        self._alarm.ring()

    async def run(self) -> None:
        """Ask and listen until all have ended and `complete` is set.

        If this is cancelled, it withdraws its requests and its subscription.
        """
        self._calls.at_end.add(self._alarm.ring)
        try:
            while self._watched or not self.complete:
                next_time = self._ask_what_is_due()
                self._calls.questions.pass_on()
                await self._alarm.wait(next_time)
        finally:
            self._calls.at_end.discard(self._alarm.ring)
            self._calls.questions.forget(self._alarm.ring)
            self._withdraw_all()

    def _withdraw_all(self) -> None:
        if self._listener is not None:
            self._listener.close()
        for watched in self._watched.values():
            if (request := watched.request) is not None:
                watched.request = None
                request.cancel()
                self._calls.withdraw(request)
                self._calls.questions.give_back()
        self._watched.clear()

    # Asking.

    def _ask_at(self, watched: _Watched[M], time: float) -> None:
        watched.next_time = time
        heapq.heappush(self._due, (time, next(self._order), watched))

    def _ask_what_is_due(self) -> float:
        """Ask all questions that are due and allowed. Returns when to check again."""
        now = trio.current_time()
        if self._calls.closed:
            now = math.inf  # the questions fail, which ends every wait with the reason
        while self._due:
            time, _, watched = self._due[0]
            if time != watched.next_time or self._watched.get(watched.id) is not watched:
                heapq.heappop(self._due)  # it was asked for meanwhile, or has ended
                continue
            if time > now:
                return time
            if now < self._next_guess and watched.end_event is None:
                return self._next_guess
            if not self._has_room() or not self._calls.questions.take(self._alarm.ring):
                return math.inf  # rung when that changes
            heapq.heappop(self._due)
            self._ask(watched)
        return math.inf

    def _ask(self, watched: _Watched[M]) -> None:
        frame = about(self._kind.method, self._kind.key, watched.id)
        watched.next_time = math.inf
        watched.is_guess = watched.end_event is None
        watched.request = request = Request(
            frame, safe=True, on_done=lambda request: self._answered(watched, request)
        )
        try:
            request.text = self._calls.check_frame(frame)
            self._calls.submit(request)
        except Exception as exc:  # noqa: BLE001 - the wait ends with it
            self._calls.questions.give_back()
            watched.request = None
            self._end(watched, exc)

    def _answered(self, watched: _Watched[M], request: Request) -> None:
        if watched.request is not request:
            return
        watched.request = None
        self._calls.questions.give_back()
        outcome = self._outcome(watched, request)
        if watched.is_guess and outcome is None:
            # If thousands have ended, the wait asks for them at full speed. If thousands are at
            # work, it relies on their events and asks a limited number of questions a second.
            now = trio.current_time()
            self._next_guess = max(self._next_guess, now) + 1 / QUESTIONS_PER_SECOND
        if outcome is not None:
            self._end(watched, outcome)
        elif watched.next_time == math.inf:
            self._ask_at(watched, next_question(watched.began))
            self._alarm.ring()
        else:
            self._ask_at(watched, watched.next_time)  # an event arrived meanwhile
            self._alarm.ring()

    def _outcome(self, watched: _Watched[M], request: Request) -> M | Exception | None:
        """Return how it ended, or None if it has not ended. This is the table above."""
        now = trio.current_time()
        error = request.error
        if error is not None:
            if self._calls.closed:
                return error
            if isinstance(error, NotFound) and watched.known:
                watched.missing_since = min(watched.missing_since, now)
                return error if now - watched.missing_since >= CONTRADICTION_TIME else None
            return None if isinstance(error, _TRANSIENT) else error
        assert request.answer is not None
        try:
            found = read_answer(self._kind.method, request.answer, self._kind.read)
        except ProtocolError as exc:
            return exc
        watched.known, watched.missing_since = True, math.inf
        if found.finished:
            return found
        if watched.end_event is not None and now - watched.end_heard_at >= CONTRADICTION_TIME:
            reported = self._kind.ends[watched.end_event.type]
            text = watched.end_event.data.get("error")
            return self._kind.ended(found, reported, text if isinstance(text, str) else "")
        return None

    def _end(self, watched: _Watched[M], outcome: M | Exception) -> None:
        if self._watched.pop(watched.id, None) is not None:
            self._on_end(watched.id, outcome)
            self._alarm.ring()

    # Listening.

    def hear(self, event: Event) -> None:
        """An event arrived for one of them, or events may be missing."""
        if isinstance(event, StreamGap):
            for watched in self._watched.values():
                self._ask_soon(watched)
            return
        if event.type in self._kind.ends:
            found = self._watched.get(self._kind.subject(event) or "")
            if found is not None:
                if found.end_event is None:
                    found.end_heard_at = trio.current_time()
                found.end_event = event
                self._ask_soon(found)

    def _ask_soon(self, watched: _Watched[M]) -> None:
        """Ask now; if a question is under way, ask when that is answered."""
        if watched.request is None:
            self._ask_at(watched, -math.inf)
            self._alarm.ring()
        else:
            watched.next_time = -math.inf


async def finished(calls: Calls, kind: Kind[M], id: str, *, known: bool) -> M:
    """Wait until a job or a run has ended, and return its last state, even if it has failed."""
    outcomes: list[M | Exception] = []
    await trio.lowlevel.checkpoint()
    calls.check_open()
    watch = EndWatch(calls, kind, lambda _, outcome: outcomes.append(outcome))
    watch.complete = True
    watch.listen(id)
    watch.add(id, known=known)
    await watch.run()
    (outcome,) = outcomes
    if isinstance(outcome, Exception):
        raise fresh(outcome)
    return outcome


async def wait_job(calls: Calls, job_id: str, *, known: bool = False) -> Job:
    """See `Client.wait_job`."""
    job = await finished(calls, JOB, job_id, known=known)
    if job.state == "completed":
        return job
    raise (JobCancelled if job.state == "cancelled" else JobFailed)(job)


async def finished_run(calls: Calls, run_id: str, *, known: bool = False) -> WorkflowRun:
    """Wait until a run has ended, and return its last state, even if it has failed."""
    return await finished(calls, RUN, run_id, known=known)
