"""Every wrong use in ``wrong.py`` is an error for the type checker, of the kind that it names.

``python -m tests.types.check``, which `nox -s types` runs: it needs mypy.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).with_name("wrong.py")


def main() -> int:
    command = [sys.executable, "-m", "mypy", "--config-file", "pyproject.toml", "--no-pretty"]
    root = FILE.parents[2]
    printed = subprocess.run(
        [*command, str(FILE)], capture_output=True, text=True, check=False, cwd=root
    ).stdout
    found: dict[int, set[str]] = {}
    for line, code in re.findall(r"wrong\.py:(\d+): error: .*\[([a-z-]+)\]", printed):
        found.setdefault(int(line), set()).add(code)
    wrong = 0
    failed = 0
    for number, text in enumerate(FILE.read_text(encoding="utf-8").splitlines(), 1):
        expected = re.search(r"# E: (.*)$", text)
        if expected is None:
            if number in found:
                failed += 1
                print(f"unexpected: line {number}: {text.strip()}: {found[number]}")
            continue
        wrong += 1
        if not any(re.search(expected[1], code) for code in found.get(number, ())):
            failed += 1
            print(f"not caught: line {number}: {text.strip()}: {found.get(number)}")
    print(f"{wrong} wrong uses, {wrong - failed} caught as they should be")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
