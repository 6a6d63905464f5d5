"""The opcode turner: as many bytes, TEXT turned, all else as it was, however it is split."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Opcode

from tests.websocket.scripted import binary, frame, text
from trio_dispatch._websocket._opcodes import OpcodeTurner

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

BOTH = (
    (text(b""), binary(b"")),
    (text(b"x" * 125), binary(b"x" * 125)),
    (text(b"\x81" * 126), binary(b"\x81" * 126)),
    (text(b"\r\n\r\n" * 20_000), binary(b"\r\n\r\n" * 20_000)),
    (frame(Opcode.TEXT, b"a", fin=False), frame(Opcode.BINARY, b"a", fin=False)),
    (frame(Opcode.CONT, b"\x81b"), frame(Opcode.CONT, b"\x81b")),
    (frame(Opcode.PING, b"\x81"), frame(Opcode.PING, b"\x81")),
    (frame(Opcode.CLOSE, b"\x03\xe8"), frame(Opcode.CLOSE, b"\x03\xe8")),
    (binary(b"\x81"), binary(b"\x81")),
    # A masked frame, as no server sends it: the four bytes of the mask are counted.
    (b"\x81\x81\x81\x81\x81\x81z", b"\x82\x81\x81\x81\x81\x81z"),
)
"""What comes in, and what goes out."""


def turned(data: bytes, cuts: list[int]) -> bytes:
    turner = OpcodeTurner()
    edges = [0, *sorted(cuts), len(data)]
    chunks = [data[a:b] for a, b in pairwise(edges)]
    out = [bytes(turner.turn(chunk)) for chunk in chunks]
    assert list(map(len, out)) == list(map(len, chunks))  # nothing is held back
    return b"".join(out)


@given(st.data())
def test_text_becomes_binary_however_it_is_split(data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.sampled_from(BOTH), max_size=6))
    before = UPGRADED + b"".join(part[0] for part in parts)
    after = UPGRADED + b"".join(part[1] for part in parts)
    places = st.integers(0, min(len(before), 2_000)) | st.integers(0, len(before))
    assert turned(before, data.draw(st.lists(places, max_size=50))) == after


@pytest.mark.parametrize("end", [b"\r\n\r\n", b"\n\n", b"\n\r\n", b"\r\n\n"])
def test_headers_end_at_a_blank_line(end: bytes) -> None:
    head = b"HTTP/1.1 101 OK\r\nA: \x81\x01" + end
    for cut in range(len(head)):
        assert turned(head + text(b"\xff"), [cut]) == head + binary(b"\xff")


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 403 No\r\n\r\n", b""])
def test_what_is_no_websocket_is_left_alone(head: bytes) -> None:
    data = head + b"\x81\x01" * 20
    assert turned(data, [3, 12, 13, 30]) == data
