"""Text that is none: turning the opcode of messages that are msgpack.

A Dispatch server sends msgpack under the TEXT opcode (protocol, "msgpack"), which a conforming
WebSocket library must refuse, as the bytes are not UTF-8. `OpcodeTurner` stands between the stream
and such a library and makes BINARY messages of TEXT ones, whatever they hold: the codec tells JSON
by its first byte.

Theory of operation
===================

The opcode stands in the first byte of a frame, so it is turned in place when that byte passes by,
and nothing is ever held back: as many bytes go out as came in. All else is counting, to find the
first byte of the next frame; `_Part` says what is being counted::

    STATUS ----> HEADERS ----> FIRST ----> LENGTH ----> EXTENDED ----> BODY ----> FIRST …
      |  status    blank line    opcode      7 bits       16 or 64       mask and
      |  is 101                              of length    bits           payload
      +---> PASSED: any other answer is no WebSocket, and is left alone
"""

# The table of steps stands behind the class whose methods it names.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from enum import Enum
from typing import Final

_TEXT: Final = 0x1
_BINARY: Final = 0x2
_OPCODE: Final = 0x0F
_MASKED: Final = 0x80
_LENGTH: Final = 0x7F
_EXTENDED: Final = {126: 2, 127: 8}
_MASK_SIZE: Final = 4
_STATUS_SIZE: Final = 12  # "HTTP/1.1 101"


class _Part(Enum):
    STATUS = 0
    HEADERS = 1
    FIRST = 2
    LENGTH = 3
    EXTENDED = 4
    BODY = 5
    PASSED = 6


class OpcodeTurner:
    """Turns TEXT frames into BINARY ones, from the 101 response on, however the bytes are split."""

    def __init__(self) -> None:
        self._part = _Part.STATUS
        self._seen = b""
        """The beginning of the status line, or the last bytes of the headers."""
        self._left = 0
        """How many bytes of this part are still to come."""
        self._length = 0
        self._masked = False

    def turn(self, data: bytes | bytearray) -> bytearray:
        """Take what was received and return what to pass on: as many bytes."""
        turned = bytearray(data)
        at = 0
        while at < len(turned):
            at = _STEPS[self._part](self, turned, at)
        return turned

    # Each takes the bytes of its part that begin at *at*, and returns where the next ones begin.

    def _on_status(self, data: bytearray, at: int) -> int:
        self._seen += data[at : at + 1]
        if len(self._seen) == _STATUS_SIZE:
            upgraded = self._seen.endswith(b" 101")
            self._part = _Part.HEADERS if upgraded else _Part.PASSED
        return at + 1

    def _on_headers(self, data: bytearray, at: int) -> int:
        self._seen = (self._seen + data[at : at + 1])[-3:]
        # A bare LF ends a line for h11 as well, which reads these headers next.
        if self._seen.endswith((b"\n\n", b"\n\r\n")):
            self._part = _Part.FIRST
        return at + 1

    def _on_first(self, data: bytearray, at: int) -> int:
        if data[at] & _OPCODE == _TEXT:
            data[at] ^= _TEXT ^ _BINARY
        self._part = _Part.LENGTH
        return at + 1

    def _on_length(self, data: bytearray, at: int) -> int:
        self._masked = bool(data[at] & _MASKED)
        self._length = data[at] & _LENGTH
        self._left = _EXTENDED.get(self._length, 0)
        if self._left:
            self._length = 0
            self._part = _Part.EXTENDED
        else:
            self._begin_body()
        return at + 1

    def _on_extended(self, data: bytearray, at: int) -> int:
        self._length = self._length << 8 | data[at]
        self._left -= 1
        if not self._left:
            self._begin_body()
        return at + 1

    def _begin_body(self) -> None:
        # Servers mask nothing; one that does is refused by the library, not by a miscount here.
        self._left = self._length + (_MASK_SIZE if self._masked else 0)
        self._part = _Part.BODY if self._left else _Part.FIRST

    def _on_body(self, data: bytearray, at: int) -> int:
        step = min(self._left, len(data) - at)
        self._left -= step
        if not self._left:
            self._part = _Part.FIRST
        return at + step

    def _on_passed(self, data: bytearray, at: int) -> int:  # noqa: ARG002
        return len(data)


_STEPS: Final = {
    _Part.STATUS: OpcodeTurner._on_status,
    _Part.HEADERS: OpcodeTurner._on_headers,
    _Part.FIRST: OpcodeTurner._on_first,
    _Part.LENGTH: OpcodeTurner._on_length,
    _Part.EXTENDED: OpcodeTurner._on_extended,
    _Part.BODY: OpcodeTurner._on_body,
    _Part.PASSED: OpcodeTurner._on_passed,
}
