"""What a release must be; `nox -s release` runs this, and needs nothing but the standard library.

``contents WHEEL SDIST``: what is in the files. ``installed EXTRA``: whether an installation with no
other extra works, brings what it should, and imports quickly.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import distributions
from pathlib import PurePosixPath
from typing import Final

BASE: Final = frozenset({"attrs", "msgpack", "msgspec", "trio", "trio-websocket"})
"""The packages that an installation without extras asks for."""
OF_TRIO: Final = frozenset(
    {"cffi", "exceptiongroup", "h11", "idna", "outcome", "pycparser", "sniffio", "sortedcontainers",
     "typing-extensions", "wsproto"}
)  # fmt: skip
"""What those bring along."""
TOOLS: Final = frozenset({"pip", "setuptools", "wheel", "trio-dispatch"})

USES: Final[dict[str, tuple[str, ...]]] = {
    "": ("trio_dispatch", "trio_dispatch.testing"),
    "fast": ("websockets",),
    "http": ("trio_dispatch._link.http",),
    "proxy": ("python_socks.async_.trio",),
    "remote": ("trio_dispatch.remote",),
    "server": ("trio_dispatch.server",),
    "testing": (
        "trio_dispatch.testing",
        "trio_dispatch.server",
        "pytest_trio_dispatch",
        "pytest_trio",
    ),
    "opentelemetry": ("trio_dispatch.opentelemetry",),
    "cli": ("trio_dispatch.cli.app",),
    "all": ("trio_dispatch.remote", "trio_dispatch.cli.app", "trio_dispatch.opentelemetry"),
}
IMPORT_SECONDS: Final = 0.25
TIMED: Final = """
import time
begin = time.perf_counter()
import trio_dispatch
print(time.perf_counter() - begin)
"""


def check_contents(wheel: str, sdist: str) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    tops = {PurePosixPath(name).parts[0] for name in names}
    extra = {top for top in tops if not top.endswith(".dist-info")}
    assert extra == {"trio_dispatch", "pytest_trio_dispatch"}, extra
    assert {"trio_dispatch/py.typed", "pytest_trio_dispatch/py.typed"} <= names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]
    with tarfile.open(sdist) as archive:
        inside = {"/".join(PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    for wanted in (
        *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE-MIT", "LICENSE-APACHE"),
        *("noxfile.py", "pyproject.toml", "tests/recordings/frames.jsonl", "docs/index.md"),
        *("benchmarks/bench_client.py", "trio_dispatch/py.typed"),
    ):
        assert wanted in inside, wanted
    print(f"{len(names)} files in the wheel, {len(inside)} in the source distribution")


def check_installed(extra: str) -> None:
    for module in (*USES[""], *USES[extra]):
        importlib.import_module(module)
    if extra:
        print(f"[{extra}] works alone")
        return
    names = {(d.metadata["Name"] or "").lower().replace("_", "-") for d in distributions()}
    unexpected = names - BASE - OF_TRIO - TOOLS
    assert not unexpected, unexpected
    assert names >= BASE, BASE - names
    times: list[float] = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", TIMED], capture_output=True, check=True)
        times.append(float(done.stdout))
    print(f"without extras: {sorted(names - TOOLS)}; imported in {1000 * min(times):.0f} ms")
    assert min(times) < IMPORT_SECONDS, times


if __name__ == "__main__":
    if sys.argv[1] == "contents":
        check_contents(*sys.argv[2:4])
    else:
        check_installed(sys.argv[2])
