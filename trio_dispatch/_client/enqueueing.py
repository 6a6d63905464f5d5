"""Enqueueing many jobs at once."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

import attrs
import trio

from trio_dispatch._client.calls import Calls, enqueue_frame, read_enqueued
from trio_dispatch._client.jobs import JobHandle
from trio_dispatch._link.requests import Request
from trio_dispatch._wire.definitions import JobType
from trio_dispatch._wire.errors import DispatchError, ProtocolError
from trio_dispatch._wire.frames import Frame

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import ExceptionGroup

if TYPE_CHECKING:
    from typing_extensions import Self

P = TypeVar("P")

IN_HAND: Final = 512
"""How many entries of an ``enqueue_many`` are queued or in flight: enough to keep the wire busy."""

TURN: Final = 256
"""How many entries are encoded before other tasks have a turn: about a millisecond's work."""


@attrs.frozen(init=False)
class EnqueueRequest:
    """One entry of `Client.enqueue_many` or `Client.run_jobs`: the arguments of `Client.enqueue`.

    Args:
        name: the job's name, or its `JobType`.
        payload: anything that msgspec encodes as JSON; with a `JobType`, a value of its type.
        queue: the queue (default: the server's, or the `JobType`'s).
        priority: above 0, the job is claimed before others of its queue.
    """

    name: str | JobType[Any]
    payload: object = None
    queue: str | None = attrs.field(default=None, kw_only=True)
    priority: int = attrs.field(default=0, kw_only=True)

    @overload
    def __init__(
        self, name: str, payload: object = None, *, queue: str | None = None, priority: int = 0
    ) -> None: ...

    @overload
    def __init__(
        self, name: JobType[P], payload: P, *, queue: str | None = None, priority: int = 0
    ) -> None: ...

    def __init__(
        self,
        name: str | JobType[Any],
        payload: object = None,
        *,
        queue: str | None = None,
        priority: int = 0,
    ) -> None:
        # attrs makes `__attrs_init__`, which pyright does not know.
        self.__attrs_init__(  # pyright: ignore[reportUnknownMemberType, reportAttributeAccessIssue]
            name, payload, queue=queue, priority=priority
        )


class EnqueueManyFailed(ExceptionGroup[Exception], DispatchError):
    """Some entries of an ``enqueue_many`` failed; the group holds one exception for each.

    Attributes:
        handles: one for each entry, in order: a `JobHandle`, or None if the entry failed.
    """

    handles: Sequence[JobHandle | None]

    def __new__(
        cls,
        message: str,
        exceptions: Sequence[Exception],
        handles: Sequence[JobHandle | None] = (),
    ) -> Self:
        self = super().__new__(cls, message, exceptions)
        self.handles = list(handles)
        return self

    def __init__(
        self,
        message: str,
        exceptions: Sequence[Exception],
        handles: Sequence[JobHandle | None] = (),  # noqa: ARG002 (`__new__` took them)
    ) -> None:
        super().__init__(message, exceptions)

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the handles in copies and pickles, where they belong to no client."""
        return type(self), (self.message, list(self.exceptions), list(self.handles))

    def derive(self, excs: Sequence[Exception], /) -> EnqueueManyFailed:  # type: ignore[override]
        """Split the group for ``except*``; the parts keep the handles."""
        return EnqueueManyFailed(self.message, excs, self.handles)


class _Batch:
    """An ``enqueue_many`` under way, which keeps a window of entries busy until all are done."""

    def __init__(self, calls: Calls, frames: list[tuple[Frame, bytes]]) -> None:
        self._calls = calls
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
                self._calls.withdraw(request)

    def _next(self) -> None:
        """Send one more entry; if the client has ended, all remaining entries fail."""
        for index, (frame, text) in self._frames:
            request = Request(frame, text, on_done=self._done)
            self._open[request] = index
            try:
                self._calls.submit(request)
            except DispatchError as exc:
                del self._open[request]
                self.errors[index] = exc
                self.errors.update((rest, exc) for rest, _ in self._frames)
            return

    def _done(self, request: Request) -> None:
        if self._cut:
            return
        index = self._open.pop(request)
        if request.answer is not None:
            try:
                self.handles[index] = JobHandle(self._calls, read_enqueued(request.answer))
            except ProtocolError as exc:
                self.errors[index] = exc
        elif request.error is not None:
            self.errors[index] = request.error
        self._next()
        if not self._open:
            self._finished.set()


async def enqueue_many(calls: Calls, requests: Iterable[EnqueueRequest]) -> list[JobHandle]:
    """See `Client.enqueue_many`."""
    frames: list[tuple[Frame, bytes]] = []
    for number, entry in enumerate(requests):
        if not isinstance(entry, EnqueueRequest):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"entry {number} is an EnqueueRequest, not {type(entry).__name__}")
        frame = enqueue_frame(entry.name, entry.payload, entry.queue, entry.priority)
        frames.append((frame, calls.check_frame(frame)))
        if number % TURN == TURN - 1:
            await trio.lowlevel.checkpoint()
    await trio.lowlevel.checkpoint()
    calls.check_open()
    batch = _Batch(calls, frames)
    await batch.run()
    if batch.errors:
        raise EnqueueManyFailed(
            f"{len(batch.errors)} of {len(frames)} jobs were not enqueued",
            [batch.errors[index] for index in sorted(batch.errors)],
            batch.handles,
        )
    return [handle for handle in batch.handles if handle is not None]
