"""What the demo leaves behind on a server that is not its own, and taking back what can be."""

from __future__ import annotations

from typing import Final

import attrs
import trio

from trio_dispatch import Client, DispatchError
from trio_dispatch.cli.demo.progress import Board
from trio_dispatch.cli.demo.scenario import APPROVAL, QUESTIONS_AT_ONCE

SECONDS: Final = 10.0
"""How long the cleaning up may take; it is done although the demo was cancelled."""


@attrs.define
class Cleaned:
    """What became of what was left."""

    cancelled: int = 0
    approved: bool = False
    left: list[str] = attrs.field(factory=list[str])
    """Jobs that could not be cancelled, and what else is left."""


def left_behind(board: Board) -> bool:
    """Whether something is not over."""
    return board.run.sent or any(row.open_jobs() or row.unanswered for row in board.rows)


async def clean_up(client: Client, board: Board) -> Cleaned:
    """Cancel the jobs that have not ended, and let the run go that waits for its approval.

    The jobs are asked for first: cancelling one that has ended would rewrite how it ended.
    """
    found = Cleaned()
    limit = trio.CapacityLimiter(QUESTIONS_AT_ONCE)

    async def cancel(job_id: str) -> None:
        async with limit:
            try:
                if not (await client.get_job(job_id)).finished:
                    await client.cancel_job(job_id)
                    found.cancelled += 1
            except DispatchError as exc:
                found.left.append(f"{job_id} ({exc})")

    async with trio.open_nursery() as nursery:
        for row in board.rows:
            for job_id in row.open_jobs():
                nursery.start_soon(cancel, job_id)
    if board.run.sent:
        # There is no request that cancels a run. It may wait for this, and ends when it has it.
        try:
            await client.publish_event(board.plan.approval, APPROVAL)
            found.approved = True
        except DispatchError as exc:
            found.left.append(f"the run of {board.plan.workflow} ({exc})")
    for row in board.rows:
        if row.unanswered:
            found.left.append(
                f"up to {row.unanswered} jobs {row.kind.name}, which were being enqueued"
            )
    return found
