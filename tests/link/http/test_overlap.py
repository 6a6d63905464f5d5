"""Overlapping streams: every event once, however they race; and when the next one is due."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._link.http.overlap import CREDITS, RENEW_AT, Overlap, renewal_due


@given(st.data())
def test_each_event_is_delivered_once_in_any_race(data: st.DataObject) -> None:
    happened = data.draw(st.lists(st.sampled_from("abc"), max_size=30))
    opened = data.draw(st.integers(0, len(happened)))
    overlap = Overlap()
    overlap.begin("old")
    delivered = [text for text in happened[:opened] if overlap.is_new("old", text)]
    overlap.begin("new")
    # What follows comes over both, each in order, in any interleaving.
    rest = {"old": happened[opened:], "new": happened[opened:]}
    while rest["old"] or rest["new"]:
        stream = data.draw(st.sampled_from([name for name in rest if rest[name]]))
        text = rest[stream].pop(0)
        if overlap.is_new(stream, text):
            delivered.append(text)
    overlap.end("old")
    assert sorted(delivered) == sorted(happened)
    assert overlap.is_new("new", "a")


def test_three_streams_at_once() -> None:
    overlap = Overlap()
    for stream in (1, 2, 3):
        overlap.begin(stream)
    assert [overlap.is_new(stream, "x") for stream in (2, 1, 3)] == [True, False, False]
    overlap.end(1)
    assert [overlap.is_new(stream, "y") for stream in (3, 2)] == [True, False]
    overlap.end(2)
    overlap.end(2)
    assert overlap.is_new(3, "y")


def test_slow_streams_are_renewed_late_and_quick_ones_early() -> None:
    assert not renewal_due(RENEW_AT - 1, age=60)
    assert renewal_due(RENEW_AT, age=60)
    assert renewal_due(300, age=0.01)
    assert renewal_due(300, age=0)
    assert not renewal_due(100, age=0.001)
    assert not renewal_due(500, age=1)
    assert RENEW_AT < CREDITS
