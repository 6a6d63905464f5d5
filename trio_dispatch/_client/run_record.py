"""What the client knows about one run that it has started.

    ============ ======================================== =====================================
    stage        what is known                            what follows
    ============ ======================================== =====================================
    starting     nothing                                  a run with its input: running
    running      its id and its events                    its answer, or its state: over
    over         its last state                           nothing
    failed       it was refused, or lost and not found    nothing
    ============ ======================================== =====================================

The answer to the start may arrive in any stage, and it always wins.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import trio

from trio_dispatch._client.run_events import Candidates, EventLog
from trio_dispatch._wire.errors import fresh
from trio_dispatch._wire.models import RUN_END_STATES, Event, WorkflowRun

LAST_WORDS: Final = 1.0
"""Seconds to wait for a run's answer and last event once the run is known to have ended."""


class Stage(Enum):
    """The stage of a run; see the table above."""

    STARTING = "starting"
    RUNNING = "running"
    OVER = "over"
    FAILED = "failed"


class RunRecord:
    """What the client knows about one run that it has started.

    Args:
        name: the workflow's name.
        text: the input as it was sent.
        tagged: whether *text* holds a tag, by which the run can be found.
    """

    def __init__(self, name: str, text: bytes, *, tagged: bool) -> None:
        self.name = name
        self.text = text
        self.tagged = tagged
        self.stage = Stage.STARTING
        self.run_id: str | None = None
        self.state = "running"
        """The last known state."""
        self.run: WorkflowRun | None = None
        """The run in its last state, once somebody has asked for it."""
        self.error: Exception | None = None
        self.log = EventLog()
        self.candidates = Candidates()
        self.known = trio.Event()
        """Set with `run_id`."""
        self.end_known = trio.Event()
        """Set when the run is known to have ended."""
        self.cannot_ask: Exception | None = None
        """The error if the server does not report the run's state."""
        self._last_words = trio.CancelScope()
        self.changed = trio.lowlevel.ParkingLot()

    @property
    def settled(self) -> bool:
        """Whether the client will learn nothing more about it."""
        return self.stage in (Stage.OVER, Stage.FAILED)

    def learn(self, run_id: str) -> None:
        """Note that the run is *run_id*."""
        self.log = self.candidates.take(run_id)
        self.candidates.clear()
        self.run_id = run_id
        if self.stage is Stage.STARTING:
            self.stage = Stage.RUNNING
        self.known.set()
        self.changed.unpark_all()

    def add(self, event: Event, size: int = 0) -> None:
        """Note an event of the run."""
        self.log.add(event, size)
        self.changed.unpark_all()

    def mark_gap(self) -> None:
        """Note that its events may be missing from now on."""
        self.log.mark_gap()
        self.candidates.mark_gaps()
        self.changed.unpark_all()

    def report(self, state: str) -> None:
        """Note the state that the server has reported."""
        self.state = state
        if state in RUN_END_STATES and not self.end_known.is_set():
            self.end_known.set()
            self._last_words.deadline = trio.current_time() + LAST_WORDS
        self.changed.unpark_all()

    def new_last_words(self) -> trio.CancelScope:
        """Open a scope for the answer and the last event; it ends soon after the run's end."""
        self._last_words = trio.CancelScope()
        return self._last_words

    def fail_to_ask(self, error: Exception) -> None:
        """Note that the server does not report the run's state."""
        self.cannot_ask = error
        self.changed.unpark_all()

    def settle(self, error: Exception | None) -> None:
        """End the record: the client will learn nothing more about the run."""
        if not self.settled:
            self.stage = Stage.OVER if error is None else Stage.FAILED
            self.error = error
            self.candidates.clear()
            self.changed.unpark_all()

    async def wait_known(self) -> str:
        """Wait for the run's id."""
        await trio.lowlevel.checkpoint()
        while self.run_id is None:
            if self.error is not None:
                raise fresh(self.error)
            await self.changed.park()
        return self.run_id

    async def wait_settled(self) -> None:
        """Wait until the record has ended. Raises the error if the run was not found."""
        await trio.lowlevel.checkpoint()
        while not self.settled:
            await self.changed.park()
        if self.error is not None:
            raise fresh(self.error)

    async def wait_end_known(self) -> bool:
        """Wait until the run is known to have ended. Returns False if that cannot be found out."""
        await trio.lowlevel.checkpoint()
        while not self.end_known.is_set():
            if self.cannot_ask is not None:
                return False
            await self.changed.park()
        return True
