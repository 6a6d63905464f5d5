"""Frames: plain, immutable data that keeps its secrets."""

from __future__ import annotations

import copy
import pickle
from datetime import datetime, timezone

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import frames
from trio_dispatch._wire.frames import (
    SAFE_METHODS,
    ErrorBody,
    ErrorCode,
    Frame,
    FrameType,
    Method,
    WireFrame,
)

SECRET = "tok_9f3b1c"


def test_every_field_of_a_frame_is_empty_unless_given() -> None:
    frame = Frame()
    assert all(not getattr(frame, name) for name in frame.__struct_fields__)
    assert repr(frame) == "Frame()"


def test_a_frame_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Frame().id = "other"  # type: ignore[misc]


@given(st.sampled_from(["", SECRET]), st.sampled_from(["auth", "job.enqueue"]))
def test_a_token_never_shows_in_a_repr(token: str, method: str) -> None:
    in_frame = Frame(method=method, token=SECRET, data={"a": 1})
    in_data = Frame(method=Method.AUTH, data={"token": SECRET, "format": "json"})
    as_text = WireFrame(
        method=Method.AUTH, token=token, data=msgspec.Raw(b'{"token":"%s"}' % SECRET.encode())
    )
    for frame in (in_frame, in_data, as_text):
        assert SECRET not in repr(frame)
        assert SECRET not in str(frame)
        assert SECRET not in f"{[frame]}"
        assert "<hidden>" in repr(frame)


def test_a_repr_shows_what_is_there_and_nothing_else() -> None:
    frame = Frame(
        id="1",
        type=FrameType.ERROR,
        error=ErrorBody(404, "gone"),
        credits=3,
        ts=datetime(2026, 1, 2, tzinfo=timezone.utc),
    )
    assert repr(frame) == (
        "Frame(id='1', type='error', error=ErrorBody(code=404, message='gone', details=None), "
        "credits=3, ts=datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc))"
    )


@pytest.mark.parametrize("data", [0, False, "", [], {}])
def test_data_that_is_false_still_shows(data: object) -> None:
    assert repr(Frame(data=data)) == f"Frame(data={data!r})"


def test_data_that_nobody_has_read_shows_as_its_text() -> None:
    assert repr(WireFrame(data=msgspec.Raw(b'{"a": 1}'))) == """WireFrame(data=b'{"a": 1}')"""
    assert repr(WireFrame()) == "WireFrame()"


@given(frames)
def test_frames_copy_and_pickle(frame: Frame) -> None:
    assert pickle.loads(pickle.dumps(frame)) == frame
    assert copy.deepcopy(frame) == frame


def test_methods_that_may_be_sent_twice_are_those_that_only_read() -> None:
    assert {"job.get", "workflow.get", "workflow.timeline", "stats"} == SAFE_METHODS


def test_error_codes_are_http_statuses_by_meaning() -> None:
    assert [code.value for code in ErrorCode] == [400, 401, 403, 404, 405, 409, 500]
