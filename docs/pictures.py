"""Makes the pictures of the documentation: `nox -s pictures`.

The demo runs in memory and in virtual time; its screen, and that of ``top`` watching it, are drawn
as they would be in a terminal, and kept as SVG.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Final

import trio
import trio.testing
from rich.console import Console, RenderableType

from trio_dispatch.cli.demo.plan import make_plan
from trio_dispatch.cli.demo.progress import Board
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.screen import LiveView
from trio_dispatch.cli.demo.server import make_server
from trio_dispatch.cli.top.counts import Counts
from trio_dispatch.cli.top.screen import TopScreen

URL: Final = "ws://localhost:8080/dwp"
MOMENT: Final = 2.6
"""Seconds into the demo."""


def console() -> Console:
    return Console(file=io.StringIO(), record=True, width=100, height=30, force_terminal=True)


def save(picture: RenderableType, screen: Console, name: str) -> None:
    screen.print(picture)
    path = Path(__file__).with_name("pictures") / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    text = screen.export_svg(title=f"trio-dispatch {name}", unique_id=name)
    # Pictures load nothing from elsewhere: the reader's own monospaced font will do.
    text = re.sub(r"@font-face \{.*?\n\s*\}\n", "", text, flags=re.DOTALL)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


async def main() -> None:
    plan = make_plan()
    board, top = Board(plan), Counts()
    async with make_server(plan, "token").open_client() as client, trio.open_nursery() as nursery:

        async def collect() -> None:
            async with client.subscribe("firehose", buffer=10_000) as events:
                async for event in events:
                    top.add(event, trio.current_time())

        nursery.start_soon(collect)
        nursery.start_soon(Demo(client, board).run)
        await trio.sleep(MOMENT)
        top.stats = await client.stats()
        one, other = console(), console()
        save(LiveView(one, board, f"embedded server, {URL}").render(), one, "demo")
        save(TopScreen(other, top, URL).render(trio.current_time()), other, "top")
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
