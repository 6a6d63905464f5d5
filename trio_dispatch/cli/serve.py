"""``trio-dispatch serve``: the embedded server, for development."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import trio
from cyclopts import Parameter

from trio_dispatch.cli.exits import Exit, UsageError
from trio_dispatch.cli.output import print_line
from trio_dispatch.cli.running import run_async

if TYPE_CHECKING:
    from trio_dispatch.server import Server

LOOK: Final = 0.5
"""Seconds between looks at the files, for ``--reload``."""


def serve(
    target: Annotated[str, Parameter(help="MODULE:SERVER, such as app:server.")],
    /,
    *,
    host: Annotated[str, Parameter(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, Parameter(help="The port; 0 takes a free one.")] = 8080,
    reload: Annotated[
        bool,
        Parameter(
            negative=(),
            show_default=False,
            help="Start again whenever a Python file of the module's directory changes.",
        ),
    ] = False,
) -> int:
    """Serve an embedded server, which is for development and tests: nothing is kept.

    MODULE is imported from the current directory, and SERVER is its `trio_dispatch.server.Server`
    (or a function that makes one).
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port is 0 to 65535, not {port}")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    server, directory = _load(target)
    if not reload:
        return run_async(lambda: _serve(server, host, port))
    return run_async(lambda: _serve_until_changed(server, host, port, directory))


def _load(target: str) -> tuple[Server, Path]:
    from trio_dispatch.server import Server

    module_name, _, name = target.partition(":")
    if not module_name or not name:
        raise UsageError(f"name the server as MODULE:SERVER, such as app:server, not {target!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as exc:
        if exc.name is None or not module_name.startswith(exc.name):
            raise UsageError(f"{module_name} cannot be imported: {exc}") from exc
        raise UsageError(f"there is no module {module_name!r} here") from exc
    except Exception as exc:
        raise UsageError(f"{module_name} cannot be imported: {type(exc).__name__}: {exc}") from exc
    try:
        found = getattr(module, name)
    except AttributeError as exc:
        raise UsageError(f"{module_name} has no {name!r}") from exc
    if not isinstance(found, Server) and callable(found):
        try:
            found = found()
        except Exception as exc:
            raise UsageError(f"{target} is no server, and cannot be called: {exc}") from exc
    if not isinstance(found, Server):
        raise UsageError(f"{target} is a {type(found).__name__}, not a trio_dispatch.server.Server")
    file = getattr(module, "__file__", None)
    return found, Path(file).parent if file else Path.cwd()


async def _serve(server: Server, host: str, port: int) -> Exit:
    async with _listening(server, host, port):
        await trio.sleep_forever()
    raise AssertionError  # pragma: no cover


@asynccontextmanager
async def _listening(server: Server, host: str, port: int) -> AsyncGenerator[None, None]:
    """`Server.serve`, announced; a port that is taken is the user's to change."""
    async with AsyncExitStack() as stack:
        try:
            url = await stack.enter_async_context(server.serve(host, port))
        except OSError as exc:
            raise UsageError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
        print_line(f"Serving at {url}, for development: nothing is kept. Ctrl-C ends it.")
        yield


async def _serve_until_changed(server: Server, host: str, port: int, directory: Path) -> Exit:
    before = _times(directory)
    async with _listening(server, host, port):
        while True:
            await trio.sleep(LOOK)
            now = await trio.to_thread.run_sync(_times, directory)
            if now != before:
                break
    changed = sorted({path for path, _ in before ^ now})
    print_line(f"{changed[0].name} has changed; starting again.")
    # A new process, as a module cannot be imported anew with all that it has imported.
    os.execv(sys.executable, [sys.executable, "-m", "trio_dispatch.cli", *sys.argv[1:]])  # noqa: S606


def _times(directory: Path) -> set[tuple[Path, int]]:
    """The Python files, and when they changed last."""
    return {(path, _time(path)) for path in directory.rglob("*.py")}


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it has gone meanwhile
        return 0
