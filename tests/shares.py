"""Work that is shared out among the supported Pythons, which together do all of it.

Tests of the client run over many wires: each Python takes half of these (`HALF`), so each wire is
taken by two. Long rows of cases, such as a connection that is cut after each byte: of the two, each
takes every second case (`FIRST`, `FIRST + STEP`, …). ``TRIO_DISPATCH_ALL=1`` takes all on one.
"""

from __future__ import annotations

import os
import sys
from typing import Final

EVERYTHING: Final = bool(os.environ.get("TRIO_DISPATCH_ALL"))

HALF: Final = sys.version_info.minor % 2
STEP: Final = 1 if EVERYTHING else 2
FIRST: Final = 0 if EVERYTHING else sys.version_info.minor // 2 % 2
