"""Decoding of messages that are whole in one frame, without a library.

Nearly all frames of a server are one message each. Reading a message through a library costs more
than decoding its content (measured: 3.0 µs in websockets, 11 in trio-websocket and as much
again for its turns of the scheduler; 0.6 here). So the splitter splits the bytes at the ends of
frames first. It takes out messages in one unmasked frame, and passes everything else to the
library: control frames, fragments, and violations of the protocol.

The library gets only whole frames. After the first frame that is neither ping nor pong, the library
gets all further frames. So no message can overtake a fragmented one, and no message is read after
the close frame.

A Dispatch server sends msgpack with the TEXT opcode (protocol, "msgpack"). A conforming library
must refuse that, because the bytes are not UTF-8. If msgpack is agreed on, the splitter replaces
TEXT by BINARY in the frames for the library. The codec recognizes JSON by its first byte.
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
        max_size: bytes of a frame's payload; the library refuses a larger one.
        text_is_utf8: whether the library refuses text that is not UTF-8; if False, text becomes
            binary.
    """

    def __init__(self, max_size: int, *, text_is_utf8: bool = True) -> None:
        self._max_size = max_size
        self._text_is_utf8 = text_is_utf8
        self._parts: list[bytes] = []
        """The beginning of an incomplete frame, in parts.

        They are joined once, when the frame is complete. Joining them at each read would take time
        quadratic in the size of a large frame.
        """
        self._held = 0
        """Bytes in `_parts`."""
        self._needed = 0
        """How many bytes the frame needs before it is checked again."""
        self._all_to_library = False
        self._untouched = False
        """Whether a frame was too large: all further bytes go to the library."""

    def put_back(self, data: bytes | bytearray) -> None:
        """Store *data*, which has already been read, for the next `split`."""
        if data:
            self._parts.append(bytes(data))
            self._held += len(data)

    def split(self, data: bytes | bytearray) -> tuple[list[bytes], bytes]:
        """Process received bytes.

        Returns:
            The complete messages, and the frames for the library, if any. Messages after those
            frames wait for the next call, which may have no data.
        """
        if self._parts:
            self.put_back(data)
            if self._held < self._needed and not self._untouched:
                return [], b""
            buffer = self._take_all()
        else:
            buffer = bytes(data)
        if self._untouched:
            return [], buffer
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
                    break  # it arrived after a control frame, and waits for its turn
                message = buffer[body:stop]
                if first == _WHOLE_BINARY or message.isascii() or self._is_text(message):
                    messages.append(message)
                    at = stop
                    continue
            others.append(self._for_library(buffer[at:stop]))
            at = stop
        if at < end:
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
