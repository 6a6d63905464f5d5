"""Recorded streams, split and damaged: a right frame, a clear error, or a closed connection.

``TRIO_DISPATCH_FUZZ=10000`` sets how many are tried for each library and format.
"""

from __future__ import annotations

import logging
import os
import random
import tracemalloc
from typing import Any

import pytest
import trio

from tests import recorded
from tests.client.support import new_client, through
from tests.transport.websocket.scripted import LIBRARIES, ScriptedStream, text
from trio_dispatch import (
    Client,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    ProtocolError,
)
from trio_dispatch._client.opening import running
from trio_dispatch._transport.websocket import Library

ROUNDS = int(os.environ.get("TRIO_DISPATCH_FUZZ", "150"))
MAX_SIZE = 64 * 1024

STREAMS = {
    "json": [
        b"".join(text(m.payload) for m in recorded.messages(name) if m.format == "json")
        for name in ("subscriptions", "job_lifecycle", "workflows", "frames")
    ],
    "msgpack": [b"".join(text(m.payload) for m in recorded.messages("msgpack_codec"))],
}


def damaged(data: bytes, rng: random.Random) -> bytes:
    """*data* with a few bytes changed, lost, doubled or made up."""
    mutated = bytearray(data)
    for _ in range(rng.choice([0, 1, 1, 2, 5, 20])):
        at = rng.randrange(len(mutated))
        kind = rng.randrange(6)
        if kind == 0:
            mutated[at] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del mutated[at : at + rng.randint(1, 40)]
        elif kind == 2:
            mutated[at:at] = rng.randbytes(rng.randint(1, 40))
        elif kind == 3:
            mutated[at:at] = mutated[at : at + rng.randint(1, 400)]
        elif kind == 4:
            del mutated[at + 1 :]
        else:
            # A frame of any kind and any length, as far as its header goes.
            mutated[at:at] = bytes([rng.randrange(256), 127]) + rng.randbytes(8)
        mutated = mutated or bytearray(b"\x00")
    return bytes(mutated)


async def use(client: Client, errors: set[type[DispatchError]]) -> None:
    """Ask, and wait for whatever comes."""
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            try:
                await client.stats()
            except DispatchError as exc:
                errors.add(type(exc))

        async def read() -> None:
            try:
                async with client.subscribe("firehose", overflow="drop_oldest") as events:
                    async for event in events:
                        assert isinstance(event.type, str)
            except DispatchError as exc:
                errors.add(type(exc))

        nursery.start_soon(ask)
        nursery.start_soon(read)


@pytest.mark.parametrize("format", ["json", "msgpack"])
@pytest.mark.parametrize("library", LIBRARIES)
async def test_whatever_comes_nothing_hangs_or_crashes(
    autojump_clock: object, library: Library, format: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    seed = random.randrange(2**32)
    print("seed", seed)
    rng = random.Random(seed)
    errors: set[type[DispatchError]] = set()
    tracemalloc.start()
    for _ in range(ROUNDS):
        stream = ScriptedStream(
            damaged(rng.choice(STREAMS[format]), rng),
            [rng.choice([1, 7, 100, 65536, rng.randint(1, 2_000)]) for _ in range(200)],
            ends=rng.random() < 0.8,
        )

        async def connect(address: object, stream: trio.abc.Stream = stream) -> trio.abc.Stream:
            return stream

        client = new_client(
            "ws://localhost/dwp", token="t", reconnect=False, transport=library, format=format,
            heartbeat_interval=5, max_message_size=MAX_SIZE,
        )  # fmt: skip
        client = through(client, connect)
        with trio.fail_after(120):
            try:
                async with running(client):
                    await use(client, errors)
            except DispatchError as exc:
                errors.add(type(exc))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # Headers claim lengths of up to 2**64: what they claim is not what is held.
    assert peak < 8 * 2**20
    assert {ConnectionLost, ProtocolError, ConnectFailed} <= errors
    assert InternalError not in errors
