"""Helpers for exception groups."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import cast

if sys.version_info < (3, 11):  # pragma: no cover
    from exceptiongroup import BaseExceptionGroup


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Return the exceptions in *exc* that are not groups, outermost first."""
    if isinstance(exc, BaseExceptionGroup):
        for part in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(part)
    else:
        yield exc
