"""msgpack as the server's Go library reads it into a frame.

It takes nearly anything for text (str, bin, nil), an array for a map, and ignores what follows the
frame; of times it takes the timestamp extension only. msgspec is stricter in the one and more
lenient in the other, so the frame is read here, field by field. Errors have the library's words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

_NIL: Final = 0xC0
_STR8, _STR16, _STR32 = 0xD9, 0xDA, 0xDB
_BIN8, _BIN16, _BIN32 = 0xC4, 0xC5, 0xC6
_ARRAY16, _ARRAY32, _MAP16, _MAP32 = 0xDC, 0xDD, 0xDE, 0xDF
_EXT8, _EXT16, _EXT32 = 0xC7, 0xC8, 0xC9
_FIXED_EXTS: Final = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}
_INTEGERS: Final = {
    0xCC: (1, False),
    0xCD: (2, False),
    0xCE: (4, False),
    0xCF: (8, True),  # wraps: it is read into 64 bits with a sign
    0xD0: (1, True),
    0xD1: (2, True),
    0xD2: (4, True),
    0xD3: (8, True),
}
_SIZES: Final = {_BIN8: 1, _BIN16: 2, _BIN32: 4, _STR8: 1, _STR16: 2, _STR32: 4}
_PLAIN: Final = {0xC2: 0, 0xC3: 0, 0xCA: 4, 0xCB: 8}
_TIME: Final = -1
_MAX_DEPTH: Final = 900

Kinds = Mapping[str, Any]
"""The fields of a struct in their order: ``"text"``, ``"bytes"``, ``"int"``, ``"time"``, or the
fields of a struct inside."""


class MsgpackProblem(ValueError):
    """Bytes that the library does not read; the message is the library's."""


class NilTime(MsgpackProblem):
    """A nil where a time belongs: the library panics, and the connection drops."""


def unmarshal(data: bytes, kinds: Kinds) -> dict[str, Any]:
    """Read the first value of *data* into a struct: the fields that there are.

    Raises:
        NilTime: a time is nil.
        MsgpackProblem: *data* cannot be read, or not into that struct.
    """
    return _Reader(data).struct(kinds)


def encode_text(text: str) -> str | msgspec.Raw:
    """What msgspec encodes as *text*, whose surrogates are bytes that are not UTF-8.

    Go's text may hold any bytes, and a frame's id goes back as it came.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        content = text.encode("utf-8", "surrogateescape")
        head = bytes((_STR32,)) + len(content).to_bytes(4, "big")
        if len(content) < 32:
            head = bytes((0xA0 | len(content),))
        elif len(content) < 256:
            head = bytes((_STR8, len(content)))
        elif len(content) < 65536:
            head = bytes((_STR16,)) + len(content).to_bytes(2, "big")
        return msgspec.Raw(head + content)
    return text


def encode_time(seconds: int, nanoseconds: int) -> bytes:
    """The content of the timestamp extension, in the library's form."""
    if seconds >> 34 == 0:
        packed = nanoseconds << 34 | seconds
        return packed.to_bytes(4 if packed < 1 << 32 else 8, "big")
    return nanoseconds.to_bytes(4, "big") + (seconds % (1 << 64)).to_bytes(8, "big")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _code(self) -> int:
        if self._at >= len(self._data):
            raise MsgpackProblem("EOF")
        self._at += 1
        return self._data[self._at - 1]

    def _take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        if len(taken) < count:
            raise MsgpackProblem("unexpected EOF" if taken else "EOF")
        self._at += count
        return taken

    def _number(self, size: int) -> int:
        return int.from_bytes(self._take(size), "big")

    # Structs

    def struct(self, kinds: Kinds) -> dict[str, Any]:
        found: dict[str, Any] = {}
        code = self._code()
        if code == _NIL:
            return found
        count = self._map_length(code)
        if count is not None:
            for _ in range(count):
                name = self.text()
                if name in kinds:
                    self._field(name, kinds[name], found)
                else:
                    self._skip(0)
            return found
        count = self._array_length(code)
        if count is None:
            raise MsgpackProblem(f"msgpack: unexpected code={code:x} decoding map length")
        if count and count != len(kinds):
            raise MsgpackProblem("msgpack: number of fields in array-encoded struct has changed")
        for name in kinds if count else ():
            self._field(name, kinds[name], found)
        return found

    def _field(self, name: str, kind: Any, found: dict[str, Any]) -> None:
        if kind == "text":
            found[name] = self.text()
        elif kind == "bytes":
            found[name] = self._bytes(self._code())
        elif kind == "int":
            found[name] = self._integer()
        elif kind == "time":
            found[name] = self._time()
        elif self._data[self._at : self._at + 1] == b"\xc0":
            self._at += 1
            found.pop(name, None)
        else:
            found[name] = self.struct(kind)

    def _map_length(self, code: int) -> int | None:
        if 0x80 <= code <= 0x8F:
            return code & 0x0F
        return self._number(2 if code == _MAP16 else 4) if code in (_MAP16, _MAP32) else None

    def _array_length(self, code: int) -> int | None:
        if 0x90 <= code <= 0x9F:
            return code & 0x0F
        return self._number(2 if code == _ARRAY16 else 4) if code in (_ARRAY16, _ARRAY32) else None

    # Values

    def text(self) -> str:
        """Text; bytes that are not UTF-8 are kept, as surrogates."""
        return (self._bytes(self._code()) or b"").decode("utf-8", "surrogateescape")

    def _bytes(self, code: int) -> bytes | None:
        if code == _NIL:
            return None
        if 0xA0 <= code <= 0xBF:
            return self._take(code & 0x1F)
        size = _SIZES.get(code)
        if size is None:
            raise MsgpackProblem(f"msgpack: invalid code={code:x} decoding string/bytes length")
        return self._take(self._number(size))

    def _integer(self) -> int:
        code = self._code()
        if code == _NIL:
            return 0
        if code <= 0x7F:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code not in _INTEGERS:
            raise MsgpackProblem(f"msgpack: invalid code={code:x} decoding int64")
        size, signed = _INTEGERS[code]
        return int.from_bytes(self._take(size), "big", signed=signed)

    def _time(self) -> tuple[int, int]:
        """Seconds since 1970, of 64 bits, and nanoseconds."""
        code = self._code()
        if code == _NIL:
            raise NilTime("ts is nil")
        length = self._ext_length(code)
        if length is None:
            raise MsgpackProblem(f"msgpack: invalid code={code:x} decoding ext len")
        kind = int.from_bytes(bytes((self._code(),)), "big", signed=True)
        if kind != _TIME:
            raise MsgpackProblem(f"msgpack: got ext type={kind}, wanted {_TIME}")
        content = self._take(length)
        if length == 4:
            return int.from_bytes(content, "big"), 0
        if length == 8:
            packed = int.from_bytes(content, "big")
            seconds, nanoseconds = packed & (1 << 34) - 1, packed >> 34
        elif length == 12:
            nanoseconds = int.from_bytes(content[:4], "big")
            seconds = int.from_bytes(content[4:], "big", signed=True)
        else:
            raise MsgpackProblem(f"msgpack: invalid ext len={length} decoding time")
        return seconds + nanoseconds // 10**9, nanoseconds % 10**9

    def _ext_length(self, code: int) -> int | None:
        if code in _FIXED_EXTS:
            return _FIXED_EXTS[code]
        size = {_EXT8: 1, _EXT16: 2, _EXT32: 4}.get(code)
        return None if size is None else self._number(size)

    def _skip(self, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise MsgpackProblem("msgpack: nested too deeply")
        code = self._code()
        if code <= 0x7F or code >= 0xE0 or code == _NIL:
            return
        if 0xA0 <= code <= 0xBF or code in _SIZES:
            self._bytes(code)
        elif code in _PLAIN:
            self._take(_PLAIN[code])
        elif code in _INTEGERS:
            self._take(_INTEGERS[code][0])
        elif (count := self._map_length(code)) is not None:
            for _ in range(count * 2):
                self._skip(depth + 1)
        elif (count := self._array_length(code)) is not None:
            for _ in range(count):
                self._skip(depth + 1)
        elif (count := self._ext_length(code)) is not None:
            self._take(count + 1)
        else:
            raise MsgpackProblem(f"msgpack: unknown code {code:x}")
