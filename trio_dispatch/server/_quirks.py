"""What the recorded server does otherwise than one would expect, each to be switched off."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Quirks:
    """How the server behaves where the recorded one surprises. By default it does as recorded.

    `Quirks.none()` is a server as its description promises; test against both, and your program
    will not mind when servers are corrected. Each field names its fact in the protocol page.
    """

    runs_block: bool = True
    """``workflow.start`` is answered when the run has ended, and holds its connection up till then
    ("Session"). Without: it is answered at once, with the state ``running``."""
    msgpack_as_text: bool = True
    """msgpack travels as text messages ("msgpack"). Without: as binary ones."""
    finite_credits: bool = True
    """A connection gets 1,000 events, and more only for credits ("Credits"), an event stream 1,000
    in all. Without: any number."""
    event_buffer: int | None = 256
    """How many unsent events a connection may have; what comes beyond is dropped without a word
    ("Credits"). None: any number."""
    silent_queues: bool = True
    """``queue:<name>`` can be subscribed and brings nothing ("Events"). Without: the events of
    its jobs."""
    topics_as_channels: bool = True
    """An event frame's ``channel`` is the topic of its entity ("Events"). Without: the channel
    that was subscribed; of several, the narrowest."""
    drops_refused: bool = True
    """A refused ``auth`` drops the connection without a close frame ("Session"). Without: there
    is one, of code 1008."""
    cancel_rewrites: bool = True
    """``job.cancel`` rewrites any job's state, lets a running attempt go on and publishes nothing
    ("Jobs"). Without: a finished job is a 409, a running attempt is cancelled, and there is an
    event ``job.cancelled``."""

    @classmethod
    def none(cls) -> Quirks:
        """All of them switched off."""
        return cls(
            runs_block=False,
            msgpack_as_text=False,
            finite_credits=False,
            event_buffer=None,
            silent_queues=False,
            topics_as_channels=False,
            drops_refused=False,
            cancel_rewrites=False,
        )


RECORDED: Final = Quirks()
"""The recorded server's."""
