"""Why a connection could not be made, in one line with a hint on what to check."""

from __future__ import annotations

import errno
import os
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from trio_dispatch._transport.groups import leaves

_NOT_FOUND: Final = frozenset(
    getattr(socket, name)
    for name in ("EAI_NONAME", "EAI_NODATA", "EAI_FAIL")
    if hasattr(socket, name)
)

_NO_TLS: Final = (
    "WRONG_VERSION_NUMBER",
    "UNKNOWN_PROTOCOL",
    "HTTP_REQUEST",
    "RECORD_LAYER_FAILURE",
    "PACKET_LENGTH_TOO_LONG",
    "NOT_SSL_RECORD_OR_BAD_RECORD_TYPE",
)
"""OpenSSL's names for an answer that is not TLS."""


def why(error: BaseException, host: str = "") -> str:
    """Describe in one line why a connection failed.

    Args:
        error: the exception, with its causes.
        host: the host to connect to.
    """
    chain = list(_chain(error))
    for find in (_by_tls, _by_system):
        for found in chain:
            text = find(found, host)
            if text is not None:
                return _one_line(text)
    texts = [text for text in map(str, chain) if text]
    return _one_line(texts[0] if texts else type(error).__name__)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Return *error* and its causes, including the members of groups."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        for leaf in leaves(current):
            yield leaf
            if leaf is not current:
                seen.add(id(leaf))
        current = current.__cause__ or current.__context__


def _by_tls(error: BaseException, _: str) -> str | None:
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"certificate verify failed: {error.verify_message} (ssl_context= or "
            "SSL_CERT_FILE says which ones are)"
        )
    if isinstance(error, ssl.SSLEOFError):
        return "the connection ended during the TLS handshake"
    if isinstance(error, ssl.SSLError):
        if error.reason in _NO_TLS:
            return "the server does not speak TLS there: is it ws:// or http:// without the s?"
        said = (error.reason or str(error)).replace("_", " ").lower()
        return f"the TLS handshake failed: {said}"
    return None


def _by_system(error: BaseException, host: str) -> str | None:
    if not isinstance(error, OSError):
        return None
    if isinstance(error, socket.gaierror):
        said = error.strerror or str(error)
        if error.errno in _NOT_FOUND:
            return f"the host name {host!r} was not found ({said})" if host else said
        return f"the host name {host!r} could not be looked up ({said})" if host else said
    if error.errno == errno.ECONNREFUSED:
        return "the connection was refused: nothing listens there"
    if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"the host is unreachable ({os.strerror(error.errno)})"
    if error.errno is not None:
        return error.strerror or os.strerror(error.errno)
    return str(error) if str(error) and error.__cause__ is None else None


def _one_line(text: str) -> str:
    shown = "".join(char if char.isprintable() else " " for char in text)
    return " ".join(shown.split())
