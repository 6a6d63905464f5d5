"""What is shown: it fits its terminal, stands still, and lets nothing odd through."""

from __future__ import annotations

import io
import re

import pytest
import trio
import trio.testing
from rich.console import Console

from tests.cli.demonstrating import foreign_server, show
from tests.shares import EVERYTHING
from trio_dispatch.cli.demo.plan import EMAIL, ORDER, make_plan
from trio_dispatch.cli.demo.progress import Board
from trio_dispatch.cli.demo.report import Report
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.screen import LiveView, PlainView
from trio_dispatch.cli.demo.server import make_server
from trio_dispatch.cli.demo.summary import plain, table
from trio_dispatch.cli.text import readable

SIZES = [(80, 24), (160, 48)]


def console(width: int, height: int, encoding: str = "utf-8") -> Console:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=out, width=width, height=height, force_terminal=True, _environ={})


def frame(view: LiveView, screen: Console) -> list[str]:
    lines = screen.render_lines(view.render(), pad=False)
    return ["".join(segment.text for segment in line) for line in lines]


def outline(lines: list[str]) -> list[str]:
    """The frame without what is in it."""
    return [re.sub(r"[^╭╮╰╯│]", " ", line) for line in lines]


_watched: dict[tuple[int, int, str], tuple[list[list[str]], Report]] = {}


async def watched(
    width: int, height: int, encoding: str = "utf-8"
) -> tuple[list[list[str]], Report]:
    """All frames of a whole demo, ten a second of virtual time, and its report."""
    key = (width, height, encoding)
    if key not in _watched:
        _watched[key] = await watch_demo(*key)
    return _watched[key]


async def watch_demo(width: int, height: int, encoding: str) -> tuple[list[list[str]], Report]:
    plan = make_plan()
    frames: list[list[str]] = []
    async with make_server(plan, "token").open_client() as client, trio.open_nursery() as nursery:
        board = Board(plan)
        screen = console(width, height, encoding)
        view = LiveView(screen, board, "embedded server, ws://127.0.0.1:65535/dwp")

        async def watch() -> None:
            while True:
                frames.append(frame(view, screen))
                await trio.sleep(0.1)

        nursery.start_soon(watch)
        report = await Demo(client, board).run()
        board.freeze()
        frames.append(frame(view, screen))
        nursery.cancel_scope.cancel()
    return frames, report


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_the_live_screen_fits_and_stands_still(
    width: int, height: int, autojump_clock: trio.testing.MockClock
) -> None:
    frames, _ = await watched(width, height)
    assert len(frames) > 30
    for lines in frames:
        assert len(lines) == height
        assert {len(line) for line in lines} <= {width}
    assert len({tuple(line for line in outline(lines)) for lines in frames}) == 1
    everything = "\n".join("\n".join(lines) for lines in frames)
    for kind in make_plan().kinds:
        assert kind.name in everything
    assert "waiting for the event demo-approval-" in everything
    assert "retrying: attempt 1 failed" in everything
    assert "dlq: dead letter queue" in everything
    last = "\n".join(frames[-1])
    assert re.search(r"total .* 34 +3 ", last)
    assert "✓ ship" in last
    assert "done" in frames[-1][0]


async def test_a_terminal_without_unicode_gets_none(autojump_clock: trio.testing.MockClock) -> None:
    frames, report = await watched(80, 24, encoding="ascii")
    for lines in frames:
        "\n".join(lines).replace("…", "").encode("ascii")  # the ellipsis is rich's own
    assert "\n".join(plain(report)).isascii()


async def test_at_every_width_the_bars_headings_counts_and_steps_are_whole(
    autojump_clock: trio.testing.MockClock,
) -> None:
    plan = make_plan()
    board = Board(plan)
    async with make_server(plan, "token").open_client() as client:
        report = await Demo(client, board).run()
    board.freeze()
    for width in range(60, 201, 1 if EVERYTHING else 5):
        screen = console(width, 24)
        lines = frame(LiveView(screen, board, "embedded server, ws://127.0.0.1:65535/dwp"), screen)
        text = "\n".join(lines)
        assert {len(line) for line in lines} == {width}
        for kind in plan.kinds:
            row = next(line for line in lines if line[2:].startswith(kind.name))
            assert row.count("━") >= 6, row
        headings = ("pending  running  retrying  completed  failed", "pend  run  retry  done  fail")
        assert any(heading in text for heading in headings), text
        assert re.search(r"total .* 34 +3 ", text), text
        assert all(f"✓ {step.label}" in text for step in plan.steps), text
        assert "all ended: 3 failed (on purp" in text or "completed in" in text, text
        assert "fails on purpose: dead letter queue" in text, text

        rendered = console(width, 24).render_lines(table(report, width), pad=False)
        summary = ["".join(segment.text for segment in line).rstrip() for line in rendered]
        assert max(map(len, summary)) <= width
        text = "\n".join(summary)
        assert re.search(r"demo-process-image .*10 +10 +0 +0", text), text
        assert re.search(r"total +37 +34 +3 +18", text), text
        assert "…" not in text


@pytest.mark.parametrize(("width", "height"), SIZES)
async def test_the_summary_fits(
    width: int, height: int, autojump_clock: trio.testing.MockClock
) -> None:
    _, report = await watched(width, height)
    screen = console(width, height)
    lines = ["".join(s.text for s in line).rstrip() for line in screen.render_lines(table(report))]
    assert len(lines) <= height - 2  # a title above, a prompt below
    assert all(len(line) <= width for line in lines)
    text = "\n".join(lines)
    assert "…" not in text
    assert re.search(r"demo-charge-card +default +9 +3 +0 +3 +9 ", text)
    assert re.search(r"total +37 +34 +3 +18", text)
    assert "wait:demo-approval-" in text
    assert "Everything ended as it should." in text


async def test_the_plain_summary_is_aligned(autojump_clock: trio.testing.MockClock) -> None:
    _, report = await watched(80, 24)
    lines = plain(report)
    start = lines.index("Jobs")
    jobs = lines[start + 1 : start + 8]
    column = jobs[0].index("completed") + len("completed")
    assert [line[:column].split()[-1] for line in jobs[1:]] == ["12", "10", "6", "6", "0", "34"]
    assert not any("\x1b" in line or line != line.rstrip() for line in lines)


async def test_skips_are_in_both_summaries_with_their_reasons(
    autojump_clock: trio.testing.MockClock,
) -> None:
    report, _, _ = await show(foreign_server(jobs=[EMAIL]))
    screen = console(80, 24)
    rendered = screen.render_lines(table(report), pad=False)
    live = " ".join("".join(segment.text for segment in line) for line in rendered)
    for text in ("\n".join(plain(report)), " ".join(live.split())):
        assert f"demo-{ORDER}: no workflow of this name is registered" in text
        assert "demo-charge-card: no worker finished a job of this name in 5 s" in text
        assert "What this server has ended as it should." in text


async def test_control_characters_of_a_server_do_not_reach_the_terminal(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = foreign_server()

    @server.job("demo-send-email", max_retries=0)
    async def evil(payload: object) -> None:
        raise ValueError("\x1b[2J\x07[bold]gone[/bold]\r\n")

    report, board, lines = await show(server)
    out = io.StringIO()
    view = PlainView(out)
    for line in lines:
        view.line(line)
    screen = console(160, 48)
    shown = [*plain(report), *out.getvalue().split("\n")]
    shown += frame(LiveView(screen, board, "x"), screen)
    shown += ["".join(s.text for s in line) for line in screen.render_lines(table(report))]
    assert sum("[bold]gone[/bold]" in line for line in shown) > 3
    assert all(line == readable(line) for line in shown)
