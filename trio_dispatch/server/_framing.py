"""Bytes to single WebSocket frames.

The WebSocket protocol core answers a ping the moment it reads it. A Dispatch server handles frames
strictly one after another, pings included (protocol, "Session"), so the core is fed one frame at a
time, when its turn has come; here the stream is cut into frames.
"""

from __future__ import annotations

import enum
from typing import Final

_FIN: Final = 0x80
_RESERVED: Final = 0x70
_MASKED: Final = 0x80
_MASK_LENGTH: Final = 4
_MAX_CONTROL_LENGTH: Final = 125


class Opcode(enum.IntEnum):
    """What a WebSocket frame is (RFC 6455, section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class BrokenFrame(Exception):
    """What no WebSocket client sends: the server drops TCP without a close frame."""


class FrameBuffer:
    """Cuts a stream of bytes into frames.

    Args:
        max_size: of a frame longer than this only the header is given out: enough for the protocol
            core to refuse the frame, without reading it.
    """

    def __init__(self, max_size: int) -> None:
        self._max_size = max_size
        self._data = bytearray()

    def __len__(self) -> int:
        return len(self._data)

    def feed(self, data: bytes | bytearray) -> None:
        """Add *data* to the end."""
        self._data += data

    def clear(self) -> None:
        """Forget what is left."""
        self._data.clear()

    def next_frame(self) -> bytes | None:
        """Take the next frame off the front; None when it is not complete yet.

        Raises:
            BrokenFrame: it is unmasked, or has reserved bits, an unknown opcode or, as a control
                frame, a length or a missing end that those cannot have.
        """
        data = self._data
        if len(data) < 2:
            return None
        first, second = data[0], data[1]
        if first & _RESERVED:
            raise BrokenFrame("reserved bits are set")
        try:
            opcode = Opcode(first & 0x0F)
        except ValueError:
            raise BrokenFrame("unknown opcode") from None
        if not second & _MASKED:
            raise BrokenFrame("the frame is not masked")
        length = second & 0x7F
        if opcode >= Opcode.CLOSE and (length > _MAX_CONTROL_LENGTH or not first & _FIN):
            raise BrokenFrame("a control frame is too long or fragmented")
        header = 2
        if length >= 126:
            width = 2 if length == 126 else 8
            header += width
            if len(data) < header:
                return None
            length = int.from_bytes(data[2:header], "big")
        size = header if length > self._max_size else header + _MASK_LENGTH + length
        if len(data) < size:
            return None
        frame = bytes(data[:size])
        del data[:size]
        return frame


def opcode_of(frame: bytes) -> int:
    """The opcode of a frame that `FrameBuffer` has given out."""
    return frame[0] & 0x0F
