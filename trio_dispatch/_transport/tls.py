"""The certificates that are trusted by default."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from trio_dispatch._wire.url import Address


def context_for(address: Address, given: ssl.SSLContext | None = None) -> ssl.SSLContext:
    """Return *given*, or make a context for *address*; with TLS, it verifies certificates.

    Raises:
        ValueError: see `default_context`.
    """
    if given is not None:
        return given
    # A context that verifies takes 20 ms to make, which is wasted if there is no TLS.
    return default_context() if address.secure else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def default_context() -> ssl.SSLContext:
    """Make a context that verifies against the system's certificates or the usual variables.

    This takes about 20 ms.

    Raises:
        ValueError: ``SSL_CERT_FILE`` or ``SSL_CERT_DIR`` cannot be read. OpenSSL would silently
            ignore that, and refuse every certificate.
    """
    file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        raise ValueError(f"SSL_CERT_DIR is {folder!r}, which is not a folder")
    context = ssl.create_default_context()
    if file:
        try:
            context.load_verify_locations(cafile=file)
        except (OSError, ssl.SSLError) as exc:
            reason = exc.reason if isinstance(exc, ssl.SSLError) else exc.strerror
            raise ValueError(
                f"SSL_CERT_FILE is {file!r}, from which no certificate can be read: {reason}"
            ) from None
    return context
