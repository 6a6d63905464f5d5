"""What everything here that uses httpx needs of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from typing import Final

import httpx

from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.websocket.stream import KEEP_ALIVE, dial
from trio_dispatch._wire.proxies import Proxy
from trio_dispatch._wire.url import Address


class Once(httpx.AsyncByteStream):
    """A request's body, without a generator that a cancelled write leaves unfinished."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    @property
    def taken(self) -> bool:
        """Whether it has been given away to be written. Before that, nobody can act on it."""
        return self._data is None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            raise StopAsyncIteration
        return data


HIDDEN_TARGET: Final = "trio_dispatch.target"
"""The extension of a request with the path and query that are sent instead of its URL's."""


class HidingTransport(httpx.AsyncBaseTransport):
    """Sends what stands in `HIDDEN_TARGET`, so that httpx, which logs every URL, does not see it.

    httpx's own extension for that, ``target``, also replaces the target of a ``CONNECT``.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*."""
        extensions = dict(request.extensions)
        target = extensions.pop(HIDDEN_TARGET, None)
        url = request.url if target is None else request.url.copy_with(raw_path=target)
        return await self._transport.handle_async_request(
            httpx.Request(
                request.method,
                url,
                headers=request.headers,
                stream=request.stream,
                extensions=extensions,
            )
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


def make_transport(
    address: Address,
    context: ssl.SSLContext,
    proxy: Proxy | None,
    *,
    max_keepalive_connections: int,
) -> httpx.AsyncBaseTransport:
    """Make a transport that reaches *address*, through *proxy* if there is one.

    httpx reads no variables beside this one, so that all wires go the same way.

    Args:
        address: where the requests go; a transport to a SOCKS proxy leads there alone.
        context: for TLS.
        proxy: what leads there.
        max_keepalive_connections: idle connections that are kept.
    """
    if proxy is not None and proxy.is_socks:
        return StreamTransport(address, lambda to: dial(to, context, proxy))
    auth = None
    if proxy is not None and proxy.user is not None:
        auth = (proxy.user, proxy.password or "")
    return httpx.AsyncHTTPTransport(
        verify=context,
        trust_env=False,
        limits=httpx.Limits(
            max_connections=None, max_keepalive_connections=max_keepalive_connections
        ),
        proxy=None if proxy is None else httpx.Proxy(proxy.url, auth=auth),
        socket_options=KEEP_ALIVE,
    )
