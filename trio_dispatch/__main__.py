"""``python -m trio_dispatch`` is the same as ``trio-dispatch``."""

from __future__ import annotations

import sys

from trio_dispatch.cli import main

if __name__ == "__main__":
    sys.exit(main())
