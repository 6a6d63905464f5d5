"""Packages that an extra brings: which one to install where a package is missing."""

from __future__ import annotations

from typing import Final

_EXTRAS: Final = {
    "cryptography": "remote",
    "google": "remote",
    "http_message_signatures": "remote",
    "httpcore": "http",
    "httpx": "http",
    "httpx_sse": "http",
    "opentelemetry": "opentelemetry",
    "pytest_trio": "testing",
    "python_socks": "proxy",
}
"""Which extra brings a package that the extra `cli` does not."""


def explain_missing(exc: ModuleNotFoundError) -> str | None:
    """Say what to install; None for a module of our own, whose absence is a bug."""
    missing = (exc.name or "").partition(".")[0]
    if missing == "trio_dispatch":
        return None
    if not missing:
        return str(exc)  # which says what to install itself
    extra = _EXTRAS.get(missing, "cli")
    return f"the command needs {missing}; install it with: pip install 'trio-dispatch[{extra}]'"
