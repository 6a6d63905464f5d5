"""Why a connection could not be made: in one line, whatever libraries wrap around it."""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from functools import partial

import pytest
import trio
import trustme

from trio_dispatch._transport.reasons import why
from trio_dispatch._transport.websocket import open_transport
from trio_dispatch._wire.url import parse_url

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import ExceptionGroup


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (REFUSED, "the connection was refused: nothing listens there"),
        (
            caused(OSError("all attempts failed"), ExceptionGroup("", [REFUSED, REFUSED])),
            "the connection was refused: nothing listens there",
        ),
        (caused(RuntimeError("x"), caused(OSError("y"), REFUSED)), "the connection was refused"),
        (OSError(errno.EHOSTUNREACH, "No route to host"), "the host is unreachable (No route"),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "the host name 'h' was not found (Name or service not known)",
        ),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "the host name 'h' could not be"),
        (OSError("plain\nwords"), "plain words"),
        (ConnectionRefusedError("down"), "down"),
        (RuntimeError(), "RuntimeError"),
        (trio.BrokenResourceError(), "BrokenResourceError"),
    ],
)
def test_the_cause_is_found_and_shown_in_one_line(error: Exception, text: str) -> None:
    assert why(error, "h").startswith(text)
    assert why(error, "h").isprintable()


async def reason(url: str, context: ssl.SSLContext | None = None) -> str:
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            try:
                await open_transport(
                    nursery,
                    parse_url(url, "ws", "wss"),
                    headers=(),
                    max_message_size=1,
                    ssl_context=context,
                )
            except Exception as exc:  # noqa: BLE001
                return why(exc, "localhost")
    raise AssertionError


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


async def listen(nursery: trio.Nursery, context: ssl.SSLContext | bytes) -> int:
    async def serve(stream: trio.SocketStream) -> None:
        try:
            with trio.move_on_after(10):
                if isinstance(context, bytes):
                    await stream.receive_some()
                    await stream.send_all(context)
                    await stream.aclose()
                else:
                    secured = trio.SSLStream(stream, context, server_side=True)
                    await secured.do_handshake()
                    await secured.receive_some()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(stream)

    listeners: list[trio.SocketListener] = await nursery.start(
        partial(trio.serve_tcp, serve, 0, host="127.0.0.1")
    )
    port: int = listeners[0].socket.getsockname()[1]
    return port


async def test_tls_says_what_is_wrong(authority: trustme.CA) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("other.example").configure_cert(server)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    async with trio.open_nursery() as nursery:
        port = await listen(nursery, server)
        assert "certificate verify failed: " in await reason(f"wss://127.0.0.1:{port}/dwp")
        mismatch = await reason(f"wss://127.0.0.1:{port}/dwp", trusting)
        assert "certificate verify failed: IP address mismatch" in mismatch
        alert = await listen(nursery, b"\x15\x03\x01\x00\x02\x02\x46")
        assert "did you mean wss://?" in await reason(f"ws://127.0.0.1:{alert}/dwp")
        plain = await listen(nursery, b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert "does not speak TLS there" in await reason(f"wss://127.0.0.1:{plain}/dwp")
        nursery.cancel_scope.cancel()


async def test_nobody_listens_and_nobody_is_called_so() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    assert "was refused" in await reason(f"ws://127.0.0.1:{port}/dwp")
