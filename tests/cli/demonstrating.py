"""What the tests of the demo share: servers that lack things, and a scenario run in memory."""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

import trio

from trio_dispatch.cli.demo.plan import CARD, CARD_RETRIES, ORDER, STOCK, make_plan
from trio_dispatch.cli.demo.progress import Board, Line
from trio_dispatch.cli.demo.report import Report
from trio_dispatch.cli.demo.scenario import Demo
from trio_dispatch.cli.demo.server import charge_card, process_order, sync_stock, work
from trio_dispatch.server import Identity, Quirks, Server

ALL = Identity(subject="all", scopes={"*"})
QUIET = logging.getLogger("tests.cli")
QUIET.propagate = False
QUIET.addHandler(logging.NullHandler())


def foreign_server(
    *,
    jobs: Collection[str] = (),
    workflow: bool = False,
    scopes: Collection[str] = ("*",),
    queues: Collection[str] | None = None,
) -> Server:
    """A server that knows some of the demo's names, and the token ``token``."""
    server = Server(
        tokens={"token": Identity(subject="foreign", scopes=scopes)},
        queues=queues,
        retry_delay=0.02,
        quirks=Quirks(definitions_ignored=False, strays_start=False),
        seed=3,
        logger=QUIET,
    )
    functions: dict[str, Any] = {STOCK: sync_stock, CARD: charge_card}
    for role in jobs:
        server.job(f"demo-{role}", max_retries=CARD_RETRIES if role == CARD else 3)(
            functions.get(role, work)
        )
    if workflow:
        server.workflow(f"demo-{ORDER}")(process_order)
    return server


async def show(server: Server, *, deadline: float = 30.0) -> tuple[Report, Board, list[Line]]:
    """Run the scenario against *server*, in memory, as against somebody else's."""
    lines: list[Line] = []
    plan = make_plan(own_server=False, deadline=deadline)
    async with server.open_client() as client:
        board = Board(plan, lines.append)
        with trio.fail_after(120):
            report = await Demo(client, board).run()
    return report, board, lines
