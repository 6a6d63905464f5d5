"""All that can be done with this repository: `nox --list` names it, `nox -s NAME` does it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.sessions = ["tests", "lint", "types", "docs"]
nox.options.error_on_missing_interpreters = False

PYPROJECT = nox.project.load_toml("pyproject.toml")
BENCHMARKS = Path("benchmarks")
PURE = (
    "_wire/*",
    "_link/http/overlap.py",
    "_transport/websocket/splitter.py",
)
"""Modules without I/O: each of their branches is covered."""

SCHEDULED = (
    "tests/client/test_run_model.py",
    "tests/client/test_cluster_run_model.py",
    "tests/client/test_hostile.py",
    "tests/client/test_interrupts.py",
    "tests/client/test_subscription_model.py",
    "tests/client/test_events_from_all_model.py",
)
"""Tests that play random schedules (``tests/schedules.py``)."""

# The Python that runs nox takes part even where only a virtual environment has it.
os.environ["PATH"] += os.pathsep + str(Path(sys.executable).parent)


def installed(version: str) -> bool:
    """Whether a Python of that version starts (a version manager's shim may exist and refuse)."""
    program = shutil.which(f"python{version}")
    return program is not None and (
        subprocess.run([program, "-c", ""], capture_output=True, check=False).returncode == 0
    )


# Two workers; the one that is done first takes over what is left of the other's share.
WORKERS = ("--numprocesses=2", "--dist=worksteal")
SUPPORTED = nox.project.python_versions(PYPROJECT)
PYTHONS = [version for version in SUPPORTED if installed(version)] or None
"""None: the Python that runs nox, where it is none of those that are named as supported."""


def group(name: str) -> list[str]:
    """The requirements of a dependency group of pyproject.toml."""
    return list(nox.project.dependency_groups(PYPROJECT, name))


@nox.session
def demo(session: nox.Session) -> None:
    """Watch jobs and a workflow run, on a server of our own or on any other (--url, --token)."""
    session.install(".[cli]")
    session.run("trio-dispatch", "demo", *session.posargs)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on every supported Python that is installed; together they run all."""
    session.install("-e", ".[all]", *group("test"))
    share = {}
    if PYTHONS and not session.posargs:
        # What does not depend on the Python is shared out: see tests/shares.py.
        number = PYTHONS.index(str(session.python)) + 1
        share = {"TRIO_DISPATCH_SHARE": f"{number}/{len(PYTHONS)}"}
    session.run("pytest", *WORKERS, *session.posargs, env=share)


@nox.session(python=PYTHONS[0] if PYTHONS else None)
def lowest(session: nox.Session) -> None:
    """Run the tests with the oldest versions that pyproject.toml allows, on the oldest Python."""
    declared = [*PYPROJECT["project"]["dependencies"]]
    for requirements in PYPROJECT["project"]["optional-dependencies"].values():
        declared += requirements
    oldest = sorted({line.replace(">=", "==") for line in declared if ">=" in line})
    session.install("-e", ".[all]", *group("test"), *oldest)
    # Old libraries may warn on a newer Python; what they warn about is not ours to mend.
    session.run("pytest", *WORKERS, "-W", "default", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Play thousands of random schedules, where the tests play a few; takes an hour.

    Talk to hostile servers as well, 20,000 times, and interrupt a client at each of its turns.
    """
    session.install("-e", ".[all]", *group("test"))
    much = {"TRIO_DISPATCH_SCHEDULES": "2000", "TRIO_DISPATCH_FUZZ": "20000"}
    session.run("pytest", *WORKERS, *(session.posargs or SCHEDULED),
                env=much | {"TRIO_DISPATCH_ALL": "1"})  # fmt: skip


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure branch coverage. The modules without I/O must be covered whole."""
    session.install("-e", ".[all]", *group("test"))
    everything = {"TRIO_DISPATCH_ALL": "1"}  # of what the Pythons share out otherwise
    session.run("pytest", *WORKERS, "--cov", "--cov-report=", *session.posargs, env=everything)
    session.run("coverage", "report")
    pure = ",".join(f"*/trio_dispatch/{modules}" for modules in PURE)
    session.run("coverage", "report", f"--include={pure}", "--fail-under=100")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style with ruff."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types with mypy --strict and pyright."""
    session.install("-e", ".[all]", *group("types"), *group("test"), "nox")
    session.run("mypy")
    session.run("python", "-m", "tests.types.check")
    session.run("pyright")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[all]", *group("docs"))
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session(python=PYTHONS)
def release(session: nox.Session) -> None:
    """Build, look into what was built, and run the demo from the wheel, on every Python."""
    session.install("build", "twine")
    folder = session.create_tmp()
    built = Path(folder, "dist")
    shutil.rmtree(built, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(built), silent=True)
    session.run("python", "-m", "twine", "check", "--strict", *map(str, built.iterdir()))
    (wheel,) = built.glob("*.whl")
    (sdist,) = built.glob("*.tar.gz")
    session.run("python", "tests/release.py", "contents", str(wheel), str(sdist))
    for extra in ("", *PYPROJECT["project"]["optional-dependencies"]):
        session.run("python", "-m", "venv", "--clear", f"{folder}/venv")
        python = f"{folder}/venv/bin/python"
        wanted = f"{wheel}[{extra}]" if extra else str(wheel)
        session.run(python, "-m", "pip", "install", "-q", wanted, external=True)
        session.run(python, "-P" if session.python != "3.10" else "-I", "tests/release.py",
                    "installed", extra, external=True)  # fmt: skip
    session.run(python, "-m", "trio_dispatch.cli", "demo", "--speed", "10", external=True)


@nox.session
def pictures(session: nox.Session) -> None:
    """Draw the pictures of the documentation, and write its pages of commands."""
    session.install(".[all]")
    session.run("python", "docs/pictures.py")
    session.run("python", "docs/commands.py")
    session.run("python", "docs/layers.py")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure, beside plain loops on the same libraries; `-- --write` updates the documentation."""
    scripts = sorted(BENCHMARKS.glob("bench_*.py"))
    if not scripts:
        session.skip("there are no benchmarks yet")
    session.install(".[all]")
    for script in scripts:
        session.run("python", str(script), *session.posargs)
