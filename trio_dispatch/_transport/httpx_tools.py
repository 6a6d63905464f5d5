"""Tools for all modules that use httpx."""

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
    """A request's body. It is not a generator, which a cancelled write would leave unfinished."""

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data

    @property
    def taken(self) -> bool:
        """Whether it has been passed on to be written. Before that, no server can act on it."""
        return self._data is None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data, self._data = self._data, None
        if data is None:
            raise StopAsyncIteration
        return data


HIDDEN_TARGET: Final = "trio_dispatch.target"
"""The request extension with the path and query to send instead of those of the URL."""


class HidingTransport(httpx.AsyncBaseTransport):
    """Sends the target in `HIDDEN_TARGET`, which httpx does not see: httpx logs every URL.

    httpx's own extension for this, ``target``, would also replace the target of a ``CONNECT``.
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
    """Make a transport that connects to *address*, through *proxy* if there is one.

    With it, httpx reads no environment variables itself, so that all transports use the same proxy.

    Args:
        address: the address for the requests; through a SOCKS proxy it is the only one.
        context: for TLS.
        proxy: the proxy to use, if any.
        max_keepalive_connections: how many idle connections to keep.
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
