"""``trio-dispatch run``: a program under an embedded service of remote calls."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import datetime, timezone
from typing import Annotated, Final

import attrs
import trio
from cyclopts import Parameter
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from trio_dispatch._transport.groups import leaves
from trio_dispatch.cli.exits import Exit, UsageError
from trio_dispatch.cli.output import OutputOptions, chosen, print_cut, print_line
from trio_dispatch.cli.screen import PlainOption, is_live
from trio_dispatch.cli.streams import drop_output, wait_reader_gone

FRAME_SECONDS: Final = 0.1


def run(
    *command: Annotated[
        str, Parameter(help="The program and its arguments.", allow_leading_hyphen=True)
    ],
    port: Annotated[int, Parameter(help="The service's port; 0 takes a free one.")] = 0,
    api_key: Annotated[str, Parameter(help="The key that clients must show.")] = "dev",
    endpoint: Annotated[
        str | None,
        Parameter(
            help="Where the program's endpoint listens, such as 127.0.0.1:8000 (default: a free "
            "port).",
            show_default=False,
        ),
    ] = None,
    expiration: Annotated[
        float, Parameter(help="Seconds after which a call expires that does not say so itself.")
    ] = 60.0,
    plain: PlainOption = False,
    output: OutputOptions | None = None,
) -> int:
    """Run a program under an embedded service of remote calls, and show its calls.

    `trio-dispatch run -- python app.py` starts the service, and then the program with
    `DISPATCH_API_URL`, `DISPATCH_API_KEY`, `DISPATCH_ENDPOINT_URL`, `DISPATCH_ENDPOINT_ADDR` and
    `DISPATCH_VERIFICATION_KEY` set. It is for development: calls are lost when the program ends.
    In a terminal the calls are a table below what the program prints; otherwise each event is a
    line, or a value with `--json`, and then the program's standard output goes to standard error.

    Signals are passed on to the program. The exit code is the program's, and 2 for wrong use.
    """
    if not command:
        raise UsageError("name the program: trio-dispatch run -- python app.py")
    if not 0 <= port <= 65535:
        raise UsageError(f"--port is 0 to 65535, not {port}")
    if not (math.isfinite(expiration) and expiration > 0):
        raise UsageError(f"--expiration is a number above 0, not {expiration}")
    options = _Options(command, port, api_key, endpoint, expiration)
    console = Console(highlight=False)
    out = chosen(output)
    live = is_live(console) and not plain and not out.for_programs
    return trio.run(_run, options, console if live else None, out)


@attrs.frozen
class _Options:
    command: tuple[str, ...]
    port: int
    api_key: str
    endpoint: str | None
    expiration: float


async def _run(options: _Options, console: Console | None, out: OutputOptions) -> int:
    from trio_dispatch.cli.run.calls import Calls, as_value, line
    from trio_dispatch.cli.run.program import Program, environment, free_address
    from trio_dispatch.cli.run.screen import CallsScreen
    from trio_dispatch.remote import CallEvent, open_service

    calls = Calls()

    def on_event(event: CallEvent) -> None:
        worth_a_line = calls.add(event)
        # Whoever reads this may have left, which ends the program elsewhere.
        with contextlib.suppress(BrokenPipeError):
            if out.for_programs:
                out.value(as_value(event))
            elif console is None and worth_a_line:
                print_cut(line(event, calls))

    async with AsyncExitStack() as stack:
        opened = open_service(
            options.api_key,
            expiration=options.expiration,
            port=options.port,
            on_event=on_event,
        )
        try:
            service = await stack.enter_async_context(opened)
        except OSError as exc:
            text = f"cannot listen on port {options.port}: {exc.strerror or exc}"
            raise UsageError(text) from exc
        except Exception as exc:
            # What it is made with cannot be used: an argument, or certificates that a variable
            # names. The latter comes out of a nursery, in a group.
            wrong = next((leaf for leaf in leaves(exc) if isinstance(leaf, ValueError)), None)
            if wrong is None:
                raise
            raise UsageError(str(wrong)) from exc
        variables = environment(service, options.endpoint or free_address())
        program = Program(
            options.command, variables, piped=console is not None, quiet=out.for_programs
        )
        if console is not None:
            screen = CallsScreen(console, calls, f"{service.url}, for development")
            code = await _run_live(console, screen.render, program.run)
        else:
            if not out.for_programs:
                endpoint = variables["DISPATCH_ENDPOINT_URL"]
                print_line(f"service {service.url}, for development; endpoint {endpoint}")
            code = await _run_plain(program.run)
    if console is None and not out.for_programs and code != Exit.READER_GONE:
        print_line(calls.summary())
    return code


Run = Callable[[Callable[[str], None]], Awaitable[int]]


async def _run_plain(run: Run) -> int:
    """The program writes for itself. It ends when whoever reads us has left."""
    code: int = Exit.READER_GONE
    async with trio.open_nursery() as nursery:

        async def end_without_reader() -> None:
            await wait_reader_gone()
            nursery.cancel_scope.cancel()

        nursery.start_soon(end_without_reader)
        code = await run(lambda text: None)  # noqa: ARG005 - nothing is read
        nursery.cancel_scope.cancel()
    if code == Exit.READER_GONE:
        drop_output()
    return code


async def _run_live(
    console: Console, render: Callable[[datetime], RenderableType], run: Run
) -> int:
    """What the program writes goes above the table."""

    def picture() -> RenderableType:
        return render(datetime.now(timezone.utc))

    def show(text: str) -> None:
        console.print(Text.from_ansi(text), soft_wrap=True)

    with Live(
        picture(),
        console=console,
        auto_refresh=False,
        vertical_overflow="crop",
        redirect_stdout=False,
        redirect_stderr=False,
    ) as live:
        async with trio.open_nursery() as nursery:

            async def draw() -> None:
                while True:
                    live.update(picture(), refresh=True)
                    await trio.sleep(FRAME_SECONDS)

            nursery.start_soon(draw)
            code = await run(show)
            nursery.cancel_scope.cancel()
        live.update(picture(), refresh=True)
    return code
