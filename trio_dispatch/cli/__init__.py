"""The ``trio-dispatch`` command. Needs the extra ``cli``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from trio_dispatch.cli.extras import explain_missing

__all__ = ["main"]

_USAGE: Final = 2
_INTERRUPTED: Final = 130
"""Exit codes; `trio_dispatch.cli.exits` cannot be imported here, as it needs the extra."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments* (by default the program's own); return its exit code."""
    try:
        from trio_dispatch.cli.app import run
    except ModuleNotFoundError as exc:
        if (text := explain_missing(exc)) is None:
            raise
        _complain(text)
        return _USAGE
    except KeyboardInterrupt:
        _complain("interrupted")
        return _INTERRUPTED
    return run(sys.argv[1:] if arguments is None else arguments)


def _complain(text: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(f"trio-dispatch: {text}\n")
