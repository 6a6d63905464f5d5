"""Running an async command to its exit code: signals, readers that leave, errors."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import trio

from trio_dispatch._transport.groups import leaves
from trio_dispatch.cli.exits import Exit, OutputFailed, complain, explain
from trio_dispatch.cli.streams import drop_output, flush_output, wait_reader_gone

_SIGNALS: Final = {
    name: code
    for name, code in (
        ("SIGINT", Exit.INTERRUPTED),
        ("SIGTERM", Exit.TERMINATED),
        ("SIGHUP", Exit.HANGUP),
    )
    if hasattr(signal, name)  # Windows has no SIGHUP
}
_OUTPUT_ERRORS: Final = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EFBIG", "EIO", "EBADF")
    if hasattr(errno, name)
}
"""Errors that only writing raises; commands write to nothing but the standard streams."""

_WORDS: Final = {
    Exit.INTERRUPTED: "interrupted",
    Exit.TERMINATED: "terminated",
    Exit.HANGUP: "the terminal was closed",
}


def guard(command: Callable[[], int]) -> int:
    """Run *command*, explain what it raises, and write out what it has printed.

    Only SystemExit passes.
    """
    try:
        with _terminable():
            code = command()
            flush_output()
            return code
    except SystemExit as exc:
        if not isinstance(exc.__context__, BrokenPipeError):
            raise
        return Exit.READER_GONE  # the console of rich answers a broken pipe so
    except BaseException as exc:  # noqa: BLE001
        code = explain(_with_output_errors(exc))
        drop_output()
        return code


def _with_output_errors(exc: BaseException) -> list[BaseException]:
    """Take *exc* apart; an error of standard output is named as such."""
    errors = list(leaves(exc))
    for error in errors:
        if isinstance(error, OSError) and error.errno in _OUTPUT_ERRORS:
            return [OutputFailed(error.strerror)]
    return errors


@contextmanager
def _terminable() -> Generator[None, None, None]:
    """SIGTERM ends the process also where it is process 1, for which the kernel has no default."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    ):
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        os._exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_async(command: Callable[[], Awaitable[Exit]]) -> Exit:
    """Run an async command to its exit code."""
    try:
        return trio.run(_interruptible, command)
    except BaseException as exc:  # noqa: BLE001
        errors = _with_output_errors(exc)
        code = explain(errors)
        if code is Exit.READER_GONE or any(isinstance(error, OutputFailed) for error in errors):
            drop_output()
        return code


async def _interruptible(command: Callable[[], Awaitable[Exit]]) -> Exit:
    """Signals, and a reader that leaves, cancel the command, which then leaves in good order."""
    if threading.current_thread() is not threading.main_thread():
        return await command()
    # What is ignored stays ignored: the parent said so (nohup, a shell's background jobs).
    numbers = {
        getattr(signal, name): code
        for name, code in _SIGNALS.items()
        if signal.getsignal(getattr(signal, name)) is not signal.SIG_IGN
    }
    code: Exit | None = None
    with trio.open_signal_receiver(*numbers) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_on_signal() -> None:
                nonlocal code
                async for number in signals:
                    code = numbers[signal.Signals(number)]
                    nursery.cancel_scope.cancel()

            async def cancel_without_reader() -> None:
                nonlocal code
                await wait_reader_gone()
                code = Exit.READER_GONE
                nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_on_signal)
            nursery.start_soon(cancel_without_reader)
            result = await command()
            code = result if code is None else code
            nursery.cancel_scope.cancel()
    assert code is not None
    if code in _WORDS:
        complain(_WORDS[code])
    if code is Exit.READER_GONE:
        drop_output()
    return code
