"""Optional packages: the error for a missing one names the extra that installs it."""

from __future__ import annotations

from importlib.util import find_spec


def require(module: str, extra: str, *packages: str) -> None:
    """Check that the packages that *module* needs are installed.

    Raises:
        ModuleNotFoundError: one is missing; the message includes its name and what to install.
    """
    for package in packages:
        try:
            found = find_spec(package)
        except ModuleNotFoundError:  # its parent package is missing
            found = None
        if found is None:
            raise ModuleNotFoundError(
                f"{module} needs {package}: pip install 'trio-dispatch[{extra}]'", name=package
            )
