"""Frames are measured by their headers, whoever reads them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from trio_dispatch._transport.websocket.header import measure


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("mask", [True, False])
def test_a_frame_is_measured_as_soon_as_its_header_is_there(size: int, mask: bool) -> None:
    frame = Frame(Opcode.BINARY, b"x" * size).serialize(mask=mask)
    begin = len(frame) - size
    assert measure(frame) == (begin, size)
    length = begin - 4 * mask
    assert measure(frame[:length]) == (begin, size)
    assert all(measure(frame[:cut]) is None for cut in range(length))


@given(before=st.binary(max_size=20), size=st.integers(0, 300))
def test_a_frame_is_measured_where_it_stands(before: bytes, size: int) -> None:
    frame = Frame(Opcode.TEXT, b"x" * size).serialize(mask=False)
    assert measure(before + frame, len(before)) == (len(before) + len(frame) - size, size)
