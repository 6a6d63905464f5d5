r"""Starts of runs, from the call to the end of the run.

Each start has one task, from the time when it has a place (`RunConnections.places`) to the end of
its run::

    wait for a place -- cancelled ------------------------------> nothing was started
     |
    find a connection -- cancelled -----------------------------> nothing was started
     |
    send the start -- refused ----------------------------------> failed
     |           \-- connection lost before it was written -----> find a connection
     |            \-- connection lost after that --> follow the run by asking, if it is known
     v
    answered -----> over                      or look for it for a few seconds more; else failed

Meanwhile the run's events arrive on its connection, and ``run_matching`` identifies the run. From
then on the client also asks for the run's state. The first of the two, the answer or the state,
ends the wait, so a stalled connection delays nobody.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, read_answer, start_frame
from trio_dispatch._client.run_connections import RunConnection, RunConnections, Start
from trio_dispatch._client.run_matching import RunMatching, tagged
from trio_dispatch._client.run_record import LAST_WORDS, RunRecord, Stage
from trio_dispatch._client.run_state import ask_for_end
from trio_dispatch._wire.arguments import check_text, encode_payload
from trio_dispatch._wire.channels import WORKFLOWS
from trio_dispatch._wire.codecs import decode_leniently
from trio_dispatch._wire.definitions import WorkflowType
from trio_dispatch._wire.errors import (
    DispatchError,
    NotFound,
    ProtocolError,
    RequestError,
    fresh,
)
from trio_dispatch._wire.frames import Frame, Method, WireFrame
from trio_dispatch._wire.models import Started

KNOWN_WITHIN: Final = 2.0
"""Seconds after which `start_workflow` returns a handle whose run is not known."""

LOOK_LONGER: Final = 5.0
"""Seconds to look for a run whose connection was lost before the run was known."""

ASK_AGAIN: Final = 5.0
"""Seconds until the client asks again, after the server has denied that the run exists."""

_started: Final = msgspec.json.Decoder(Started)


def encode_input(name: str | WorkflowType[Any], input: object) -> tuple[str, bytes]:
    """Return the name of a workflow and its encoded input: an empty object if there is none.

    Raises `TypeError` or `ValueError` if one of them is invalid.
    """
    if input is msgspec.UNSET:
        input = {}
    if isinstance(name, WorkflowType):
        return name.name, bytes(name.encode(input))
    check_text(name, "a workflow's name")
    return name, bytes(encode_payload(input, f"the input of {name!r}"))


def read_started(answer: WireFrame) -> Started:
    """Read the answer to ``workflow.start``."""
    method = Method.WORKFLOW_START
    started = read_answer(method, answer, lambda data: decode_leniently(data, _started))
    if not started.run_id:
        raise ProtocolError(f"the answer to {method} has no run id")
    return started


class RunStarts:
    """Starts runs, and follows each to its end.

    Args:
        calls: used to ask and to subscribe on the main connection.
        connections: the connections on which runs are started.
        background: runs the tasks of the starts.
    """

    def __init__(self, calls: Calls, connections: RunConnections, background: Background) -> None:
        self._calls = calls
        self._connections = connections
        self._background = background
        self.matching = RunMatching(calls, background)

    async def start(self, name: str, text: bytes) -> RunRecord:
        """Start a workflow. Returns when the run is known or over, or 2 s after it was sent.

        If this is cancelled before the start is written, nothing is started.
        """
        sent = tagged(text) if self.matching.tagging else text
        record = RunRecord(name, sent, tagged=sent != text)
        start = await self._begin(
            start_frame(name, sent), lambda start: self._follow(start, record), record.settle
        )
        try:
            await start.under_way.wait()
            with trio.move_on_after(KNOWN_WITHIN):
                while record.stage is Stage.STARTING:
                    await record.changed.park()
        except trio.Cancelled:
            start.abandon()
            raise
        if record.error is not None:
            await trio.lowlevel.checkpoint_if_cancelled()  # what the caller should see, if both
            raise fresh(record.error)
        return record

    async def send(self, frame: Frame) -> WireFrame:
        """Send a frame that starts a workflow unchanged, and return its answer.

        If this is cancelled before the frame is written, nothing is started.
        """
        call = _Call()
        start = await self._begin(frame, lambda start: self._answer(start, call), call.settle)
        try:
            await call.done.wait()
        except trio.Cancelled:
            start.abandon()
            raise
        if call.error is not None:
            raise fresh(call.error)
        assert call.answer is not None
        return call.answer

    async def _begin(
        self,
        frame: Frame,
        work: Callable[[Start], Awaitable[None]],
        settle: Callable[[Exception | None], None],
    ) -> Start:
        """Wait for a place, in the order of the calls, and then run the start in a task."""
        start = Start(frame, self._calls.check_frame(frame))
        await trio.lowlevel.checkpoint()
        self._calls.check_open()
        await self._connections.places.acquire_on_behalf_of(start)
        try:
            if self._calls.closed:
                raise self._calls.why_ended()
            self._background.spawn(self._see_through, start, work, settle)
        except BaseException:
            self._connections.places.release_on_behalf_of(start)
            await trio.lowlevel.checkpoint_if_cancelled()  # what the caller should see, if both
            raise
        return start

    async def _see_through(
        self,
        start: Start,
        work: Callable[[Start], Awaitable[None]],
        settle: Callable[[Exception | None], None],
    ) -> None:
        """Run the task of one start. If it is cancelled, it still settles the start."""
        outcome: tuple[Exception | None] | None = None
        try:
            with start.scope:
                await work(start)
                outcome = (None,)
        except DispatchError as exc:
            outcome = (exc,)
        finally:
            self._connections.places.release_on_behalf_of(start)
            settle(outcome[0] if outcome is not None else self._calls.why_ended())
            start.under_way.set()

    # A start whose caller needs only the answer.

    async def _answer(self, start: Start, call: _Call) -> None:
        async def use(connection: RunConnection) -> None:
            call.answer = await connection.start(start)

        await self._connections.carry(start, use)

    # A run that is followed.

    async def _follow(self, start: Start, record: RunRecord) -> None:
        """Follow a run to its end, on its connection and by asking for its state."""
        error: DispatchError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, record)
            try:
                await self._follow_to_its_end(start, record)
            except DispatchError as exc:
                error = exc
            finally:
                self.matching.forget(record)
            nursery.cancel_scope.cancel()
        if error is not None:
            raise error

    async def _follow_to_its_end(self, start: Start, record: RunRecord) -> None:
        async def use(connection: RunConnection) -> None:
            await self._follow_on_its_connection(connection, start, record)

        try:
            await self._connections.carry(start, use)
        except DispatchError as exc:
            if self._calls.closed or not start.request.maybe_delivered:
                raise
            if isinstance(exc, RequestError) and record.run_id is None:
                raise
            record.mark_gap()
            await self._follow_without_connection(record, exc)
        record.mark_gap()

    async def _follow_on_its_connection(
        self, connection: RunConnection, start: Start, record: RunRecord
    ) -> None:
        """Send the start; wait for its answer and the run's last event, or for its state."""
        self.matching.expect(record)
        connection.on_event = partial(self.matching.hear_frame, record)
        with record.new_last_words():
            started = read_started(await connection.start(start))
            self.matching.answered(record, started.run_id)
            record.report(started.state)
            if not record.end_known.is_set():
                # The server answers at once; the connection still receives the run's events.
                await self._wait_for_end(record)
            if connection.hears:
                await record.log.ended.wait()

    async def _follow_without_connection(self, record: RunRecord, error: DispatchError) -> None:
        """Listen on the main connection: the run's own is lost, which does not end the run."""
        if record.run_id is None and record.tagged:
            await self._look_longer(record)
        if record.run_id is None:
            raise error
        channel = f"workflow:{record.run_id}"
        listener = self._calls.listen(channel, on_event=record.add)
        try:
            await self._wait_for_end(record, error)
            if listener.confirmed:
                with trio.move_on_after(LAST_WORDS):
                    await record.log.ended.wait()
        finally:
            listener.close()

    async def _look_longer(self, record: RunRecord) -> None:
        """Look a few seconds longer for a run, and listen for its events on the main connection."""
        listener = self._calls.listen(WORKFLOWS, on_event=partial(self.matching.hear, record))
        try:
            with trio.move_on_after(LOOK_LONGER):
                await record.known.wait()
        finally:
            listener.close()

    async def _wait_for_end(self, record: RunRecord, error: DispatchError | None = None) -> None:
        """Wait until the server reports the end. If it does not report a state, raise an error."""
        if not await record.wait_end_known():
            assert record.cannot_ask is not None
            if error is None:
                raise record.cannot_ask
            raise error from record.cannot_ask

    async def _ask(self, record: RunRecord) -> None:
        """Ask for the run's state, from the time when it is known until it has ended."""
        await record.known.wait()
        while not record.end_known.is_set():
            run_id, log = record.run_id, record.log
            assert run_id is not None
            try:
                run = await ask_for_end(self._calls, run_id, log=log)
            except NotFound as exc:
                # The main connection may lead to another store at present.
                record.fail_to_ask(exc)
                await trio.sleep(ASK_AGAIN)
            except (DispatchError, ValueError) as exc:
                record.fail_to_ask(exc)
                return
            else:
                if run_id == record.run_id:  # the answer may have named another run meanwhile
                    record.run = run
                    record.report(run.state)


class _Call:
    """The answer to a start, or the error."""

    def __init__(self) -> None:
        self.answer: WireFrame | None = None
        self.error: Exception | None = None
        self.done = trio.Event()

    def settle(self, error: Exception | None) -> None:
        """Settle the start: there is an answer, or there will be none."""
        self.error = error
        self.done.set()
