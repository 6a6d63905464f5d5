"""``trio-dispatch cron``: what runs by the clock, where the server can show it."""

from __future__ import annotations

from typing import Final

from cyclopts import App

from trio_dispatch.cli.connect import ServerOptions
from trio_dispatch.cli.offered import ask_what_may_be_missing
from trio_dispatch.cli.output import OutputOptions

cron_app: Final = App(name="cron", help="What runs by the clock.")


@cron_app.command(name="list")
def list_(*, server: ServerOptions | None = None, output: OutputOptions | None = None) -> int:
    """List cron entries, where the server can do that (`cron.list`); it says so where it cannot."""
    return ask_what_may_be_missing("cron.list", {}, server, output)
