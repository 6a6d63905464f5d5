"""Text from elsewhere, made fit for a terminal: no control characters, and no wider than it is."""

from __future__ import annotations

import unicodedata
from typing import Final

from rich.cells import cell_len, set_cell_size

_JOINERS: Final = "\u200c\u200d"
"""Invisible characters that several scripts and emoji need, and that do no harm."""

_UNSAFE: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Control and format characters (escape sequences, reversed text), surrogates, line separators."""


def readable(text: str) -> str:
    """Make *text* one line without control characters; these become U+FFFD."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        "\N{REPLACEMENT CHARACTER}"
        if unicodedata.category(char) in _UNSAFE and char not in _JOINERS
        else char
        for char in text
    )


def cut(text: str, width: int) -> str:
    """Shorten *text* to *width* terminal cells; an ellipsis shows that something is missing."""
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - 1, 0)).rstrip() + "…" if width > 0 else ""


def short_id(id: str) -> str:
    """Shorten an id to its last characters: the first ones tell the time and are much alike."""
    return id if len(id) <= 9 else f"…{id[-6:]}"
