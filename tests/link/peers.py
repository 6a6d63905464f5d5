"""A server of frames without `auth`, whose every move a test makes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import msgspec
import trio
import trio.testing
import trio_websocket

from trio_dispatch import Dialect, ErrorBody, Frame, Link
from trio_dispatch._link.opening import make_link
from trio_dispatch._transport.block import in_background
from trio_dispatch._wire.codecs import JSON, thaw
from trio_dispatch._wire.errors import request_error


@attrs.define(eq=False)
class Peer:
    """The server's end of one connection."""

    ws: trio_websocket.WebSocketConnection
    stream: trio.abc.Stream
    headers: dict[str, str]

    async def receive(self) -> Frame:
        return thaw(JSON.decode(await self.ws.get_message()))

    async def send(self, **fields: Any) -> None:
        await self.ws.send_message(JSON.encode(Frame(**fields)).decode())

    async def echo(self) -> None:
        """Answer every request with its own data, until the connection is gone."""
        try:
            while True:
                frame = await self.receive()
                await self.send(type="response", correl_id=frame.id, data=frame.data)
        except trio_websocket.ConnectionClosed:
            pass

    async def vanish(self) -> None:
        """Drop the connection without a word."""
        await trio.aclose_forcefully(self.stream)


class Frames(Dialect[Frame]):
    """Frames as messages: any type will do, not only mappings."""

    def encode(self, message: Frame) -> str:
        return JSON.encode(message).decode()

    def decode(self, payload: bytes) -> Frame:
        return thaw(JSON.decode(payload))

    def id_of(self, message: Frame) -> str | None:
        return message.id or None

    def with_id(self, message: Frame, number: int) -> Frame:
        return msgspec.structs.replace(message, id=f"t{number}")

    def answers(self, message: Frame) -> str | None:
        return message.correl_id or None

    def error_of(self, message: Frame) -> Exception | None:
        if message.type != "error" and message.error is None:
            return None
        return request_error(message.error or ErrorBody())


class FrameServer:
    """Takes connections in memory, and hands each to the test."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._send, self._receive = trio.open_memory_channel[Peer](1000)
        self.dials: list[float] = []
        """When somebody dialled."""
        self.refusing = 0
        """How many dials to refuse."""
        self.statuses: list[int] = []
        """HTTP statuses to answer upgrades with, instead of 101."""
        self.retry_after = ""
        """What these answers say of when to try again."""

    async def connect(self, address: object) -> trio.abc.Stream:
        self.dials.append(trio.current_time())
        if self.refusing:
            self.refusing -= 1
            raise OSError("connection refused")
        near, far = trio.testing.memory_stream_pair()
        self._nursery.start_soon(self._accept, far)
        return near

    async def _accept(self, stream: trio.abc.Stream) -> None:
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, stream)
            if self.statuses:
                wait = [(b"Retry-After", self.retry_after.encode())] if self.retry_after else []
                await request.reject(self.statuses.pop(0), extra_headers=wait)
                nursery.cancel_scope.cancel()
                return
            headers = {name.decode(): value.decode() for name, value in request.headers}
            ws = await request.accept()
            await self._send.send(Peer(ws, stream, headers))

    async def accept(self) -> Peer:
        """The next connection."""
        return await self._receive.receive()


@asynccontextmanager
async def open_frame_server() -> AsyncGenerator[FrameServer, None]:
    async with trio.open_nursery() as nursery:
        yield FrameServer(nursery)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def linked(server: FrameServer, **options: Any) -> AsyncGenerator[Link[Any], None]:
    """A link to *server*."""
    every: dict[str, Any] = {"dialect": Frames()} | options
    supervisor, link = make_link("ws://localhost/connect", server.connect, **every)
    async with in_background(supervisor.run, link):
        yield link
