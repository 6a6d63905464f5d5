"""Workflow runs that this client starts: which run is ours, while it runs.

The server names a run only in its answer, which comes when the run has ended. Until then the run is
found by its events: the input carries a tag, 64 random bits of white space behind its first
bracket, which JSON ignores and the server stores byte for byte (protocol, "Jobs"). Any event of an
unseen run of a workflow that is being started names a candidate; ``workflow.get`` shows its
input, and an equal one is ours (measured: 64 equal starts with 50 foreign ones among them, all told
apart in 11 ms).

The tag makes it quick; **the answer is the authority**. A run is

    ============ ======================================== =====================================
    state        what is known                            what follows
    ============ ======================================== =====================================
    starting     nothing                                  a candidate with its input: running
    running      its id and its events                    its answer: over
    over         its last state                           nothing
    failed       it was refused, or lost and not found    nothing
    ============ ======================================== =====================================

An answer may come in any state, and settles it.
"""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterable
from enum import Enum
from typing import Final

import msgspec
import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls, read_answer, start_frame
from trio_dispatch._client.run_connections import CarriedRequest, RunConnections
from trio_dispatch._client.subscriptions import Listener, Subscriptions
from trio_dispatch._client.watching import END_EVENTS, finished_run
from trio_dispatch._wire.arguments import check_text, encode_payload
from trio_dispatch._wire.codecs import decode_leniently
from trio_dispatch._wire.errors import (
    ConnectionLost,
    DispatchError,
    RequestError,
    fresh,
)
from trio_dispatch._wire.frames import Method, WireFrame
from trio_dispatch._wire.models import Event, Started, StreamGap

KNOWN_WITHIN: Final = 2.0
"""Seconds after which `start_workflow` returns a handle whose run is not known."""

LOOK_LONGER: Final = 5.0
"""Seconds for which a run is looked for whose connection was lost before it was known."""

LAST_EVENTS: Final = 1.0
"""Seconds for which the last events of a run may come after its answer."""

EVENTS_KEPT: Final = 10_000
"""Events kept for one run, and for one candidate; a `StreamGap` stands for older ones."""

FOREIGN_KEPT: Final = 10_000
"""Runs of others that are remembered, so that none is looked up twice."""

LOOKUPS: Final = 8
"""Candidates that are looked up at once."""

_started: Final = msgspec.json.Decoder(Started)
_random: Final = random.SystemRandom()


def encode_input(name: str, input: object) -> bytes:
    """Encode the input of a workflow, an empty object where there is none.

    Raises for what no server can make sense of.
    """
    check_text(name, "a workflow's name")
    if input is msgspec.UNSET:
        input = {}
    return bytes(encode_payload(input, f"the input of {name!r}"))


def tagged(text: bytes) -> bytes:
    """Put a tag of 64 random bits into an object or an array; other values have no room for it."""
    if text[:1] not in (b"{", b"["):
        return text
    tag = bytes(_random.choice(b" \t\n\r") for _ in range(32))
    return text[:1] + tag + text[1:]


def read_started(answer: WireFrame) -> Started:
    """Read the answer to ``workflow.start``."""
    method = Method.WORKFLOW_START
    return read_answer(method, answer, lambda data: decode_leniently(data, _started))


class RunState(Enum):
    """Where a run of this client's stands; see the table above."""

    STARTING = "starting"
    RUNNING = "running"
    OVER = "over"
    FAILED = "failed"


class RunRecord:
    """What is known of one run that this client has started."""

    def __init__(self, name: str, text: bytes) -> None:
        self.name = name
        self.text = text
        """The input as it was sent."""
        self.standing = RunState.STARTING
        self.run_id: str | None = None
        self.state = "running"
        """The run's state, as it was last heard of."""
        self.error: Exception | None = None
        self.listener: Listener | None = None
        self.changed = trio.lowlevel.ParkingLot()
        self.events: deque[Event] = deque()
        self.forgotten = 0
        """Events that were kept once, and are not any more."""
        self.saw_end = trio.Event()

    @property
    def settled(self) -> bool:
        """Whether nothing more will be learned."""
        return self.standing in (RunState.OVER, RunState.FAILED)

    def learn(self, run_id: str, events: Iterable[Event]) -> None:
        """The run is this one."""
        self.run_id = run_id
        if self.standing is RunState.STARTING:
            self.standing = RunState.RUNNING
        for event in events:
            self.add(event)
        self.changed.unpark_all()

    def add(self, event: Event) -> None:
        """Something happened in the run."""
        self.events.append(event)
        if len(self.events) > EVENTS_KEPT:
            self.events.popleft()
            self.forgotten += 1
        if event.type in END_EVENTS:
            self.saw_end.set()
        self.changed.unpark_all()

    def settle(self, standing: RunState, error: Exception | None = None) -> None:
        """Nothing more will be learned."""
        self.standing = standing
        self.error = error
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
        """Wait until nothing more will be learned."""
        await trio.lowlevel.checkpoint()
        while not self.settled:
            await self.changed.park()
        if self.error is not None:
            raise fresh(self.error)


class Runs:
    """All runs that a client is starting or following."""

    def __init__(
        self,
        calls: Calls,
        subscriptions: Subscriptions,
        connections: RunConnections,
        background: Background,
    ) -> None:
        self._calls = calls
        self._subscriptions = subscriptions
        self._connections = connections
        self._background = background
        self._unknown: dict[RunRecord, None] = {}
        self._known: dict[str, RunRecord] = {}
        self._candidates: dict[str, deque[Event]] = {}
        self._foreign: OrderedDict[str, None] = OrderedDict()
        self._lookups = trio.CapacityLimiter(LOOKUPS)
        self._ear: Listener | None = None
        self._tagging = True

    async def start(self, name: str, text: bytes) -> RunRecord:
        """Start a workflow; returns when the run is known or over, or 2 s after it was sent.

        Cancelled before the start is written, nothing is started.
        """
        record = RunRecord(name, tagged(text) if self._tagging else text)
        frame = start_frame(name, record.text)
        encoded = self._calls.check_frame(frame)
        await trio.lowlevel.checkpoint()
        self._calls.check_open()
        carried = None
        try:
            if record.text != text:
                self._unknown[record] = None
                await self._listen()
            await trio.lowlevel.checkpoint_if_cancelled()
            carried = self._connections.carry(frame, encoded)
            self._background.spawn(self._follow, record, carried)
            await carried.under_way.wait()
            with trio.move_on_after(KNOWN_WITHIN):
                while record.standing is RunState.STARTING:
                    await record.changed.park()
        except BaseException:
            if carried is None:
                self._forget(record)
            else:
                carried.abandon()
            raise
        if record.error is not None:
            # If caller and client are cancelled at once, that is what the caller should see.
            await trio.lowlevel.checkpoint_if_cancelled()
            raise fresh(record.error)
        return record

    # Finding out which run is ours.

    async def _listen(self) -> None:
        """Hear of every run, before ours begins; no longer than a handle may wait."""
        if self._ear is None:
            self._ear = self._subscriptions.listen("workflows", on_event=self._hear)
        with trio.move_on_after(KNOWN_WITHIN):
            await self._ear.settled.wait()

    def _hear(self, event: Event) -> None:
        run_id = event.run_id
        if run_id is None or run_id in self._known or run_id in self._foreign:
            return
        if (events := self._candidates.get(run_id)) is not None:
            events.append(event)
        elif any(record.name == event.data.get("name") for record in self._unknown):
            self._candidates[run_id] = deque([event], maxlen=EVENTS_KEPT)
            self._background.spawn(self._look_up, run_id)

    async def _look_up(self, run_id: str) -> None:
        """Ask for a candidate, and see whose input it has."""
        try:
            async with self._lookups:
                if run_id not in self._candidates:
                    return  # the answer was quicker
                run = await self._calls.get_workflow(run_id)
        except RequestError:
            self._candidates.pop(run_id, None)  # asking again would be answered the same
            self._dismiss(run_id)
            return
        except DispatchError:
            self._candidates.pop(run_id, None)  # its next event makes it a candidate again
            return
        events = self._candidates.pop(run_id, None)
        if events is None:
            return
        for record in self._unknown:
            if record.text == run.input_bytes:
                self._identify(record, run_id, events)
                return
        self._dismiss(run_id)

    def _dismiss(self, run_id: str) -> None:
        """*run_id* is none of ours; do not look it up again."""
        self._foreign[run_id] = None
        if len(self._foreign) > FOREIGN_KEPT:
            self._foreign.popitem(last=False)

    def _identify(self, record: RunRecord, run_id: str, events: Iterable[Event]) -> None:
        """*record* is *run_id*. Its own channel is asked for before ``workflows`` is let go."""
        record.learn(run_id, events)
        self._known[run_id] = record
        record.listener = self._subscriptions.listen(f"workflow:{run_id}", on_event=record.add)
        self._unknown.pop(record, None)
        self._rest()

    def _rest(self) -> None:
        """Nobody is looked for: hear of other runs no more."""
        if not self._unknown and self._ear is not None:
            self._ear.detach()
            self._ear = None
            self._candidates.clear()

    def _forget(self, record: RunRecord) -> None:
        self._unknown.pop(record, None)
        self._rest()
        if record.run_id is not None:
            self._known.pop(record.run_id, None)
        if record.listener is not None:
            record.listener.detach()

    # Following it to its end.

    async def _follow(self, record: RunRecord, carried: CarriedRequest) -> None:
        try:
            await carried.done.wait()
            if carried.answer is not None:
                await self._answered(record, read_started(carried.answer))
            else:
                assert carried.error is not None
                await self._not_answered(record, carried.error)
            record.settle(RunState.OVER)
        except DispatchError as exc:
            record.settle(RunState.FAILED, exc)
        finally:
            if not record.settled:
                record.settle(RunState.FAILED, self._calls.why_ended())
            self._forget(record)

    async def _answered(self, record: RunRecord, started: Started) -> None:
        """The server has named the run, and its last state."""
        record.state = started.state
        if record.run_id not in (None, started.run_id):
            self._forget(record)  # the answer is the authority
        if record.run_id != started.run_id:
            searched = record.text[:1] in (b"{", b"[") and record in self._unknown
            events = self._candidates.pop(started.run_id, None)
            gap = [] if events is not None else [StreamGap()]
            record.events.clear()
            self._unknown.pop(record, None)
            record.learn(started.run_id, [*gap, *(events or ())])
            if searched:
                await self._check_that_inputs_are_kept(record, started.run_id)
        elif record.listener is not None and record.listener.in_force:
            if started.state != "running":
                with trio.move_on_after(LAST_EVENTS):
                    await record.saw_end.wait()
        if started.state == "running":
            # Today's servers answer when the run has ended; one that answers at once is followed.
            await self._follow_to_its_end(record, started.run_id)

    async def _follow_to_its_end(self, record: RunRecord, run_id: str) -> None:
        if record.listener is None:
            self._identify(record, run_id, ())
        run = await finished_run(self._calls, run_id)
        record.state = run.state
        if record.listener is not None and record.listener.in_force:
            with trio.move_on_after(LAST_EVENTS):
                await record.saw_end.wait()

    async def _check_that_inputs_are_kept(self, record: RunRecord, run_id: str) -> None:
        """A server that stores inputs in another form makes tags useless: then stop tagging."""
        try:
            run = await self._calls.get_workflow(run_id)
        except DispatchError:
            return
        if run.input_bytes != record.text:
            self._tagging = False

    async def _not_answered(self, record: RunRecord, error: Exception) -> None:
        """The start was refused, or its connection was lost, which does not end the run."""
        if not (isinstance(error, ConnectionLost) and error.maybe_delivered):
            raise error
        if record.run_id is None and record in self._unknown:
            with trio.move_on_after(LOOK_LONGER):
                await record.wait_known()
        if record.run_id is None:
            raise error
        await self._follow_to_its_end(record, record.run_id)
