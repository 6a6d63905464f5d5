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

from trio_dispatch import remote
from trio_dispatch.cli.demo.plan import make_plan
from trio_dispatch.cli.demo.progress import Board
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.screen import LiveView
from trio_dispatch.cli.demo.server import make_server
from trio_dispatch.cli.run.calls import Calls
from trio_dispatch.cli.run.screen import CallsScreen
from trio_dispatch.cli.top.counts import Counts
from trio_dispatch.cli.top.screen import TopScreen
from trio_dispatch.remote._time import now

URL: Final = "ws://localhost:8080/dwp"
MOMENT: Final = 2.6
"""Seconds into the demo."""


def console(width: int = 100, height: int = 30) -> Console:
    return Console(file=io.StringIO(), record=True, width=width, height=height, force_terminal=True)


def save(picture: RenderableType, screen: Console, name: str) -> None:
    screen.print(picture)
    path = Path(__file__).with_name("pictures") / f"{name}.svg"
    path.parent.mkdir(exist_ok=True)
    text = screen.export_svg(title=f"trio-dispatch {name.removesuffix('-wide')}", unique_id=name)
    # Pictures load nothing from elsewhere: the reader's own monospaced font will do.
    text = re.sub(r"@font-face \{.*?\n\s*\}\n", "", text, flags=re.DOTALL)
    path.write_text("\n".join(line.rstrip() for line in text.splitlines()) + "\n", encoding="utf-8")


async def draw_calls() -> None:
    """Remote calls as ``trio-dispatch run`` shows them, in a narrow terminal and in a wide one."""
    endpoint = remote.Endpoint("http://127.0.0.1:8000")
    tries = 0

    @endpoint.function
    async def resize(number: int) -> int:
        await trio.sleep(0.4 * number)
        return number

    @endpoint.function
    async def publish() -> None:
        nonlocal tries
        tries += 1
        raise ConnectionError("the image store refuses the connection")

    @endpoint.function
    async def watermark(text: str) -> None:
        raise ValueError(f"no such font: {text}")

    @endpoint.function
    async def thumbnails(count: int) -> None:
        calls = [endpoint.call("resize", number) for number in range(count)]
        await remote.gather(*calls, endpoint.call("publish"))

    calls = Calls()
    async with (
        remote.open_service(host=None, endpoints=[endpoint], on_event=calls.add, seed=1) as service,
        service.open_client() as client,
    ):
        await client.dispatch(endpoint.call("watermark", "Comic"))
        await client.dispatch(endpoint.call("thumbnails", 5))
        await trio.sleep(1.05)
        for name, width, height in (("run", 80, 24), ("run-wide", 160, 30)):
            screen = console(width, height)
            picture = CallsScreen(screen, calls, "http://127.0.0.1:41234, for development")
            save(picture.render(now()), screen, name)


async def main() -> None:
    await draw_calls()
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
