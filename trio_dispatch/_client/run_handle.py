"""The handle of a run that this client has started, and the run's events."""

from __future__ import annotations

import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.runs import RunRecord
from trio_dispatch._client.watching import finished_run
from trio_dispatch._wire.errors import RunNotKnown, WorkflowFailed, fresh
from trio_dispatch._wire.models import Event, StreamGap, TimelineStep, WorkflowRun


class RunHandle:
    """A workflow run that this client has started.

    The run goes on when the handle is dropped, when its caller is cancelled, and when the client
    is closed.
    """

    def __init__(self, calls: Calls, record: RunRecord) -> None:
        self._calls = calls
        self._record = record

    def __repr__(self) -> str:
        name = self._record.run_id or "not known yet"
        return f"<RunHandle {name} of {self.name!r}: {self.state}>"

    @property
    def run_id(self) -> str:
        """The server's id of the run.

        Raises:
            RunNotKnown: it is not known yet; `wait_known` waits for it.
        """
        if self._record.run_id is None:
            raise RunNotKnown(
                f"which run of {self.name!r} this is, the server has not told yet; "
                "await wait_known() or wait()"
            )
        return self._record.run_id

    @property
    def name(self) -> str:
        """The workflow's name."""
        return self._record.name

    @property
    def state(self) -> str:
        """The last state that this handle has heard of; `refresh` and `wait` renew it."""
        return self._record.state

    @property
    def known(self) -> bool:
        """Whether the run's id is known."""
        return self._record.run_id is not None

    async def wait_known(self) -> str:
        """Wait until the run's id is known, at the latest when the run has ended; returns it.

        Raises:
            RequestError: the server refused to start the run.
            ConnectionLost: the run's connection was lost, and the run was not found.
            DispatchError: the client ended.
        """
        return await self._record.wait_known()

    def events(self) -> RunEvents:
        """Open a stream of the run's events, from its first to its last, whenever it is opened.

        An async context manager over a `trio.abc.ReceiveChannel`, which ends with the run. Every
        caller gets a stream of its own. A `StreamGap` stands where events may be missing: after a
        lost connection, where the run was not found by its events, and for the oldest of
        more than 10,000.
        """
        return RunEvents(self._record)

    async def wait(self) -> WorkflowRun:
        """Wait until the run has ended, and return it.

        Cancelling ends the wait and leaves the run alone.

        Raises:
            WorkflowFailed: the run failed; ``run`` is its last state.
            RequestError: the server refused to start it.
            ConnectionLost: the run's connection was lost, and the run was not found.
            DispatchError: the client ended.
        """
        await self._record.wait_settled()
        run = await finished_run(self._calls, self.run_id)
        self._record.state = run.state
        if run.state == "failed":
            raise WorkflowFailed(run)
        return run

    async def timeline(self) -> list[TimelineStep]:
        """Ask which steps the run has finished. Raises `RunNotKnown` where its id is not known."""
        return await self._calls.workflow_timeline(self.run_id)

    async def refresh(self) -> WorkflowRun:
        """Ask for the run's present state. Raises `RunNotKnown` where its id is not known."""
        run = await self._calls.get_workflow(self.run_id)
        self._record.state = run.state
        return run


class RunEvents(trio.abc.ReceiveChannel[Event]):
    """The events of one run, from its first to its last; see `RunHandle.events`."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record
        self._next = 0
        self._closed = False

    async def receive(self) -> Event:
        """Wait for the run's next event. Cancelled, it takes nothing.

        Raises:
            trio.EndOfChannel: the run has ended, and these were all.
            trio.ClosedResourceError: the block has been left.
            DispatchError: the run could not be started or found, or the client ended.
        """
        await trio.lowlevel.checkpoint()
        record = self._record
        while True:
            if self._closed:
                raise trio.ClosedResourceError("the block that opened this has been left")
            if self._next < record.forgotten:
                self._next = record.forgotten
                return StreamGap(until=record.events[0].ts)
            index = self._next - record.forgotten
            if index < len(record.events):
                self._next += 1
                return record.events[index]
            if record.settled:
                if record.error is not None:
                    raise fresh(record.error)
                raise trio.EndOfChannel
            await record.changed.park()

    async def aclose(self) -> None:
        """Stop reading."""
        self._closed = True
        self._record.changed.unpark_all()
        await trio.lowlevel.checkpoint()
