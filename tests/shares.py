"""Long rows of cases, shared out: each Python takes every fourth, and together they take all.

``TRIO_DISPATCH_ALL=1`` takes all of them on one.
"""

from __future__ import annotations

import os
import sys
from typing import Final

SHARES: Final = 1 if os.environ.get("TRIO_DISPATCH_ALL") else 4
"""As many as there are supported Pythons."""

FIRST: Final = sys.version_info.minor % SHARES
"""Which one is ours: the cases FIRST, FIRST + SHARES, …"""
