"""``trio-dispatch serve``: the embedded server, for development."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import attrs
import trio
from cyclopts import Parameter

from trio_dispatch.cli.exits import Exit, UsageError, complain
from trio_dispatch.cli.output import print_line
from trio_dispatch.cli.running import run_async
from trio_dispatch.cli.serve_log import ActivityLog

if TYPE_CHECKING:
    from trio_dispatch.server import Cluster, Server

LOOK: Final = 0.5
"""Seconds between looks at the files, for ``--reload``."""


@attrs.frozen(kw_only=True)
class Serving:
    """How to serve."""

    host: str
    port: int
    log: ActivityLog | None


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
    nodes: Annotated[
        int | None,
        Parameter(
            help="Serve a cluster of so many servers on one store, each on a free port, and a "
            "balancer before them on the port."
        ),
    ] = None,
    seed: Annotated[
        int | None,
        Parameter(help="For everything random: ids, retry delays, races. The same each time."),
    ] = None,
    quiet: Annotated[
        bool, Parameter(negative=(), show_default=False, help="Print no requests, jobs and runs.")
    ] = False,
    verbose: Annotated[
        bool,
        Parameter(
            negative=(), show_default=False, help="Print every request, also those that only ask."
        ),
    ] = False,
) -> int:
    """Serve an embedded server, which is for development and tests: nothing is kept.

    MODULE is imported from the current directory, and SERVER is its `trio_dispatch.server.Server`
    or `Cluster` (or a function that makes one). While it serves it prints what becomes of jobs and
    runs, the requests that change something, and all that are refused.
    """
    if not 0 <= port <= 65535:
        raise UsageError(f"--port is 0 to 65535, not {port}")
    if nodes is not None and nodes < 1:
        raise UsageError(f"--nodes is at least 1, not {nodes}")
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    serving = Serving(host=host, port=port, log=None if quiet else ActivityLog(verbose=verbose))
    try:
        server, directory = _load(target, nodes)
    except UsageError as exc:
        if not reload or ":" not in target:
            raise
        # It is being written: the next change may mend it.
        complain(str(exc))
        return run_async(lambda: _wait_until_changed(Path.cwd()))
    if seed is not None:
        server.reseed(seed)
    if not reload:
        return run_async(lambda: _serve(server, serving))
    return run_async(lambda: _serve_until_changed(server, serving, directory))


def _load(target: str, nodes: int | None) -> tuple[Server | Cluster, Path]:
    from trio_dispatch.server import Cluster, Server

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
    if not isinstance(found, (Server, Cluster)) and callable(found):
        try:
            found = found()
        except Exception as exc:
            raise UsageError(f"{target} is no server, and cannot be called: {exc}") from exc
    if not isinstance(found, (Server, Cluster)):
        raise UsageError(f"{target} is a {type(found).__name__}, not a trio_dispatch.server.Server")
    if nodes is not None:
        if isinstance(found, Cluster):
            raise UsageError(f"{target} is a cluster already, of {len(found.nodes)} servers")
        found = found.as_cluster(nodes)
    file = getattr(module, "__file__", None)
    return found, Path(file).parent if file else Path.cwd()


async def _serve(server: Server | Cluster, serving: Serving) -> Exit:
    async with _listening(server, serving):
        await trio.sleep_forever()
    raise AssertionError  # pragma: no cover


@asynccontextmanager
async def _listening(server: Server | Cluster, serving: Serving) -> AsyncGenerator[None, None]:
    """Serve, and say where; a port that is taken is the user's to change."""
    from trio_dispatch.server import Cluster

    host, port = serving.host, serving.port
    async with AsyncExitStack() as stack:
        try:
            if isinstance(server, Cluster):
                urls = await stack.enter_async_context(server.serve(host))
                url = await stack.enter_async_context(server.balancer.serve(host, port))
            else:
                urls, url = [], await stack.enter_async_context(server.serve(host, port))
        except OSError as exc:
            raise UsageError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from exc
        if serving.log is not None:
            serving.log.attach(server)
        for number, node in enumerate(urls, start=1):
            print_line(f"Server {number} of {len(urls)}: {node}")
        print_line(f"Serving at {url}, for development: nothing is kept. Ctrl-C ends it.")
        yield


async def _serve_until_changed(server: Server | Cluster, serving: Serving, directory: Path) -> Exit:
    before = _times(directory)
    async with _listening(server, serving):
        changed = await _find_change(directory, before)
    _start_again(changed)
    raise AssertionError  # pragma: no cover


async def _wait_until_changed(directory: Path) -> Exit:
    before = _times(directory)
    print_line("Waiting until a file changes. Ctrl-C ends it.")
    _start_again(await _find_change(directory, before))
    raise AssertionError  # pragma: no cover


async def _find_change(directory: Path, before: set[tuple[Path, int]]) -> Path:
    while True:
        await trio.sleep(LOOK)
        now = await trio.to_thread.run_sync(_times, directory)
        if now != before:
            return min(path for path, _ in before ^ now)


def _start_again(changed: Path) -> None:
    print_line(f"{changed.name} has changed; starting again.")
    # A new process, as a module cannot be imported anew with all that it has imported.
    os.execv(sys.executable, [sys.executable, "-m", "trio_dispatch", *sys.argv[1:]])  # noqa: S606


def _times(directory: Path) -> set[tuple[Path, int]]:
    """The Python files, and when they changed last."""
    return {(path, _time(path)) for path in directory.rglob("*.py")}


def _time(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:  # it has gone meanwhile
        return 0
