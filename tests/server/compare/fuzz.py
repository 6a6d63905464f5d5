"""Messages by chance, the same for the same seed: good ones, odd ones, and broken ones."""

from __future__ import annotations

import json
import random
from typing import Any, Final

import msgspec

from tests.server.compare.exchanges import Message
from tests.server.compare.raw import KEY, masked

_ODD: Final = [
    "null",
    "true",
    "0",
    "-0",
    "7",
    "1.0",
    "1e2",
    "-1",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775809",
    '""',
    '"x"',
    '"\\ud800"',
    '"\\ud83d\\ude00"',
    '"\\u0000"',
    '"a\\"b\\\\"',
    '"é\\n"',
    '"\xff"',
    "[]",
    "{}",
    "[1,2]",
    '{"a":null}',
    '{"code":"x"}',
    "[[[[[[]]]]]]",
    '{"A":{"b":[1,{"c":2}]}}',
    " 1 ",
    "[1,]",
    "01",
    "1.",
    "nul",
    "'x'",
    '"\\q"',
    '"\\u12"',
    "-",
    "",
]
_TIMES: Final = [
    "2026-01-02T03:04:05Z",
    "2026-01-02T03:04:05.120Z",
    "2026-01-02T03:04:05,5Z",
    "2026-01-02T03:04:05.1234567891Z",
    "2026-01-02T3:04:05Z",
    "2026-01-02T03:04:05+02:00",
    "2026-01-02T03:04:05+00:00",
    "2026-01-02T03:04:05-24:00",
    "2026-01-02T03:04:05+25:00",
    "2026-02-30T03:04:05Z",
    "2026-01-02 03:04:05Z",
    "2026-01-02T03:04:05",
    "2026-01-02T03:04:60Z",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z",
    "26-01-02T03:04:05Z",
    "2026-01-02T03:04:05ZZ",
    "\\u0032026-01-02T03:04:05Z",
    "",
    "é",
]
_IDS: Final = [
    "$job",
    "$run",
    "",
    "job_",
    "job_01h2xcejqtf2nbrexx3vqjhp41",
    "wfrun_01h2xcejqtf2nbrexx3vqjhp41",
    "01h2xcejqtf2nbrexx3vqjhp41",
    "_01h2xcejqtf2nbrexx3vqjhp41",
    "job_81h2xcejqtf2nbrexx3vqjhp41",
    "job_01h2xcejqtf2nbrexx3vqjhp4u",
    "JOB_01h2xcejqtf2nbrexx3vqjhp41",
    "a_b_01h2xcejqtf2nbrexx3vqjhp41",
    "evt_01h2xcejqtf2nbrexx3vqjhp4é",
    'x\\"y',
]
_CHANNELS: Final = ["jobs", "workflows", "firehose", "job:x", "queue:q", "job:", ":", "cron:x"]
_CHANNELS_TOO: Final = ["", "Jobs", "job:a:b", 'a\\"b', "é:x", "queue:", "\\u200b:x"]
_METHODS: Final[dict[str, list[tuple[str, list[str]]]]] = {
    "job.enqueue": [
        ("name", ['"noop"', '"nobody"', '""']),
        ("queue", ['"zz"', '"nobody-takes-this"']),
        ("payload", ["{}", "null", '{"a" : [1, 2]}', '"x"']),
        ("priority", ["0", "5", "-3"]),
    ],
    "job.get": [("job_id", [f'"{one}"' for one in _IDS])],
    "job.cancel": [("job_id", [f'"{one}"' for one in _IDS if one != "$job"])],
    "workflow.start": [("name", ['"item"', '"nobody"', '"a\\"b"']), ("input", ['{"ms":1}'])],
    "workflow.get": [("run_id", [f'"{one}"' for one in _IDS])],
    "workflow.timeline": [("run_id", [f'"{one}"' for one in _IDS if one != "$run"])],
    "workflow.event": [("name", ['"e"', '""']), ("payload", ["{}", "null"])],
    "subscribe": [
        ("channel", [f'"{one}"' for one in _CHANNELS + _CHANNELS_TOO]),
        ("credits", ["0", "5", '"x"', "null", "-1", "1.5"]),
    ],
    "unsubscribe": [("channel", [f'"{one}"' for one in _CHANNELS])],
    "stats": [],
    "auth": [("token", ['"demo-token"'])],
    "job.list": [],
    "workflow.cancel": [],
    "dlq.list": [],
    "cron.list": [],
    "federation.event": [("name", ['"e"']), ("source_id", ['"n1"', "5"])],
    "federation.heartbeat": [("peer_id", ['"n1"'])],
    "bogus": [],
    "": [],
}
_TARGETS: Final = [
    "/",
    "{P}",
    "{P}",
    "{P}/",
    "{P}/rpc",
    "{P}/sse",
    "/x/..{P}",
    "/{P}",
    "{P}//rpc",
    "*",
    "{P}?a=b",
    "/%zz",
    "nowhere",
    "http://y{P}/rpc",
    "/nope",
    "{P}/sse?token=x",
]
_UNKNOWN: Final = ["x", "Id2", "retries", "ı", "\\u0069d", "ſource", "TS2", ""]

Pair = tuple[str, str]
"""A key and a value, as they stand in the text."""


class Fuzz:
    """A stream of messages."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def messages(self, count: int) -> list[Message]:
        """The first *count* of them."""
        return [self._message() for _ in range(count)]

    def _message(self) -> Message:
        chosen = self._random.random()
        token = self._random.choice(["demo-token"] * 6 + ["ro", "wo", "nosub"])
        if chosen < 0.62:
            text = self._text()
            # A text message that is not UTF-8 ends its connection: rarely, then.
            kind = "text" if _is_utf8(text) or chosen < 0.01 else "binary"
            return Message(kind, text, token)
        if chosen < 0.82:
            return Message("rpc", self._text(token if chosen < 0.80 else None))
        if chosen < 0.94:
            return Message("pack", self._pack())
        if chosen < 0.96:
            return Message("auth", self._auth())
        if chosen < 0.98:
            return Message("raw", self._raw())
        return Message("http", self._http())

    # JSON

    def _text(self, token: str | None = None) -> bytes:
        pairs = self._frame()
        if token is not None:
            pairs.append(("token", f'"{token}"'))
        if self._random.random() < 0.5:
            pairs = self._changed(pairs)
        text = self._object(pairs)
        chosen = self._random.random()
        if chosen < 0.04:
            text = text[: self._random.randrange(len(text) + 1)]
        elif chosen < 0.08:
            at = self._random.randrange(len(text) + 1)
            text = text[:at] + self._random.choice("{}[],:\"'\\x0-\t\x01 ") + text[at:]
        elif chosen < 0.1:
            text += self._random.choice([" ", "x", "{}", "\n\n", ",", "null"])
        elif chosen < 0.12:
            text = self._random.choice(_ODD)
        return text.encode("latin-1", "replace") if "\xff" in text else text.encode()

    def _frame(self) -> list[Pair]:
        choose = self._random.choice
        method = choose(list(_METHODS))
        pairs: list[Pair] = [("id", choose(['"1"', '"x"', '""', '"é"']))]
        pairs.append(("method", json.dumps(method)))
        data = [(name, choose(values)) for name, values in _METHODS[method]]
        if data or self._random.random() < 0.3:
            kept = [pair for pair in data if self._random.random() < 0.9]
            if self._random.random() < 0.25:
                kept = self._changed(kept)
            pairs.append(("data", self._object(kept)))
        if self._random.random() < 0.25:
            pairs.append(("ts", f'"{choose(_TIMES)}"'))
        if self._random.random() < 0.12:
            pairs.append(("type", choose(['"ping"', '"request"', '"PING"', '"pong"', "null"])))
        if self._random.random() < 0.05:
            pairs.append(("credits", choose(["0", "-1", "100", "null", "1.5", '"x"'])))
        if self._random.random() < 0.05:
            pairs.append(("error", choose(_ODD)))
        return pairs

    def _changed(self, pairs: list[Pair]) -> list[Pair]:
        pairs = list(pairs)
        for _ in range(self._random.choice([1, 1, 2])):
            at = self._random.randrange(len(pairs) + 1)
            key, value = pairs[at] if at < len(pairs) else (self._random.choice(_UNKNOWN), "1")
            change = self._random.randrange(6)
            if at == len(pairs) or change == 0:
                pairs.insert(at, (self._random.choice(_UNKNOWN), self._random.choice(_ODD)))
            elif change == 1:
                pairs[at] = (self._random.choice([key.upper(), key.title()]), value)
            elif change == 2:
                pairs[at] = (key, self._random.choice(_ODD))
            elif change == 3:
                pairs.append((key, "null"))
            elif change == 4:
                pairs.append((key, self._random.choice(_ODD)))
            else:
                del pairs[at]
        return pairs

    def _object(self, pairs: list[Pair]) -> str:
        space = self._random.choice(["", "", "", " ", "\n\t"])
        parts = [f'"{key}"{space}:{value}{space}' for key, value in pairs]
        return f"{{{space}{','.join(parts)}}}"

    # msgpack

    def _pack(self) -> bytes:
        choose = self._random.choice
        method = choose(["stats", "subscribe", "job.get", "bogus", "job.enqueue"])
        fields: dict[Any, Any] = {"id": choose(["1", b"1", "", None, "é"]), "method": method}
        if method != "stats":
            data = {"subscribe": '{"channel":"jobs"}', "job.get": '{"job_id":"$job"}'}
            text = data.get(method, '{"name":"nobody","queue":"zz"}')
            fields["data"] = choose([text, text.encode(), None, b"", {}, 5, "nul"])
        if self._random.random() < 0.2:
            fields[choose(["x", b"x", "ID", "credits", "type", "channel"])] = choose(
                [1, -1, 2**63, 1.5, None, "x", b"x", [1, {"a": 2}], {"a": [None]}, True]
            )
        if self._random.random() < 0.2:
            fields["ts"] = choose(
                [
                    msgspec.msgpack.Ext(-1, b"\x00\x00\x00\x05"),
                    msgspec.msgpack.Ext(-1, b"\xff" * 8),
                    msgspec.msgpack.Ext(-1, b"\x00\x00\x00\x01" + b"\xff" * 8),
                    msgspec.msgpack.Ext(5, b"x"),
                    msgspec.msgpack.Ext(-1, b"xy"),
                    "2026-01-02T03:04:05Z",
                    5,
                ]
            )
        if self._random.random() < 0.15:
            fields = {"type": "ping", **fields}
        packed = msgspec.msgpack.encode(fields)
        chosen = self._random.random()
        if chosen < 0.08:
            packed = packed[: self._random.randrange(len(packed))]
        elif chosen < 0.16:
            at = self._random.randrange(len(packed))
            packed = packed[:at] + bytes((self._random.randrange(256),)) + packed[at + 1 :]
        elif chosen < 0.2:
            packed = choose([b"", b"\xc0", b"\x90", b"\x91\xa1x", b"\x07", packed + b"\xc1more"])
        return packed

    # The beginning of a session, and below it

    def _auth(self) -> bytes:
        choose = self._random.choice
        data: list[Pair] = [("token", choose(['"demo-token"', '"wrong"', "5", "null", '""']))]
        data.append(("format", choose(['"json"', '"msgpack"', '"xml"', "null", "7", '""'])))
        pairs = [("id", '"1"'), ("method", choose(['"auth"', '"auth"', '"stats"', "null"]))]
        pairs.append(
            ("data", choose([self._object(data), self._object(data), "null", "[]", '"x"']))
        )
        if self._random.random() < 0.3:
            pairs.append(("token", '"demo-token"'))
        if self._random.random() < 0.3:
            pairs = self._changed(pairs)
        return self._object(pairs).encode("utf-8", "replace")

    def _raw(self) -> bytes:
        choose = self._random.choice
        text = b'{"id":"1","type":"ping","ts":"2026-01-02T03:04:05Z"}'
        code = choose([0, 999, 1000, 1001, 1004, 1005, 1011, 1012, 1015, 2999, 3000, 4999, 5000])
        reason = choose([b"", b"bye", b"\xff"])
        close = masked(code.to_bytes(2, "big") + reason, 0x88)
        parts = [
            masked(text),
            masked(text, 0x82),
            masked(text[:9], 0x01) + masked(b"x", 0x89) + masked(text[9:], 0x80),
            masked(text[:9], 0x01) + masked(text[9:], 0x81),
            masked(text, 0x80),
            masked(b"", 0x89),
            masked(b"p" * 125, 0x89),
            masked(b"p", 0x8A),
            masked(b"p", 0x09),
            masked(b"p", 0x83),
            masked(text, 0xC1),
            masked(b"\xff"),
            b"\x81\x05hello",
            close,
            masked(b"", 0x88),
            masked(b"\x03", 0x88),
            b"\x81\xff" + b"\xff" * 12,
        ]
        return b"".join(self._random.sample(parts, 2))

    def _http(self) -> bytes:
        choose = self._random.choice
        method = choose(["GET", "GET", "GET", "POST", "PUT", "DELETE", "OPTIONS", "get"])
        target = choose(_TARGETS)
        head = [f"{method} {target} HTTP/1.1", *choose([["Host: x"]] * 8 + [[], ["Host: a b"]])]
        upgrade = ["Upgrade: websocket", "Connection: Upgrade", f"Sec-WebSocket-Key: {KEY}"]
        upgrade.append("Sec-WebSocket-Version: 13")
        if target == "{P}" and self._random.random() < 0.8:
            others = ["Upgrade: h2c", "Sec-WebSocket-Version: 12", "Sec-WebSocket-Key: x", "X: y"]
            if self._random.random() < 0.6:
                upgrade[self._random.randrange(4)] = choose(others)
            head += upgrade
        head += choose([[]] * 4 + [["Content-Length: 0"], ["Expect: x"], ["Bad header"], ["X: y"]])
        return "\r\n".join([*head, "", ""]).encode()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
