"""The closing handshake, as a Dispatch server does it.

It echoes the code of a close frame, and no reason. A code that nobody may send is answered by 1002
with the rule that it breaks. Either way TCP ends right after.
"""

from __future__ import annotations

from typing import Final

from trio_dispatch._transport.websocket.header import FIN, Opcode, measure

_PROTOCOL_ERROR: Final = 1002
_FIRST: Final = 1000
_NOT_SENT: Final = frozenset({1005, 1006, 1015})
_NO_MEANING: Final = 1004
_DEFINED: Final = frozenset({1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011})
_LAST_OF_PROTOCOL: Final = 2999
_MASK_LENGTH: Final = 4


def close_reply(frame: bytes) -> bytes:
    """The frame that answers *frame*, a whole and masked close frame."""
    measured = measure(frame)
    assert measured is not None
    begin, _ = measured
    mask, masked = frame[begin - _MASK_LENGTH : begin], frame[begin:]
    payload = bytes(byte ^ mask[at % _MASK_LENGTH] for at, byte in enumerate(masked))
    problem = _problem(payload) if payload else ""
    body = _PROTOCOL_ERROR.to_bytes(2, "big") + problem.encode() if problem else payload[:2]
    return bytes((FIN | Opcode.CLOSE, len(body))) + body


def _problem(payload: bytes) -> str:
    code = int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 0
    if code < _FIRST:
        return "status code is not in use"
    if code in _NOT_SENT:
        return "status code is only application level"
    if code == _NO_MEANING:
        return "status code has no meaning yet"
    if code <= _LAST_OF_PROTOCOL and code not in _DEFINED:
        return "status code is not defined in spec"
    try:
        payload[2:].decode("utf-8")
    except UnicodeDecodeError:
        return "invalid utf8 sequence in close reason"
    return ""
