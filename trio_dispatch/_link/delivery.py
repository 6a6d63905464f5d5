"""Whether a request is sent again when its connection is lost.

A request that was never written is sent later. A request that was written may or may not have been
carried out. If it only reads, it is sent once more. Otherwise, or at the second loss, it fails with
``maybe_delivered=True``.
"""

from __future__ import annotations

from trio_dispatch._link.requests import Lane, Request, subject
from trio_dispatch._wire.errors import ConnectionLost


def is_sent_again(request: Request) -> bool:
    """Count a loss of *request*'s connection, and return whether it may be sent once more."""
    request.drops += 1
    return request.safe and request.drops == 1


def lost(request: Request, reason: str) -> ConnectionLost:
    """Make the error for a written request that is not sent again."""
    return ConnectionLost(
        f"{subject(request)} was sent, and may have been carried out: {reason}", True
    )


def prepare_again(request: Request) -> None:
    """Let *request* wait for the next connection, ahead of requests that were never written."""
    request.written = False
    if request.lane is not Lane.RESTORE:
        request.lane = Lane.AGAIN
