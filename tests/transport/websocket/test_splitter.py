"""The splitter: whole messages, however the bytes are cut; the library gets the rest."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from trio_dispatch._transport.websocket.refusal import ResponseHead
from trio_dispatch._transport.websocket.splitter import FrameSplitter

MAX: Final = 70_000


def wire(opcode: Opcode, data: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, data, fin).serialize(mask=False)


def everything(splitter: FrameSplitter, data: bytes) -> list[bytes | tuple[bytes]]:
    """All that comes of *data*, in order; what is for the library in a tuple."""
    found: list[bytes | tuple[bytes]] = []
    while True:
        messages, others = splitter.split(data)
        found += messages
        if not others:
            return found
        found.append((others,))
        data = b""


def in_pieces(splitter: FrameSplitter, data: bytes, cuts: list[int]) -> list[bytes]:
    """The same with the bytes cut, and the library's in one."""
    library = b""
    found: list[bytes] = []
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        for item in everything(splitter, data[start:stop]):
            if isinstance(item, tuple):
                library += item[0]
            else:
                found.append(item)
    return [*found, library]


FRAMES = st.lists(
    st.tuples(
        st.sampled_from([Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]),
        st.binary(max_size=125) | st.integers(126, 66_000).map(lambda size: b"x" * size),
    ).filter(lambda frame: frame[0] not in {Opcode.PING, Opcode.PONG} or len(frame[1]) < 126),
    max_size=8,
)


@given(FRAMES, st.lists(st.integers(0, 2**20), max_size=12))
def test_wherever_the_bytes_are_cut_the_same_comes_of_them(
    frames: list[tuple[Opcode, bytes]], cuts: list[int]
) -> None:
    data = b"".join(wire(opcode, body) for opcode, body in frames)
    messages = [body for opcode, body in frames if opcode in {Opcode.TEXT, Opcode.BINARY}]
    library = b"".join(
        wire(opcode, body) for opcode, body in frames if opcode in {Opcode.PING, Opcode.PONG}
    )
    splitter = FrameSplitter(MAX, text_is_utf8=False)
    assert in_pieces(splitter, data, cuts) == [*messages, library]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_garbage_is_neither_lost_nor_doubled(data: bytes, cuts: list[int]) -> None:
    whole = in_pieces(FrameSplitter(40), data, [])
    assert in_pieces(FrameSplitter(40), data, cuts) == whole
    assert sum(map(len, whole)) <= len(data)


def test_messages_do_not_overtake_what_the_library_gets() -> None:
    a, b, ping = wire(Opcode.TEXT, b"a"), wire(Opcode.TEXT, b"b"), wire(Opcode.PING, b"")
    assert everything(FrameSplitter(MAX), a + ping + b) == [b"a", (ping,), b"b"]


@pytest.mark.parametrize(
    "frame",
    [
        wire(Opcode.TEXT, b"a", fin=False),
        wire(Opcode.CONT, b"a"),
        wire(Opcode.CLOSE, b""),
        b"\x81\x81\x01\x02\x03\x04a",  # masked
        b"\xc1\x01a",  # a reserved bit
        b"\x83\x01a",  # a reserved opcode
        b"\x89\x7e\x00\x7e" + b"x" * 126,  # a ping that is too long
        wire(Opcode.TEXT, b"\xff"),
    ],
)
def test_from_the_first_unusual_frame_on_the_library_gets_everything(frame: bytes) -> None:
    before, behind = wire(Opcode.TEXT, b"before"), wire(Opcode.TEXT, b"behind")
    splitter = FrameSplitter(MAX)
    assert everything(splitter, before + frame + behind) == [b"before", (frame + behind,)]
    assert everything(splitter, behind) == [(behind,)]


def test_a_frame_that_is_too_large_goes_to_the_library_at_once() -> None:
    splitter = FrameSplitter(200)
    head = wire(Opcode.TEXT, b"x" * 201)[:10]
    assert everything(splitter, wire(Opcode.TEXT, b"x" * 200)) == [b"x" * 200]
    assert everything(splitter, head) == [(head,)]
    assert everything(splitter, b"anything") == [(b"anything",)]


def test_text_that_is_none_is_the_librarys_to_refuse_or_turned_into_binary() -> None:
    text = wire(Opcode.TEXT, "grün".encode())
    assert everything(FrameSplitter(MAX), text) == ["grün".encode()]
    broken = wire(Opcode.TEXT, b"\x81")
    assert everything(FrameSplitter(MAX), broken) == [(broken,)]
    lenient = FrameSplitter(MAX, text_is_utf8=False)
    assert everything(lenient, broken) == [b"\x81"]
    part, rest = wire(Opcode.TEXT, b"\x81", fin=False), wire(Opcode.CONT, b"\x82")
    turned = wire(Opcode.BINARY, b"\x81", fin=False)
    assert everything(lenient, part + rest) == [(turned + rest,)]


def test_what_is_put_back_comes_with_the_next() -> None:
    splitter, data = FrameSplitter(MAX), wire(Opcode.TEXT, b"early")
    splitter.put_back(data[:3])
    assert everything(splitter, data[3:]) == [b"early"]


def test_a_large_frame_in_small_reads_is_put_together_once() -> None:
    splitter, data = FrameSplitter(2**24), wire(Opcode.BINARY, b"x" * 2**21)
    edges = range(0, len(data), 64)
    work = 0
    got: list[bytes] = []
    taken = splitter._take_all

    def take_all() -> bytes:
        nonlocal work
        buffer = taken()
        work += len(buffer)
        return buffer

    splitter._take_all = take_all  # type: ignore[method-assign]
    for at in edges:
        messages, others = splitter.split(data[at : at + 64])
        assert not others
        got += messages
    assert got == [b"x" * 2**21]
    assert work <= 2 * len(data)


RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


@given(st.lists(st.integers(0, 200), max_size=6), st.sampled_from([b"\r\n", b"\n"]))
def test_the_head_of_the_response_ends_at_its_blank_line(cuts: list[int], end: bytes) -> None:
    response = RESPONSE.replace(b"\r\n", end)
    data = response + b"\x81\x01a"
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    head, taken = ResponseHead(), 0
    for start, stop in pairwise(edges):
        found = head.find_end(data[start:stop])
        if found >= 0:
            assert taken + found == len(response)
            assert head.accepts
            return
        taken += stop - start
    pytest.fail("no end")


def test_any_other_response_is_no_beginning_of_frames() -> None:
    head = ResponseHead()
    assert head.find_end(b"HTTP/1.1 403 Forbidden\r\n") == -1
    assert head.find_end(b"\r\n") == 2
    assert not head.accepts
    assert ResponseHead().find_end(b"") == -1
