"""Figures as tables and as a picture."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Final, NamedTuple

BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"
SCALES: Final = {"µs": 1e6, "KiB": 1 / 1024}


class Ratio(NamedTuple):
    """A figure with a goal."""

    title: str
    value: float
    goal: str


def ratio_table(ratios: list[Ratio], *, goals: bool = False) -> str:
    lines = (
        ["| | measured | goal |", "| --- | --- | --- |"] if goals else ["| | |", "| --- | --- |"]
    )
    for ratio in ratios:
        goal = f" {ratio.goal} |" if goals else ""
        lines.append(f"| {ratio.title} | {ratio.value:.3g} |{goal}")
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def table(
    title: str,
    figures: tuple[tuple[str, str], ...],
    results: dict[str, list[dict[str, float]]],
) -> str:
    """Medians, with the lowest and the highest of the rounds where there is more than one."""
    busy = any("responder" in rounds[0] for rounds in results.values())
    heads = [f"{name}, {unit}" if unit else name for name, unit in figures]
    heads += ["responder's share"] if busy else []
    lines = [f"| {title} | {' | '.join(heads)} |", "| --- |" + " --- |" * len(heads)]
    for name, rounds in results.items():
        cells: list[str] = []
        for figure, unit in figures:
            values = [turn[figure] * SCALES.get(unit, 1) for turn in rounds]
            cell = number(statistics.median(values))
            if len(values) > 1:
                cell += f" ({number(min(values))} to {number(max(values))})"
            cells.append(cell)
        if busy:
            share = statistics.median(turn["responder"] for turn in rounds)
            cells.append(f"{100 * share:.0f} %")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_between(path: Path, text: str) -> None:
    """Put *text* between the marks in a file."""
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    path.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}", encoding="utf-8")


def picture(rates: dict[str, float]) -> str:
    """Bars, as SVG that is readable on light and dark pages."""
    width, row, left = 640, 30, 190
    top = max(rates.values())
    height = row * len(rates) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        '<g font-family="sans-serif" font-size="14">',
        "<title>Requests per second at 50 in flight</title>",
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="10" y="22" font-weight="bold">Requests per second, 50 in flight</text>',
    ]
    for index, (name, rate) in enumerate(rates.items()):
        y = 38 + index * row
        length = (width - left - 80) * rate / top
        colour = "#8a8f98" if name.startswith("plain") else "#2563eb"
        parts += [
            f'<text x="{left - 10}" y="{y + 16}" text-anchor="end">{name}</text>',
            f'<rect x="{left}" y="{y}" width="{length:.0f}" height="22" rx="3" fill="{colour}"/>',
            f'<text x="{left + length + 8:.0f}" y="{y + 16}">{rate:,.0f}</text>',
        ]
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"
