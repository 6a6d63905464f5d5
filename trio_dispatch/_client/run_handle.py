"""The handle of a run that this client has started, and the stream of the run's events."""

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

    The run continues if you drop the handle, cancel its caller, or close the client.

    You can copy and pickle a handle. A copy in the same process belongs to the same client. An
    unpickled handle belongs to no client, and only identifies its run.
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
        """The last state that this handle has seen; `refresh` and `wait` update it."""
        return self._record.state

    @property
    def known(self) -> bool:
        """Whether the run's id is known."""
        return self._record.run_id is not None

    async def wait_known(self) -> str:
        """Wait until the run's id is known, and return it. It is known at the end of the run.

        Cancelling ends the wait and does not affect the run.

        Raises:
            RequestError: the server refused to start the run.
            ConnectionLost: the run's connection was lost, and the run was not found.
            DispatchError: the client ended.
        """
        return await self._record.wait_known()

    def events(self) -> RunEvents:
        """Return a stream of all events of the run, from the first to the last.

        You can open it at any time. It is an async context manager over a
        `trio.abc.ReceiveChannel`, which ends with the run. Every call returns a separate stream.

        The events arrive on the connection that started the run, even if that leads to another
        server of a cluster. A `StreamGap` marks where events may be missing: when that connection
        was lost, at the beginning if the token may not subscribe, and in place of the oldest events
        if there are more than 10,000 or 16 MiB of them.
        """
        return RunEvents(self._record)

    async def wait(self) -> WorkflowRun:
        """Wait until the run has ended, and return it.

        The wait ends with the answer on the run's connection, or when the client sees that the run
        has ended. As soon as the run is known, the client asks for its state: after 10 ms, and then
        after an eighth of the time that the run has taken so far, at most 5 s. So the wait ends
        with the run, even if the run's connection is lost or stalls.

        Cancelling ends the wait and does not affect the run.

        Raises:
            WorkflowFailed: the run failed; ``run`` is its last state.
            RequestError: the server refused to start the run.
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
        """Get the steps that the run has finished. Raises `RunNotKnown` if its id is unknown."""
        return await self._connected_calls().workflow_timeline(self.run_id)

    async def refresh(self) -> WorkflowRun:
        """Get the run in its present state. Raises `RunNotKnown` if its id is unknown."""
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
    """The events of one run, from the first to the last; see `RunHandle.events`.

    This is an async context manager, and inside the block a `trio.abc.ReceiveChannel`.
    """

    def __init__(self, record: RunRecord) -> None:
        super().__init__("run.events()")
        self._record = record
        self._log = record.log
        self._position = 0

    async def _open(self) -> None:
        """Do nothing: the events are stored anyway, so there is nothing to open."""

    def _close(self) -> None:
        self._record.changed.unpark_all()

    async def receive(self) -> Event:
        """Wait for the run's next event. If it is cancelled, no event is lost.

        Raises:
            trio.EndOfChannel: the run has ended, and all its events have been returned.
            RuntimeError: the block has not been entered.
            trio.ClosedResourceError: the block has exited.
            DispatchError: the run could not be started or found, or the client ended.
        """
        await trio.lowlevel.checkpoint()
        while True:
            self._check_inside()
            record = self._record
            if self._log is not record.log:  # the run has become known
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
