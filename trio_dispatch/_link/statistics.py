"""What a link counts."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class LinkStatistics:
    """What a link has done and is doing."""

    connected: bool
    connections: int
    """Connections established so far."""
    dials: int
    """Dials so far, failed ones included."""
    queued: int
    """Frames that wait to be written."""
    in_flight: int
    """Requests that are written and not answered."""
    frames_sent: int
    frames_received: int
    strays: int
    """Frames that came and were neither events nor answers to anything that is still waited for."""
    handler_dropped: int
    """Frames that the handler was too slow for."""
