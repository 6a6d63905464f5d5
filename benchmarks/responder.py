"""The server of the benchmarks: a process of its own that answers as fast as it can.

It knows just enough of the wire to keep clients busy: it accepts any token, gives each request the
answer of its method, sends floods of events, and drops connections on demand. So that it is never
what limits a client, it reads whatever has arrived at once, writes all answers in one call, and
looks at nothing but ``id`` and ``method``. Its share of the time is printed beside each figure.

A Dispatch server sends msgpack under the TEXT opcode, and so does this.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gc
import hashlib
import sys
import time
from typing import Final

import msgspec
from websockets.speedups import apply_mask

GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
UPGRADE: Final = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {}\r\n\r\n"
)
JOB: Final = "job_01m7xpfnzkfdmbrgn9ddpbeebg"
TS: Final = "2026-11-21T00:00:49.139305518Z"
EVENT: Final = {
    "id": "20261121000049.139305179",
    "type": "event",
    "data": {
        "type": "job.completed",
        "ts": "2026-11-21T00:00:49.139169939Z",
        "topic": f"job:{JOB}",
        "data": {
            "job_id": JOB,
            "job_name": "send-email",
            "queue": "default",
            "scope_app_id": "app1",
            "scope_org_id": "org1",
        },
    },
    "channel": f"job:{JOB}",
    "ts": TS,
}
CLOSE: Final = 8
PING: Final = 9
CHUNK: Final = 64
"""Events of a flood that are written at once."""


class Asked(msgspec.Struct):
    """What is looked at."""

    id: str = ""
    method: str = ""
    type: str = ""
    credits: int = 0
    data: msgspec.Raw = msgspec.Raw()


class Settings(msgspec.Struct):
    """The data of ``bench.*`` methods."""

    events: int = 0
    delay: float = 0


class Authentication(msgspec.Struct):
    """The data of ``auth``."""

    format: str = "json"


PACKED_TS: Final = msgspec.msgpack.Ext(-1, (1_795_262_400).to_bytes(4, "big"))
ANSWERS: Final[dict[str, object]] = {
    "job.enqueue": {"job_id": JOB, "queue": "default", "state": "pending"},
    "stats": {"broker": {}, "federation": {}},
    "bench.cpu": None,
}


def frame(payload: bytes) -> bytes:
    """One unmasked TEXT message."""
    size = len(payload)
    if size < 126:
        return bytes((0x81, size)) + payload
    if size < 65536:
        return b"\x81\x7e" + size.to_bytes(2, "big") + payload
    return b"\x81\x7f" + size.to_bytes(8, "big") + payload


class Json:
    """Frames as JSON."""

    decode = staticmethod(msgspec.json.Decoder(Asked).decode)
    event = frame(msgspec.json.encode(EVENT))

    def __init__(self) -> None:
        self._ends = {method: self._end(answer) for method, answer in ANSWERS.items()}

    def _end(self, data: object) -> bytes:
        return b'","data":%b,"ts":"%b"}' % (msgspec.json.encode(data), TS.encode())

    def answer(self, asked: Asked, data: object = None) -> bytes:
        end = self._ends.get(asked.method) if data is None else None
        end = end or self._end(data or {})
        start = b'{"id":"20261121000047.112692451","type":"response","correl_id":"'
        return b"".join((start, asked.id.encode(), end))


class Msgpack:
    """Frames as msgpack, with ``data`` as a bin of JSON text."""

    decode = staticmethod(msgspec.msgpack.Decoder(Asked).decode)
    event = frame(
        msgspec.msgpack.encode(
            EVENT | {"data": msgspec.json.encode(EVENT["data"]), "ts": PACKED_TS}
        )
    )

    def answer(self, asked: Asked, data: object = None) -> bytes:
        text = msgspec.json.encode(data or ANSWERS.get(asked.method) or {})
        return msgspec.msgpack.encode(
            {
                "id": "20261121000047.112692451",
                "type": "response",
                "correl_id": asked.id,
                "data": text,
                "ts": PACKED_TS,
            }
        )


FORMATS: Final = {"json": Json(), "msgpack": Msgpack()}


class Peer(asyncio.Protocol):
    """One connection."""

    connections: Final[set[Peer]] = set()
    delay = 0.0
    """Seconds that answers are held back, on every connection."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = bytearray()
        self.upgraded = False
        self.format: Json | Msgpack = FORMATS["json"]
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.connections.discard(self)
        self.may_write.set()

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.upgraded:
            head, found, rest = bytes(self.buffer).partition(b"\r\n\r\n")
            if not found:
                return
            self.upgrade(head)
            self.buffer = bytearray(rest)
        self.read_frames()

    def upgrade(self, head: bytes) -> None:
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"sec-websocket-key":
                accept = base64.b64encode(hashlib.sha1(value.strip() + GUID).digest()).decode()
                self.transport.write(UPGRADE.format(accept).encode())
        self.upgraded = True

    def read_frames(self) -> None:
        buffer = self.buffer
        out: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= 6:
            opcode = buffer[at] & 0x0F
            size, head = buffer[at + 1] & 0x7F, 2
            if size == 126:
                size, head = int.from_bytes(buffer[at + 2 : at + 4], "big"), 4
            elif size == 127:
                if end - at < 14:
                    break
                size, head = int.from_bytes(buffer[at + 2 : at + 10], "big"), 10
            body = at + head + 4
            if body + size > end:
                break
            if opcode == CLOSE:
                self.transport.write(b"\x88\x00")
                self.transport.close()
                return
            payload = apply_mask(buffer[body : body + size], bytes(buffer[body - 4 : body]))
            if opcode == PING:
                out.append(bytes((0x8A, size)) + payload)
            else:
                self.act(payload, out)
            at = body + size
        del buffer[:at]
        if out:
            self.send(out)

    def send(self, out: list[bytes]) -> None:
        data = b"".join(out)
        if self.delay:
            asyncio.get_running_loop().call_later(self.delay, self.write, data)
        else:
            self.transport.write(data)

    def write(self, data: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(data)

    def act(self, payload: bytes, out: list[bytes]) -> None:
        # The first frame is JSON, whatever comes after it.
        asked = (FORMATS["json"] if payload[:1] == b"{" else self.format).decode(payload)
        if asked.credits:
            return
        if asked.method == "auth":
            wish = msgspec.json.decode(asked.data, type=Authentication).format
            self.format = FORMATS[wish]
            answer = {"session_id": "s", "format": wish}
            out.append(frame(self.format.answer(asked, answer)))
            return
        if asked.method.startswith("bench."):
            self.command(asked, out)
            return
        out.append(frame(self.format.answer(asked)))

    def command(self, asked: Asked, out: list[bytes]) -> None:
        text = bytes(asked.data)
        if self.format is FORMATS["msgpack"] and text:
            text = msgspec.msgpack.decode(text, type=bytes)
        settings = msgspec.json.decode(text if text not in {b"", b"null"} else b"{}", type=Settings)
        data: object = None
        if asked.method == "bench.events":
            self.flooding = asyncio.ensure_future(self.flood(settings.events))
        elif asked.method == "bench.cpu":
            data = {"cpu": time.process_time()}
        elif asked.method == "bench.delay":
            Peer.delay = settings.delay
        elif asked.method == "bench.drop":
            Peer.delay = settings.delay
            for peer in list(self.connections):
                peer.transport.abort()
            return
        out.append(frame(self.format.answer(asked, data)))

    async def flood(self, count: int) -> None:
        chunk = self.format.event * CHUNK
        for _ in range(count // CHUNK):
            await self.may_write.wait()
            self.transport.write(chunk)
        self.transport.write(self.format.event * (count % CHUNK))


async def main() -> None:
    gc.disable()
    server = await asyncio.get_running_loop().create_server(Peer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main())
