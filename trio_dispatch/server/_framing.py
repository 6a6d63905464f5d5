"""Bytes to single WebSocket frames.

The WebSocket protocol core answers a ping the moment it reads it. A Dispatch server handles frames
strictly one after another, pings included (protocol, "Session"), so the core is fed one frame at a
time, when its turn has come; here the stream is cut into frames.
"""

from __future__ import annotations

from typing import Final

from trio_dispatch._transport.websocket.header import (
    FIN,
    LONGEST_CONTROL,
    MASKED,
    OPCODE,
    RESERVED,
    Opcode,
    measure,
)

_LONGEST: Final = (1 << 63) - 1
_MASK_LENGTH: Final = 4


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

    @property
    def holds_frame(self) -> bool:
        """Whether the frame at the front is complete, or too large to be completed."""
        measured = measure(self._data)
        if measured is None:
            return False
        begin, length = measured
        return length > self._max_size or len(self._data) >= begin + length

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
        first = data[0]
        if first & RESERVED:
            raise BrokenFrame("reserved bits are set")
        try:
            opcode = Opcode(first & OPCODE)
        except ValueError:
            raise BrokenFrame("unknown opcode") from None
        if not data[1] & MASKED:
            raise BrokenFrame("the frame is not masked")
        is_long = data[1] & ~MASKED > LONGEST_CONTROL
        if opcode >= Opcode.CLOSE and (is_long or not first & FIN):
            raise BrokenFrame("a control frame is too long or fragmented")
        measured = measure(data)
        if measured is None:
            return None
        body, length = measured
        if length > _LONGEST:
            raise BrokenFrame("a length of more than 63 bits")
        size = body - _MASK_LENGTH if length > self._max_size else body + length
        if len(data) < size:
            return None
        frame = bytes(data[:size])
        del data[:size]
        return frame


def opcode_of(frame: bytes) -> int:
    """The opcode of a frame that `FrameBuffer` has given out."""
    return frame[0] & OPCODE
