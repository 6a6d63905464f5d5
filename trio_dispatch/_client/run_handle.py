"""The handle of a run that this client has started, and the run's events."""

from __future__ import annotations

import trio

from trio_dispatch._client.calls import Calls
from trio_dispatch._client.run_record import RunRecord
from trio_dispatch._client.run_state import ask_for_end
from trio_dispatch._transport.receiving import BlockChannel
from trio_dispatch._wire.errors import ClientClosed, RunNotKnown, WorkflowFailed, fresh
from trio_dispatch._wire.models import Event, TimelineStep, WorkflowRun


class RunHandle:
    """A workflow run that this client has started.

    The run goes on when the handle is dropped, when its caller is cancelled, and when the client
    is closed.

    It can be copied and pickled. A copy in the same process is a handle of the same client; one
    that was pickled belongs to no client, and only names its run.
    """

    def __init__(self, calls: Calls | None, record: RunRecord) -> None:
        self._calls = calls
        self._record = record

    def __copy__(self) -> RunHandle:
        return RunHandle(self._calls, self._record)

    def __deepcopy__(self, memo: dict[int, object]) -> RunHandle:
        return self.__copy__()

    def __reduce__(self) -> tuple[object, ...]:
        return _handle_of_no_client, (self.name, self._record.run_id, self.state)

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
                f"the server has not named this run of {self.name!r} yet; "
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
        caller gets a stream of its own.

        The events arrive on the connection that started the run, whichever server that leads to. A
        `StreamGap` stands where events may be missing: where that connection was lost, at the
        beginning if the token may not subscribe, and for the oldest of more than 10,000 events or
        16 MiB.
        """
        return RunEvents(self._record)

    async def wait(self) -> WorkflowRun:
        """Wait until the run has ended, and return it.

        Its connection's answer ends the wait, or its state, for which the client asks from when
        the run is known: after 10 ms, and then after an eighth of the time it has taken so far, at
        most 5 s. So the wait ends with the run, even if its connection is lost or stands still.

        Cancelling ends the wait and leaves the run alone.

        Raises:
            WorkflowFailed: the run failed; ``run`` is its last state.
            RequestError: the server refused to start it.
            ConnectionLost: the run's connection was lost, and the run was not found.
            DispatchError: the client ended.
        """
        record = self._record
        await record.wait_settled()
        if record.run is None:
            record.run = await ask_for_end(
                self._connected_calls(), self.run_id, log=record.log, answered=record.state
            )
            record.state = record.run.state
        if record.run.state == "failed":
            raise WorkflowFailed(record.run)
        return record.run

    async def timeline(self) -> list[TimelineStep]:
        """Ask which steps the run has finished. Raises `RunNotKnown` if its id is not known."""
        return await self._connected_calls().workflow_timeline(self.run_id)

    async def refresh(self) -> WorkflowRun:
        """Ask for the run's present state. Raises `RunNotKnown` if its id is not known."""
        run = await self._connected_calls().get_workflow(self.run_id)
        self._record.state = run.state
        return run

    def _connected_calls(self) -> Calls:
        if self._calls is None:
            assert self._record.error is not None
            raise fresh(self._record.error)
        return self._calls


def _handle_of_no_client(name: str, run_id: str | None, state: str) -> RunHandle:
    """Restore a handle that was pickled."""
    record = RunRecord(name, b"", tagged=False)
    instead = (
        ""
        if run_id is None
        else f"; use client.watch({run_id!r}) or client.get_workflow({run_id!r})"
    )
    if run_id is not None:
        record.learn(run_id)
    record.state = state
    record.settle(
        ClientClosed(
            f"this handle of a run of {name!r} was unpickled, and belongs to no client{instead}"
        )
    )
    return RunHandle(None, record)


class RunEvents(BlockChannel[Event]):
    """The events of one run, from its first to its last; see `RunHandle.events`.

    An async context manager, and inside the block a `trio.abc.ReceiveChannel`.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__("run.events()")
        self._record = record
        self._log = record.log
        self._position = 0

    async def _open(self) -> None:
        """The events are kept for everybody, so there is nothing to open."""

    def _close(self) -> None:
        self._record.changed.unpark_all()

    async def receive(self) -> Event:
        """Wait for the run's next event. Cancelled, it takes nothing.

        Raises:
            trio.EndOfChannel: the run has ended, and these were all.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
            DispatchError: the run could not be started or found, or the client ended.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_inside()
            record = self._record
            if self._log is not record.log:  # it has become known which run this is
                self._log, self._position = record.log, 0
            found = self._log.read(self._position)
            if found is not None:
                event, self._position = found
                return event
            if record.settled:
                if record.error is not None:
                    raise fresh(record.error)
                raise trio.EndOfChannel
            await record.changed.park()
