"""One channel on one server: whatever is wanted in whatever order, it comes to that."""

from __future__ import annotations

from collections import deque
from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._client.reconciler import NEXT_STEP, InFlight, Reconciler, Step
from trio_dispatch._link.requests import Request
from trio_dispatch._wire.errors import DispatchError, PermissionDenied
from trio_dispatch._wire.frames import Method, WireFrame

NOW = datetime(2026, 11, 21, tzinfo=timezone.utc)


class Wire:
    """A link, and the server at its end: requests are written and answered one after another."""

    def __init__(self, *, connected: bool = True) -> None:
        self.connected = connected
        self.closed = False
        self.queued: deque[Request] = deque()
        self.written: deque[Request] = deque()
        self.delivers = False
        self.refuses = False
        self.sent: list[str] = []
        self.most_in_flight = 0

    def check_open(self) -> None: ...

    def why_ended(self, error: DispatchError | None, request: Request | None = None) -> Exception:
        raise NotImplementedError

    def submit(self, request: Request) -> None:
        assert self.connected
        self.queued.append(request)
        self.most_in_flight = max(self.most_in_flight, len(self.queued) + len(self.written))

    def withdraw(self, request: Request) -> None:
        if request in self.queued:
            self.queued.remove(request)

    def write(self) -> None:
        if self.queued:
            request = self.queued.popleft()
            request.written = True
            self.sent.append(request.frame.method)
            self.written.append(request)

    def answer(self) -> None:
        if not self.written:
            return
        request = self.written.popleft()
        if request.frame.method == Method.SUBSCRIBE and self.refuses:
            request.finish(error=PermissionDenied(403, "no", None, Method.SUBSCRIBE))
            return
        self.delivers = request.frame.method == Method.SUBSCRIBE
        request.finish(WireFrame(ts=NOW))

    def lose(self) -> None:
        self.connected = self.delivers = False
        self.queued.clear()
        self.written.clear()


class Owner:
    """Remembers what was reported last."""

    def __init__(self, wire: Wire) -> None:
        self.link = wire
        self.last = ""

    def on_acknowledged(self, name: str, ts: datetime | None) -> None:
        self.last = f"acknowledged {ts == NOW}"

    def on_refused(self, name: str, error: Exception) -> None:
        self.last = f"refused {type(error).__name__}"

    def on_forgotten(self, channel: Reconciler) -> None:
        self.last = "forgotten"


def test_the_table_has_a_row_for_every_state() -> None:
    states = {(w, a, f) for w in (True, False) for a in (True, False) for f in InFlight}
    assert set(NEXT_STEP) == states


def test_the_table_never_sends_while_a_request_is_in_flight() -> None:
    for (_, _, flight), step in NEXT_STEP.items():
        if step in (Step.SUBSCRIBE, Step.UNSUBSCRIBE, Step.FORGET):
            assert flight is InFlight.NOTHING
        if step is Step.WITHDRAW:
            assert flight is InFlight.QUEUED


def test_left_and_wanted_again_within_a_round_trip_it_is_acknowledged() -> None:
    wire = Wire()
    owner = Owner(wire)
    channel = Reconciler("jobs", owner)
    channel.set_wanted(True)
    wire.write()
    channel.set_wanted(False)
    channel.set_wanted(True)
    wire.answer()
    assert owner.last == "acknowledged True"
    assert channel.delivers
    assert wire.sent == ["subscribe"]


def test_what_is_not_written_yet_is_never_sent() -> None:
    wire = Wire()
    owner = Owner(wire)
    channel = Reconciler("jobs", owner)
    channel.set_wanted(True)
    (request,) = wire.queued
    channel.set_wanted(False)
    assert owner.last == "forgotten"
    assert request.finished
    channel.set_wanted(True)
    wire.write()
    wire.answer()
    channel.set_wanted(False)
    channel.set_wanted(True)
    assert channel.delivers
    assert wire.sent == ["subscribe"]
    assert len(wire.queued) == 0


def test_while_it_is_being_given_up_it_does_not_count_as_delivered() -> None:
    wire = Wire()
    channel = Reconciler("jobs", Owner(wire))
    channel.set_wanted(True)
    wire.write()
    wire.answer()
    channel.set_wanted(False)
    wire.write()
    channel.set_wanted(True)
    delivered = [channel.delivers]
    wire.answer()
    wire.write()
    wire.answer()
    assert [*delivered, channel.delivers] == [False, True]
    assert wire.sent == ["subscribe", "unsubscribe", "subscribe"]


def test_a_refused_channel_is_forgotten_and_not_asked_for_again() -> None:
    wire = Wire()
    owner = Owner(wire)
    reported: list[str] = []
    channel = Reconciler("jobs", owner)
    owner.on_refused = lambda name, error: reported.append(name)  # type: ignore[method-assign]
    wire.refuses = True
    channel.set_wanted(True)
    wire.write()
    wire.answer()
    assert reported == ["jobs"]
    assert owner.last == "forgotten"
    assert not wire.queued


def test_a_closing_link_is_sent_nothing() -> None:
    wire = Wire()
    wire.closed = True
    channel = Reconciler("jobs", Owner(wire))
    channel.set_wanted(True)
    assert not wire.queued


STEPS = st.lists(
    st.sampled_from(["want", "leave", "write", "answer", "lose", "connect", "refuse"]), max_size=80
)


@pytest.mark.parametrize("wanted", [True, False])
@given(STEPS)
def test_in_the_end_the_server_does_what_is_wanted(wanted: bool, steps: list[str]) -> None:
    wire = Wire()
    owner = Owner(wire)
    channel = Reconciler("jobs", owner)
    for step in steps:
        wire.refuses = step == "refuse"
        if step in ("want", "leave"):
            channel.set_wanted(step == "want")
        elif step == "lose" and wire.connected:
            wire.lose()
            channel.lose()
        elif step == "connect" and not wire.connected:
            wire.connected = True
            channel.reconcile()
        elif step == "write":
            wire.write()
        elif step in ("answer", "refuse"):
            wire.answer()
    wire.refuses = False
    if not wire.connected:
        wire.connected = True
        channel.reconcile()
    channel.set_wanted(wanted)
    for _ in range(4):
        wire.write()
        wire.answer()
    assert wire.delivers is channel.delivers is wanted
    assert channel.in_flight is InFlight.NOTHING
    assert wire.most_in_flight <= 1
    if not wanted:
        assert owner.last == "forgotten"
