"""Hold two servers against each other: ``python -m tests.server.compare URL1 URL2``.

Each gets the same messages, by a seed, and what they answer is compared. ``embedded`` in place of a
URL is a server of this library, ``embedded-postgres`` one with the quirks of a database. Run it
against servers of your own: it makes jobs and runs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from tests.server.compare.exchanges import Message, Runner
from tests.server.compare.fuzz import Fuzz
from tests.server.compare.normal import without_go_texts, without_results
from tests.server.compare.play import Connect, Player
from tests.server.compare.reference import reference_server
from tests.server.compare.scenarios import SCENARIOS
from trio_dispatch.server import Quirks

_EMBEDDED: Final = {"embedded": Quirks(), "embedded-postgres": Quirks.postgres()}


@asynccontextmanager
async def reaching(url: str) -> AsyncGenerator[tuple[Connect, str], None]:
    """How to connect to the server at *url*, and its path."""
    if url in _EMBEDDED:
        server = reference_server(_EMBEDDED[url])
        async with server.run():
            yield server.open_stream, "/dwp"
        return
    place = urlsplit(url)

    async def connect() -> trio.abc.HalfCloseableStream:
        return await trio.open_tcp_stream(place.hostname or "localhost", place.port or 80)

    yield connect, place.path.rstrip("/") or "/dwp"


async def answers(url: str, messages: list[Message]) -> list[Any]:
    """What the server at *url* answers to each of *messages*."""
    async with reaching(url) as (connect, path), trio.open_nursery() as nursery:
        runner = Runner(connect, path, nursery)
        await runner.prepare()
        found = [await runner.run(message) for message in messages]
        nursery.cancel_scope.cancel()
    return found


async def transcripts(url: str) -> dict[str, Any]:
    """What the server at *url* does in each scenario."""
    async with reaching(url) as (connect, path):
        return {name: await Player(connect, path).play(steps) for name, steps in SCENARIOS.items()}


def comparable(value: Any, *, exact: bool = False) -> str:
    """*value* as text, without what is a server's own."""
    value = without_results(json.loads(json.dumps(value)))
    return json.dumps(value if exact else without_go_texts(value), sort_keys=True)


def main() -> int:
    """Compare, show the differences, and return how many there are, at most 1."""
    parser = argparse.ArgumentParser("python -m tests.server.compare", description=__doc__)
    parser.add_argument("urls", nargs="+", metavar="URL")
    parser.add_argument("-n", type=int, default=1000, help="messages (default: 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--exact", action="store_true", help="compare error texts to the letter")
    parser.add_argument("--show", type=int, default=20, help="differences shown")
    parser.add_argument("--record", type=Path, help="write the answers of the one URL to a file")
    options = parser.parse_args()
    messages = Fuzz(options.seed).messages(options.n)
    if options.record:
        url = options.urls[0]
        found = trio.run(answers, url, messages)
        lines = [{**m.encode(), "got": got} for m, got in zip(messages, found, strict=True)]
        scenarios = trio.run(transcripts, url)
        content = {"scenarios": scenarios, "messages": lines}
        options.record.write_text(json.dumps(content, separators=(",", ":")) + "\n")
        return 0
    first, second = (trio.run(answers, url, messages) for url in options.urls)
    different = 0
    for message, one, other in zip(messages, first, second, strict=True):
        if comparable(one, exact=options.exact) != comparable(other, exact=options.exact):
            different += 1
            if different <= options.show:
                print(f"{message.kind} {message.token} {message.sent!r}")
                print(f"  1: {json.dumps(one)}\n  2: {json.dumps(other)}")
    played = [trio.run(transcripts, url) for url in options.urls]
    for name in SCENARIOS:
        if comparable(played[0][name]) != comparable(played[1][name]):
            different += 1
            print(f"scenario {name}")
            print(f"  1: {comparable(played[0][name])}\n  2: {comparable(played[1][name])}")
    print(f"{len(messages)} messages, {len(SCENARIOS)} scenarios, {different} differences")
    return min(different, 1)


if __name__ == "__main__":
    sys.exit(main())
