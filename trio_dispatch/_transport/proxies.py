"""TCP connections through a proxy, with python-socks. The proxy resolves host names."""

from __future__ import annotations

import importlib
import socket

import trio

from trio_dispatch._transport.reasons import why
from trio_dispatch._wire.proxies import Proxy


class ProxyFailed(OSError):
    """A proxy could not be reached, or refused. The message names it, without its password."""


def check_can_connect(proxy: Proxy) -> None:
    """Check that connections can be made through *proxy*.

    Raises:
        ModuleNotFoundError: python-socks is not installed.
        ValueError: it is reached by TLS, which python-socks does not support.
    """
    try:
        importlib.import_module("python_socks.async_.trio")
    except ModuleNotFoundError as exc:
        raise ModuleNotFoundError(
            f"{proxy.shown} needs {exc.name}: pip install 'trio-dispatch[proxy]', or pass "
            "proxy=None to connect without it"
        ) from exc
    if proxy.scheme == "https":
        raise ValueError(
            f"{proxy.shown} is reached by TLS, which WebSockets cannot do: use http:// or "
            "socks5://, or pass proxy=None"
        )


async def connect(proxy: Proxy, host: str, port: int) -> trio.SocketStream:
    """Connect to *host* and *port* through *proxy*.

    Raises:
        ProxyFailed: no connection could be made.
    """
    from python_socks import ProxyConnectionError, ProxyError, ProxyType
    from python_socks.async_.trio import Proxy as Connector

    kind = ProxyType.SOCKS5 if proxy.is_socks else ProxyType.HTTP
    try:
        addresses = await trio.socket.getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise ProxyFailed(f"{proxy.shown} cannot be reached: {why(exc, proxy.host)}") from None
    failure: OSError | None = None
    for *_, (place, *_) in addresses:
        connector = Connector(kind, str(place), proxy.port, proxy.user, proxy.password, rdns=True)
        try:
            # The caller sets the timeout, by a cancel scope.
            connected = await connector.connect(host, port, timeout=float("inf"))
        except ProxyConnectionError as exc:
            failure = failure or exc
        except ProxyError as exc:
            raise ProxyFailed(f"{proxy.shown} refused: {_one_line(exc)}") from None
        except OSError as exc:
            raise ProxyFailed(f"{proxy.shown} failed: {why(exc)}") from None
        except Exception as exc:  # noqa: BLE001 - whatever the library makes of odd bytes
            raise ProxyFailed(f"{proxy.shown} failed: {type(exc).__name__}") from None
        else:
            return trio.SocketStream(connected)
    reason = why(failure.__cause__ or failure) if failure else "it has no address"
    raise ProxyFailed(f"{proxy.shown} cannot be reached: {reason}")


def _one_line(error: Exception) -> str:
    text = " ".join("".join(char if char.isprintable() else " " for char in str(error)).split())
    return text[:200] or "without a reason"
