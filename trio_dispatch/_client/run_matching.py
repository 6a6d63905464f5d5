"""How a start finds its run while the run is under way.

The server sends the id of a run only in the answer to its start, when the run has ended. Until then
the client finds the run by its events. The input contains a tag: 64 random bits, as white space
after its first bracket, which JSON ignores and every store keeps byte for byte (protocol, "Jobs").
The start's own connection is subscribed to ``workflows``, so it receives the event that the run has
started, from any server of a cluster (protocol, "Several servers on one store"). Each run of the
same name that starts there is a candidate. The client gets each candidate once, on the main
connection, and the candidate with exactly the same input is the right one (measured: 64 equal
starts over 32 connections are all identified in 11 ms).

The tag only makes this quick: the server's answer always wins.
"""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Final

import msgspec
import trio

from trio_dispatch._client.background import Background
from trio_dispatch._client.calls import Calls
from trio_dispatch._client.polling import PollSchedule
from trio_dispatch._client.run_record import RunRecord
from trio_dispatch._wire.channels import read_occurrence
from trio_dispatch._wire.errors import (
    ConnectionLost,
    DispatchError,
    RequestTimeout,
    ServerError,
)
from trio_dispatch._wire.frames import WireFrame
from trio_dispatch._wire.models import Event, StreamGap

LOOKED_UP_KEPT: Final = 10_000
"""How many runs of other starts are remembered, so that none is looked up twice."""

LOOKUPS: Final = 8
"""How many candidates are looked up at once."""

_WORKFLOW_TOPIC: Final = "workflow:"

_random: Final = random.SystemRandom()


def tagged(text: bytes) -> bytes:
    """Add a tag of 64 random bits to an object or an array; other values cannot hold one."""
    if text[:1] not in (b"{", b"["):
        return text
    tag = bytes(_random.choice(b" \t\n\r") for _ in range(32))
    return text[:1] + tag + text[1:]


class RunMatching:
    """Finds the runs of all starts whose run is not known yet.

    Args:
        calls: used to look candidates up.
        background: runs the tasks that look them up.
    """

    def __init__(self, calls: Calls, background: Background) -> None:
        self._calls = calls
        self._background = background
        self._unknown: dict[RunRecord, None] = {}
        self._under_way: set[str] = set()
        """Candidates that are being looked up."""
        self._foreign: OrderedDict[str, bool] = OrderedDict()
        """Runs of other starts, and whether their input was seen."""
        self._limit = trio.CapacityLimiter(LOOKUPS)
        self.tagging = True
        """Whether tags work with this server."""
        self.undecodable = 0
        """How many events on the connections of runs could not be read."""

    def __len__(self) -> int:
        """How many starts wait for their run to be found."""
        return len(self._unknown)

    def expect(self, record: RunRecord) -> None:
        """Begin to look for *record*, whose start is about to be sent."""
        record.candidates.clear()
        self._unknown[record] = None

    def forget(self, record: RunRecord) -> None:
        """Stop looking for the run of *record*."""
        self._unknown.pop(record, None)

    def answered(self, record: RunRecord, run_id: str) -> None:
        """The server has answered that *record* is *run_id*; this wins over earlier findings."""
        if record.run_id == run_id:
            return
        if record.tagged and self._foreign.get(run_id):
            # Its input was seen and differs from what was sent: this server stores inputs in
            # another form, so tags do not work.
            self.tagging = False
        self._identify(record, run_id)

    def _identify(self, record: RunRecord, run_id: str) -> None:
        record.learn(run_id)
        self._unknown.pop(record, None)
        for other in self._unknown:
            other.candidates.discard(run_id)

    # Events that arrive.

    def hear_frame(self, record: RunRecord, frame: WireFrame) -> None:
        """An event arrived on the connection that started *record*."""
        run_id = _run_of(frame.channel)
        if run_id and not self._matters(record, run_id):
            return  # usual if many runs are under way
        try:
            occurrence = read_occurrence(frame)
            run_id = _run_of(occurrence.topic)
            if not self._matters(record, run_id):
                return
            event = Event(
                type=occurrence.type,
                ts=occurrence.ts,
                topic=occurrence.topic,
                data=occurrence.fields(),
                channels=(occurrence.topic,),
            )
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            self.undecodable += 1
            if not run_id:
                return
            event = StreamGap(since=frame.ts, until=frame.ts)
        self._hear(record, run_id, event, len(frame.data))

    def hear(self, record: RunRecord, event: Event) -> None:
        """An event arrived on the main connection, where *record* is looked for, too."""
        run_id = _run_of(event.topic)
        if self._matters(record, run_id):
            self._hear(record, run_id, event, 0)

    def _matters(self, record: RunRecord, run_id: str) -> bool:
        """Return whether *run_id* is *record*'s run, or may be."""
        if record.run_id is not None:
            return run_id == record.run_id
        return bool(run_id) and not (record.tagged and run_id in self._foreign)

    def _hear(self, record: RunRecord, run_id: str, event: Event, size: int) -> None:
        if record.run_id is not None:
            record.add(event, size)
            return
        if run_id not in record.candidates and event.data.get("name") != record.name:
            return
        record.candidates.add(run_id, event, size)
        if record.tagged:
            self._begin_to_look_up(run_id)

    # Looking candidates up.

    def _begin_to_look_up(self, run_id: str) -> None:
        if run_id not in self._under_way:
            try:
                self._background.spawn(self._look_up, run_id)
            except DispatchError:
                return  # the client is just ending
            self._under_way.add(run_id)

    async def _look_up(self, run_id: str) -> None:
        """Ask for a candidate until the server returns its input."""
        schedule = PollSchedule()
        try:
            async with self._limit:
                while any(run_id in record.candidates for record in self._unknown):
                    if await self._is_looked_up(run_id):
                        break
                    await trio.sleep_until(schedule.next_time())
        finally:
            self._under_way.discard(run_id)

    async def _is_looked_up(self, run_id: str) -> bool:
        """Ask for a candidate. Returns False if it is worth asking again."""
        try:
            run = await self._calls.get_workflow(run_id)
        except (ConnectionLost, RequestTimeout, ServerError):
            return self._calls.closed
        except (DispatchError, ValueError):
            self._rule_out(run_id, None)  # another request would get the same answer
        else:
            self._found(run_id, run.input_bytes or b"")
        return True

    def _found(self, run_id: str, text: bytes) -> None:
        for record in self._unknown:
            if record.tagged and record.text == text:
                self._identify(record, run_id)
                return
        self._rule_out(run_id, text)

    def _rule_out(self, run_id: str, text: bytes | None) -> None:
        """Note that *run_id* has no known tag; *text* is its input, if that is known."""
        self._foreign[run_id] = text is not None
        if len(self._foreign) > LOOKED_UP_KEPT:
            self._foreign.popitem(last=False)
        for record in self._unknown:
            if record.tagged or (text is not None and record.text != text):
                record.candidates.discard(run_id)


def _run_of(topic: str) -> str:
    return topic.removeprefix(_WORKFLOW_TOPIC) if topic.startswith(_WORKFLOW_TOPIC) else ""
