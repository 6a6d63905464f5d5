"""Measures this library beside plain loops on the libraries that it is built on.

``nox -s bench`` runs it. All contenders are processes of their own, which take turns, in many
rounds, against one responder; the figures are medians over the rounds, and the spread beside them
is from the lowest to the highest. What counts are the ratios: the machine cancels out of them.

Options: ``--rounds N`` (7), ``--quick`` (a twentieth of the work, to see that it works),
``--json FILE`` (all figures), ``--write`` (the table and the picture into the documentation).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

from contenders import CONTENDERS
from report import Ratio, picture, ratio_table, table, write_between

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent

FAST, TRIO = "websockets, json", "trio-websocket, json"
OURS: Final = (FAST, "websockets, msgpack", TRIO, "trio-websocket, msgpack")
PLAIN_TRIO, PLAIN_ASYNCIO = "plain trio-websocket", "plain asyncio"
ALL: Final = (*OURS, PLAIN_TRIO, PLAIN_ASYNCIO)


class Scenario(NamedTuple):
    """Something that is measured."""

    title: str
    command: dict[str, Any]
    figures: tuple[tuple[str, str], ...]
    """(name, unit) of the figures that are shown."""
    contenders: tuple[str, ...] = ALL
    fresh: int = 0
    """How often it is done in processes of its own; 0: in each round, in those of the others."""


RATE, CPU = ("rate", "/s"), ("cpu", "µs")


def throughput(in_flight: int, count: int, **options: Any) -> dict[str, Any]:
    return {"do": "throughput", "count": count, "in_flight": in_flight, **options}


SCENARIOS: Final = {
    "latency": Scenario(
        "One request after another, in a new process",
        {"do": "latency", "count": 3_000},
        (("median", "µs"), CPU),
        fresh=5,
    ),
    "latency later": Scenario(
        "One request after another, in a process that has already handled large messages",
        {"do": "latency", "count": 1_500},
        (("median", "µs"), CPU),
    ),
    "10": Scenario("10 requests in flight", throughput(10, 4_000), (RATE, CPU)),
    "50": Scenario("50 requests in flight", throughput(50, 6_000), (RATE, CPU)),
    "500": Scenario("500 requests in flight", throughput(500, 6_000), (RATE, CPU)),
    "1 KiB": Scenario("Payloads of 1 KiB, 50 in flight", throughput(50, 4_000, size=1024), (RATE,)),
    "1 MiB": Scenario(
        "Payloads of 1 MiB, 4 in flight", throughput(4, 60, size=1024**2), (RATE,), fresh=3
    ),
    "many": Scenario(
        "10,000 jobs at once",
        {"do": "many", "count": 10_000},
        (RATE, CPU),
        (*OURS, PLAIN_ASYNCIO),
    ),
    "events": Scenario(
        "Events into one subscription",
        {"do": "events", "count": 20_000},
        (RATE, CPU),
        (*OURS, PLAIN_ASYNCIO),
    ),
    "events 100": Scenario(
        "Events with 100 subscriptions, of which one matches",
        {"do": "events", "count": 20_000, "subscriptions": 100},
        (RATE, CPU),
        OURS,
    ),
    "connect": Scenario(
        "Connecting and authenticating",
        {"do": "connect", "count": 60},
        (("median", "µs"),),
        (*OURS, PLAIN_ASYNCIO),
    ),
    "restore": Scenario(
        "Restoring 1,000 subscriptions, 50 ms for a round trip",
        {"do": "restore", "subscriptions": 1_000, "delay": 0.05},
        (("seconds", "s"), ("round trips", "")),
        (FAST, TRIO),
        fresh=1,
    ),
    "memory": Scenario(
        "Memory",
        {"do": "memory"},
        (("client", "KiB"), ("subscription", "KiB"), ("10,000 events", "KiB")),
        (FAST, TRIO),
        fresh=1,
    ),
}

Results = dict[str, dict[str, list[dict[str, float]]]]
"""Scenario, contender, rounds, figures."""


def median(results: Results, scenario: str, contender: str, figure: str) -> float:
    return statistics.median(turn[figure] for turn in results[scenario][contender])


def ratios(results: Results) -> list[Ratio]:
    def m(scenario: str, contender: str, figure: str) -> float:
        return median(results, scenario, contender, figure)

    def beside(scenario: str, figure: str, ours: str, theirs: str, goal: str, title: str) -> Ratio:
        return Ratio(title, m(scenario, ours, figure) / m(scenario, theirs, figure), goal)

    kib = 1024
    return [
        beside("50", "rate", FAST, PLAIN_ASYNCIO, "≥ 1.5",
               "requests/s at 50 in flight, websockets transport ÷ asyncio loop"),
        beside("50", "cpu", FAST, PLAIN_ASYNCIO, "≤ 0.7",
               "CPU per request at 50 in flight, websockets transport ÷ asyncio loop"),
        beside("50", "rate", TRIO, PLAIN_TRIO, "≥ 1.5",
               "requests/s at 50 in flight, trio-websocket transport ÷ trio-websocket loop"),
        beside("latency", "median", FAST, PLAIN_ASYNCIO, "≤ 0.9",
               "sequential latency, websockets transport ÷ asyncio loop, in new processes"),
        beside("latency later", "median", FAST, PLAIN_ASYNCIO, "≤ 0.9",
               "the same, in processes that have already handled large messages"),
        beside("latency", "median", TRIO, PLAIN_TRIO, "≤ 1.0",
               "sequential latency, trio-websocket transport ÷ trio-websocket loop"),
        beside("many", "rate", FAST, PLAIN_ASYNCIO, "≥ 3",
               "`enqueue_many` of 10,000, websockets transport ÷ asyncio `gather`"),
        beside("events", "cpu", FAST, PLAIN_ASYNCIO, "≤ 1.0",
               "CPU per event into a subscription ÷ asyncio loop that only decodes"),
        Ratio("CPU per request at 500 in flight ÷ at 50",
              m("500", FAST, "cpu") / m("50", FAST, "cpu"), "≤ 1.1"),
        Ratio("CPU per event with 100 subscriptions ÷ with one",
              m("events 100", FAST, "cpu") / m("events", FAST, "cpu"), "≤ 1.2"),
        Ratio("memory of an idle client (KiB)", m("memory", FAST, "client") / kib, "≤ 100"),
        Ratio("memory of a subscription (KiB)", m("memory", FAST, "subscription") / kib, "≤ 4"),
        Ratio("restoring 1,000 subscriptions (round trips)",
              m("restore", FAST, "round trips"), "a few"),
    ]  # fmt: skip


class Process:
    """A contender or the responder, spoken to in lines."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.first_line = self._read()

    def _read(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit("a process of the benchmark has ended; its error is above")
        return line.strip()

    def do(self, command: dict[str, Any]) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        figures: dict[str, float] = json.loads(self._read())
        return figures

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


def contender(name: str, url: str) -> Process:
    return Process(str(HERE / "contenders.py"), name, url)


def measure(rounds: int, scale: Callable[[dict[str, Any]], dict[str, Any]]) -> Results:
    results: Results = defaultdict(lambda: defaultdict(list))
    responder = Process(str(HERE / "responder.py"))
    url = f"ws://127.0.0.1:{responder.first_line}/dwp"
    processes = {name: contender(name, url) for name in CONTENDERS}
    for turn in range(-1, rounds):  # the first is to warm up
        for key, scenario in SCENARIOS.items():
            for name in scenario.contenders if not scenario.fresh else ():
                figures = processes[name].do(scale(scenario.command))
                if turn >= 0:
                    results[key][name].append(figures)
        print(f"round {turn + 1} of {rounds}", file=sys.stderr)
    for process in processes.values():
        process.stop()
    for key, scenario in SCENARIOS.items():
        for _ in range(scenario.fresh):
            for name in scenario.contenders:
                fresh = contender(name, url)
                results[key][name].append(fresh.do(scale(scenario.command)))
                fresh.stop()
    responder.stop()
    return results


def environment() -> str:
    libraries = ", ".join(
        f"{name} {version(name)}" for name in ("trio", "trio-websocket", "websockets")
    )
    return f"Python {platform.python_version()}, {libraries}; {time.strftime('%Y-%m')}, two cores"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()

    def scale(command: dict[str, Any]) -> dict[str, Any]:
        if not options.quick or "count" not in command:
            return dict(command)
        return command | {"count": max(command["count"] // 20, command.get("in_flight", 1))}

    results = measure(options.rounds, scale)
    found = ratios(results)
    tables = "\n".join(
        table(scenario.title, scenario.figures, results[key]) for key, scenario in SCENARIOS.items()
    )
    about = f"Medians of {options.rounds} rounds; {environment()}."
    print(ratio_table(found, goals=True), tables, about, sep="\n")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    if options.write:
        page = f"{ratio_table(found, goals=True)}\n{about}\n\n{tables}"
        write_between(ROOT / "docs" / "guides" / "performance.md", page)
        drawing = picture({name: median(results, "50", name, "rate") for name in ALL})
        (ROOT / "docs" / "throughput.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
