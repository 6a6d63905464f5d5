"""Single keys from the terminal, without Enter."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Generator

import trio

if sys.platform == "win32":  # pragma: no cover
    import msvcrt

    LOOK = 0.1
    """Seconds between looks for a key."""

    async def wait_key(wanted: str) -> None:
        """Wait until one of the keys in *wanted* is pressed."""
        while True:
            if sys.stdin.isatty() and msvcrt.kbhit() and msvcrt.getwch() in wanted:
                return
            await trio.sleep(LOOK)

else:
    import termios
    import tty

    async def wait_key(wanted: str) -> None:
        """Wait until one of the keys in *wanted* is pressed; for ever where no terminal is read.

        Cancelled or not, the terminal is left as it was.
        """
        with _reading_keys() as descriptor:
            while descriptor is not None:
                await trio.lowlevel.wait_readable(descriptor)
                found = os.read(descriptor, 64)
                if not found:
                    break
                if set(found.decode(errors="replace")) & set(wanted):
                    return
        await trio.sleep_forever()

    @contextlib.contextmanager
    def _reading_keys() -> Generator[int | None, None, None]:
        """Make the terminal hand over keys at once; Ctrl-C remains a signal."""
        descriptor = -1
        try:
            descriptor = sys.stdin.fileno()
            # In the background, touching the terminal would stop the process.
            usable = os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp()
            before = termios.tcgetattr(descriptor) if usable else None
        except (OSError, ValueError, AttributeError, termios.error):
            before = None
        if before is None:
            yield None
            return
        tty.setcbreak(descriptor, termios.TCSANOW)
        try:
            yield descriptor
        finally:
            with contextlib.suppress(termios.error):  # the terminal has gone
                termios.tcsetattr(descriptor, termios.TCSANOW, before)
