"""The ``trio-dispatch`` command. Needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

__all__ = ["main"]

_NOT_INSTALLED: Final = 2
"""The exit code for wrong use; `trio_dispatch.cli.exits` cannot be imported here."""

_EXTRAS: Final = {"google": "remote", "httpx": "http", "httpx_sse": "http", "httpcore": "http"}
"""Which extra brings a package that the extra `cli` does not."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments* (by default the program's own); return its exit code."""
    try:
        from trio_dispatch.cli.app import run

        # Commands import the extras that only they need.
        return run(sys.argv[1:] if arguments is None else arguments)
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing == "trio_dispatch":
            raise
        extra = _EXTRAS.get(missing, "cli")
        sys.stderr.write(
            f"trio-dispatch: the command needs {missing or exc}; "
            f"install it with: pip install 'trio-dispatch[{extra}]'\n"
        )
        return _NOT_INSTALLED
