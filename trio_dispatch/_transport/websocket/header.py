"""The header of a WebSocket frame (RFC 6455, section 5.2). Clients and servers use this parser.

It measures frames, so that a stream can be split into them. It does not check whether a frame is
allowed: a client leaves that to its WebSocket library, and a server has its own rules.
"""

from __future__ import annotations

import enum
from typing import Final

FIN: Final = 0x80
RESERVED: Final = 0x70
MASKED: Final = 0x80
OPCODE: Final = 0x0F
LONGEST_CONTROL: Final = 125
"""The most bytes in a control frame."""

_LENGTH: Final = 0x7F
_TWO_BYTES: Final = 126
_MASK_LENGTH: Final = 4


class Opcode(enum.IntEnum):
    """The kind of a frame."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


def measure(data: bytes | bytearray, at: int = 0) -> tuple[int, int] | None:
    """Measure the frame that begins at *at*.

    Returns where its payload begins (after the mask, if there is one) and how many bytes it has;
    None while too little of the frame has arrived.
    """
    end = len(data)
    if end - at < 2:
        return None
    second = data[at + 1]
    size, begin = second & _LENGTH, at + 2
    if size >= _TWO_BYTES:
        begin += 2 if size == _TWO_BYTES else 8
        if begin > end:
            return None
        size = int.from_bytes(data[at + 2 : begin], "big")
    if second & MASKED:
        begin += _MASK_LENGTH
    return begin, size
