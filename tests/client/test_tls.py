"""TLS: a private authority, and certificates that must be refused."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from functools import partial
from typing import Any

import pytest
import trio
import trustme

import trio_dispatch
from tests.client import support
from trio_dispatch import ConnectFailed

AUTHORITY = trustme.CA()


@asynccontextmanager
async def serving(certificate: trustme.LeafCert) -> AsyncGenerator[int, None]:
    """A server behind TLS on loopback; gives its port."""
    server = support.make_server()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)

    async def relay(stream: trio.SSLStream[trio.SocketStream]) -> None:
        async def pump(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
            try:
                async for data in source:
                    await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        async with await server.open_stream() as inner, trio.open_nursery() as nursery:
            nursery.start_soon(pump, stream, inner)
            nursery.start_soon(pump, inner, stream)
        await trio.aclose_forcefully(stream)

    async with server.run(), trio.open_nursery() as nursery:
        serve = partial(trio.serve_ssl_over_tcp, relay, 0, context, host="127.0.0.1")
        listeners = await nursery.start(serve)
        yield listeners[0].transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


def on_wire(host: str, port: int) -> dict[str, Any]:
    """Where the server is, for the wire in use."""
    scheme = "https" if support.wire == "http" else "wss"
    return support.WIRES[support.wire] | {"url": f"{scheme}://{host}:{port}/dwp"}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


async def test_a_private_authority_is_trusted_where_it_is_given() -> None:
    async with serving(AUTHORITY.issue_cert("localhost", "127.0.0.1")) as port:
        async with trio_dispatch.open_client(
            **on_wire("127.0.0.1", port), token="demo-token", ssl_context=trusting()
        ) as client:
            handle = await client.enqueue("noop", {"big": "x" * 500_000})
            assert (await handle.wait()).state == "completed"


@pytest.mark.parametrize(
    ("certificate", "host", "message"),
    [
        ("good", "localhost", "Hostname mismatch|not valid for 'localhost'"),
        ("other", "127.0.0.1", "IP address mismatch|not valid for '127.0.0.1'"),
        ("expired", "127.0.0.1", "certificate has expired"),
    ],
)
async def test_wrong_certificates_are_refused_and_the_error_says_why(
    certificate: str, host: str, message: str
) -> None:
    issued = {
        "good": lambda: AUTHORITY.issue_cert("127.0.0.1"),
        "other": lambda: AUTHORITY.issue_cert("dispatch.example"),
        "expired": lambda: AUTHORITY.issue_cert(
            "127.0.0.1", not_after=datetime(2020, 1, 1, tzinfo=timezone.utc)
        ),
    }[certificate]()
    async with serving(issued) as port:
        with pytest.raises(ConnectFailed, match=message):
            async with trio_dispatch.open_client(
                **on_wire(host, port), token="demo-token", ssl_context=trusting()
            ):
                pytest.fail("entered")


async def test_an_unknown_authority_is_refused() -> None:
    async with serving(trustme.CA().issue_cert("127.0.0.1")) as port:
        with pytest.raises(ConnectFailed, match="certificate verify failed"):
            async with trio_dispatch.open_client(**on_wire("127.0.0.1", port), token="demo-token"):
                pytest.fail("entered")
