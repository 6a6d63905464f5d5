"""Event streams that overlap: nothing twice, nothing lost unnoticed, and dead ones found out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._link.http.overlap import (
    CREDITS,
    GRACE,
    MAX_HELD,
    OVERLAP_TIME,
    PROOF_TIME,
    RENEW_AT,
    Overlap,
    Verdict,
    key_of,
    renewal_due,
    take,
)


def opened(now: float = 0.0) -> Overlap:
    overlap = Overlap()
    overlap.opened(now)
    return overlap


def test_an_event_that_both_bring_is_delivered_once_and_proves_both_alive() -> None:
    for first, second in (("old", "new"), ("new", "old")):
        overlap = opened()
        bring = {"old": overlap.old_brought, "new": overlap.new_brought}
        assert overlap.judge(0.1) is Verdict.WAIT
        delivered = bring[first]("a", 0.1) + bring[second]("a", 0.2)
        assert delivered == ["a"]
        assert overlap.judge(0.2) is Verdict.WAIT
        assert overlap.next_look() == OVERLAP_TIME
        assert overlap.judge(OVERLAP_TIME) is Verdict.CHANGE


def test_an_event_that_happens_twice_is_delivered_twice() -> None:
    overlap = opened()
    delivered = [overlap.old_brought("a", 0), overlap.old_brought("a", 0)]
    delivered += [overlap.new_brought("a", 0), overlap.new_brought("a", 0)]
    assert delivered == [["a"], ["a"], [], []]
    assert overlap.new_brought("a", 0) == ["a"]
    assert overlap.old_brought("a", 0) == []


def test_what_only_the_successor_brings_waits_for_a_proof() -> None:
    overlap = opened()
    assert overlap.new_brought("a", 2) == []
    assert overlap.new_brought("b", 3) == []
    assert overlap.next_look() == 2 + GRACE
    assert overlap.judge(2 + GRACE - 0.1) is Verdict.WAIT
    assert overlap.old_brought("b", 4) == ["a", "b"]
    assert overlap.old_brought("a", 4) == []
    assert overlap.new_brought("c", 4) == ["c"]


def test_an_old_stream_that_does_not_bring_what_the_new_one_brings_is_dead() -> None:
    overlap = opened()
    overlap.new_brought("a", 2)
    assert overlap.judge(2 + GRACE) is Verdict.OLD_IS_DEAD


def test_it_is_dead_at_once_when_waiting_would_lose_or_hoard() -> None:
    overlap = opened()
    overlap.new_brought("a", 2)
    assert overlap.judge(2, due=True) is Verdict.OLD_IS_DEAD
    overlap = opened()
    overlap.new_brought("x" * (MAX_HELD + 1), 2)
    assert overlap.judge(2) is Verdict.OLD_IS_DEAD


def test_a_new_stream_that_does_not_bring_what_the_old_one_brings_is_dead() -> None:
    overlap = opened()
    assert overlap.old_brought("early", 0.5) == ["early"]  # perhaps before it was in force
    assert overlap.next_look() == PROOF_TIME
    assert overlap.old_brought("a", 2) == ["a"]
    assert overlap.old_brought("b", 3) == ["b"]
    assert overlap.next_look() == 2 + GRACE
    assert overlap.judge(2 + GRACE) is Verdict.NEW_IS_DEAD


def test_without_events_nothing_is_proved_and_the_new_one_takes_over() -> None:
    overlap = opened()
    assert overlap.judge(PROOF_TIME - 1) is Verdict.WAIT
    assert overlap.judge(PROOF_TIME) is Verdict.CHANGE


def test_an_end_is_judged_by_how_it_ended() -> None:
    overlap = opened()
    overlap.new_brought("a", 2)
    assert overlap.old_ended(broken=False) is Verdict.CHANGE
    assert overlap.old_ended(broken=True) is Verdict.OLD_IS_DEAD
    assert overlap.new_ended() is Verdict.OLD_IS_DEAD  # "a" is lost with it
    assert overlap.release() == ["a"]
    assert overlap.new_ended() is Verdict.NEW_IS_DEAD
    overlap.old_brought("a", 2)
    assert overlap.old_ended(broken=True) is Verdict.CHANGE


def test_a_stream_is_renewed_early_enough() -> None:
    assert not renewal_due(0, 0)
    assert not renewal_due(RENEW_AT - 1, 20)
    assert renewal_due(RENEW_AT, 20)
    assert not renewal_due(100, 0.01)
    assert renewal_due(400, 0.1)  # 4,000 a second: the rest is gone in 150 ms


EVENTS = st.lists(st.integers(0, 999).map(str), unique=True, max_size=25)


@given(EVENTS, st.integers(0, 25), st.randoms(use_true_random=False), st.integers(0, 60))
def test_two_living_streams_deliver_each_event_once(
    events: list[str], in_force: int, random: object, changed_after: int
) -> None:
    """However they interleave, and whenever the change comes."""
    overlap = opened()
    queues = {"old": list(events), "new": events[in_force:]}
    delivered: list[str] = []
    repeats: Counter[bytes] | None = None
    for step in range(100):
        left = [name for name, queue in queues.items() if queue]
        if not left:
            break
        name = random.choice(left)  # type: ignore[attr-defined]
        text = queues[name].pop(0)
        if repeats is not None:
            if not take(repeats, key_of(text)):
                delivered.append(text)
        elif name == "old":
            delivered += overlap.old_brought(text, 0)
        else:
            delivered += overlap.new_brought(text, 0)
        proved = repeats is None and overlap.judge(OVERLAP_TIME) is Verdict.CHANGE
        if proved and step >= changed_after:
            # The old one is closed: what it still had is the new one's to bring.
            delivered += overlap.release()
            repeats = overlap.repeats(by_new=True)
            queues["old"].clear()
    if repeats is None:
        delivered += overlap.release()
    assert Counter(delivered) == Counter(events)


@given(st.lists(st.integers(0, 10**6), unique=True, max_size=30), st.integers(0, 30), st.data())
def test_a_dead_old_stream_is_never_trusted_once_events_tell(
    numbers: list[int], died_at: int, data: st.DataObject
) -> None:
    events = [str(n) for n in numbers]
    in_force = data.draw(st.integers(min(died_at, len(events)), len(events)))
    overlap, delivered = opened(), events[:died_at]
    for text in events[in_force:]:
        delivered += overlap.new_brought(text, 1)
    if len(events) > in_force:
        assert delivered == events[:died_at]
        assert overlap.judge(1 + GRACE) is Verdict.OLD_IS_DEAD
        assert overlap.judge(PROOF_TIME, due=True) is Verdict.OLD_IS_DEAD


@pytest.mark.parametrize("events", [CREDITS, 2 * CREDITS])
def test_a_comparison_is_bounded(events: int) -> None:
    overlap = opened()
    for n in range(events):
        overlap.old_brought(f"{n:0100}", 0)
        overlap.new_brought(f"{n:0100}", 0)
    assert not overlap.repeats(by_new=True)
    assert not overlap.repeats(by_new=False)
