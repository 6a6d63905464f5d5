"""Two small proxies for tests: one that knows CONNECT and forwards plain HTTP, and one for SOCKS5.

They know names that nothing else knows, so a name that is resolved shows who resolved it.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import h11
import trio

NAME = "dispatch.example"


class SmallProxy:
    """What both have in common."""

    scheme = ""

    def __init__(self, credentials: str | None) -> None:
        self.credentials = credentials
        """``user:password``, if it wants any."""
        self.port = 0
        self.asked: list[str] = []
        """Where clients wanted to go, as they said it."""
        self.refuses = False

    async def connect(self, host: str, port: int) -> trio.SocketStream:
        self.asked.append(f"{host}:{port}")
        return await trio.open_tcp_stream("127.0.0.1" if host == NAME else host, port)

    async def serve(self, client: trio.SocketStream) -> None:
        raise NotImplementedError

    async def handle(self, client: trio.SocketStream) -> None:
        try:
            async with client:
                await self.serve(client)
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
            pass


async def relay(one: trio.SocketStream, other: trio.SocketStream) -> None:
    """Carry bytes both ways until either side ends."""

    async def carry(source: trio.SocketStream, target: trio.SocketStream) -> None:
        async for data in source:
            await target.send_all(data)
        nursery.cancel_scope.cancel()

    async with other, trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other)
        nursery.start_soon(carry, other, one)


class HttpProxy(SmallProxy):
    """CONNECT, and plain HTTP forwarded: one request a connection."""

    scheme = "http"

    async def serve(self, client: trio.SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        received = b""
        while b"\r\n\r\n" not in received:
            data = await client.receive_some()
            if not data:
                return
            received += data
        connection.receive_data(received)
        request = connection.next_event()
        assert isinstance(request, h11.Request)
        headers = dict(request.headers)
        if self.credentials is not None:
            wanted = b"Basic " + b64encode(self.credentials.encode())
            if headers.get(b"proxy-authorization") != wanted:
                await client.send_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                return
        target = request.target.decode()
        if self.refuses:
            await client.send_all(b"HTTP/1.1 403 Not from here\r\nContent-Length: 0\r\n\r\n")
        elif request.method == b"CONNECT":
            host, _, port = target.rpartition(":")
            server = await self.connect(host, int(port))
            await client.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await relay(client, server)
        else:
            place, slash, path = target.removeprefix("http://").partition("/")
            host, _, port = place.partition(":")
            server = await self.connect(host, int(port or 80))
            line, _, rest = received.partition(b"\r\n")
            method = line.split(b" ")[0]
            await server.send_all(method + f" {slash}{path} HTTP/1.1\r\n".encode() + rest)
            await relay(client, server)


class Socks5Proxy(SmallProxy):
    """SOCKS5, with or without user and password."""

    scheme = "socks5"

    async def serve(self, client: trio.SocketStream) -> None:
        buffer = bytearray()

        async def take(count: int) -> bytes:
            while len(buffer) < count:
                data = await client.receive_some()
                if not data:
                    raise trio.ClosedResourceError
                buffer.extend(data)
            taken = bytes(buffer[:count])
            del buffer[:count]
            return taken

        _, count = await take(2)
        methods = await take(count)
        wanted = 0 if self.credentials is None else 2
        if wanted not in methods:
            await client.send_all(b"\x05\xff")
            return
        await client.send_all(bytes((5, wanted)))
        if wanted:
            _, size = await take(2)
            user = await take(size)
            (size,) = await take(1)
            good = f"{user.decode()}:{(await take(size)).decode()}" == self.credentials
            await client.send_all(b"\x01\x00" if good else b"\x01\x01")
            if not good:
                return
        kind = (await take(4))[3]
        if kind == 3:
            (size,) = await take(1)
            host = (await take(size)).decode()
        else:
            host = ".".join(map(str, await take(4)))
        port = int.from_bytes(await take(2), "big")
        if self.refuses:
            await client.send_all(b"\x05\x02\x00\x01" + bytes(6))
            return
        server = await self.connect(host, port)
        await client.send_all(b"\x05\x00\x00\x01" + bytes(6))
        await relay(client, server)


@asynccontextmanager
async def running_proxy(
    kind: type[SmallProxy], credentials: str | None = None
) -> AsyncGenerator[SmallProxy, None]:
    """A proxy on loopback."""
    proxy = kind(credentials)
    handler: Callable[[trio.SocketStream], Awaitable[None]] = proxy.handle
    async with trio.open_nursery() as nursery:
        listeners: list[trio.SocketListener] = await nursery.start(
            partial(trio.serve_tcp, handler, 0, host="127.0.0.1")
        )
        proxy.port = listeners[0].socket.getsockname()[1]
        yield proxy
        nursery.cancel_scope.cancel()
