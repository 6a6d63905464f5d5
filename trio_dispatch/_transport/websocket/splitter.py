"""Messages that need no library: whole ones, in one frame.

Nearly all that a server sends are frames that are a message each, and reading one through a
library costs more than decoding its content (measured: 3.0 µs in websockets, 11 in trio-websocket
and as much again for its turns of the scheduler; 0.6 here). So the bytes are split at the ends of
frames before a library sees them: a message in one unmasked frame is taken out, and all else goes
to the library, which knows what to make of it: control frames, fragments, and whatever breaks the
protocol.

The library gets whole frames, so that it never stands in the middle of one. From the first one on
that is no ping or pong, it gets everything: so no message overtakes one in fragments, and none is
read behind the close frame.

A Dispatch server sends msgpack under the TEXT opcode (protocol, "msgpack"), which a conforming
library must refuse, as the bytes are not UTF-8. Where that is agreed on, what the library gets has
its TEXT opcodes turned into BINARY; the codec tells JSON by its first byte.
"""

from __future__ import annotations

from typing import Final

from trio_dispatch._transport.websocket.header import (
    FIN,
    LONGEST_CONTROL,
    MASKED,
    OPCODE,
    Opcode,
    measure,
)

TEXT: Final = int(Opcode.TEXT)
BINARY: Final = int(Opcode.BINARY)
_WHOLE_TEXT: Final = FIN | TEXT
_WHOLE_BINARY: Final = FIN | BINARY
_HEARTBEATS: Final = frozenset({FIN | Opcode.PING, FIN | Opcode.PONG})


class FrameSplitter:
    """Splits a stream of frames, from the first byte after the handshake on.

    Args:
        max_size: bytes of a frame's payload; a larger one is left to the library to refuse.
        text_is_utf8: whether text that is none is the library's to refuse; without, it is turned
            into binary.
    """

    def __init__(self, max_size: int, *, text_is_utf8: bool = True) -> None:
        self._max_size = max_size
        self._text_is_utf8 = text_is_utf8
        self._parts: list[bytes] = []
        """What has been read and not been split: the beginning of a frame that is not whole.

        It is put together once, when the frame is whole: at each read, that would cost the square
        of a large frame's size.
        """
        self._held = 0
        """Bytes in `_parts`."""
        self._needed = 0
        """How many of them the frame needs before it is worth looking."""
        self._all_to_library = False
        self._untouched = False
        """A frame was too large: the rest is the library's, as it comes."""

    def put_back(self, data: bytes | bytearray) -> None:
        """Keep *data*, which was read already, for the next `split`."""
        if data:
            self._parts.append(bytes(data))
            self._held += len(data)

    def split(self, data: bytes | bytearray) -> tuple[list[bytes], bytes]:
        """Take what was read.

        Returns:
            The messages that are whole by now, and the frames for the library, if there are any:
            messages that come behind these wait for the next call, which may have no data.
        """
        self.put_back(data)
        if self._untouched:
            return [], self._take_all()
        if self._held < self._needed:
            return [], b""
        buffer = self._take_all()
        messages: list[bytes] = []
        others: list[bytes] = []
        at, end = 0, len(buffer)
        self._needed = 0
        while (measured := measure(buffer, at)) is not None:
            body, size = measured
            if size > self._max_size:
                self._untouched = True
                others.append(buffer[at:])
                at = end
                break
            stop = body + size
            if stop > end:
                self._needed = stop - at
                break
            first = buffer[at]
            if (
                first in (_WHOLE_TEXT, _WHOLE_BINARY)
                and buffer[at + 1] < MASKED
                and not self._all_to_library
            ):
                if others:
                    break  # it came behind a control frame, and waits for its turn
                message = buffer[body:stop]
                if first == _WHOLE_BINARY or message.isascii() or self._is_text(message):
                    messages.append(message)
                    at = stop
                    continue
            others.append(self._for_library(buffer[at:stop]))
            at = stop
        self.put_back(buffer[at:])
        return messages, b"".join(others)

    def _take_all(self) -> bytes:
        parts, self._parts, self._held = self._parts, [], 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _is_text(self, message: bytes) -> bool:
        try:
            message.decode()
        except UnicodeDecodeError:
            return not self._text_is_utf8
        return True

    def _for_library(self, frame: bytes) -> bytes:
        if frame[0] not in _HEARTBEATS or frame[1] > LONGEST_CONTROL:
            self._all_to_library = True
        if frame[0] & OPCODE == TEXT and not self._text_is_utf8:
            return bytes((frame[0] ^ TEXT ^ BINARY,)) + frame[1:]
        return frame
