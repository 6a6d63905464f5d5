"""Surprising behavior of the recorded server, each of which can be switched off."""

from __future__ import annotations

from typing import Final

import attrs


@attrs.frozen(kw_only=True)
class Quirks:
    """Where the server behaves in surprising ways. By default it behaves as recorded.

    `Quirks.none()` is a server as its description promises; test against both, and your program
    will not mind when servers are corrected. Each field names its fact in the protocol page.
    """

    runs_block: bool = True
    """``workflow.start`` is answered when the run has ended, and holds its connection up till then
    ("Session"). If off: it is answered at once, with the state ``running``."""
    msgpack_as_text: bool = True
    """msgpack travels as text messages ("msgpack"). If off: as binary ones."""
    finite_credits: bool = True
    """A connection gets 1,000 events, and more only for credits ("Credits"), an event stream 1,000
    in all. If off: any number."""
    event_buffer: int | None = 256
    """How many unsent events a connection may have; what comes beyond is dropped silently
    ("Credits"). None: any number."""
    silent_queues: bool = True
    """``queue:<name>`` can be subscribed and brings nothing ("Events"). If off: the events of
    its jobs."""
    topics_as_channels: bool = True
    """An event frame's ``channel`` is the topic of its entity ("Events"). If off: the channel
    that was subscribed; of several, the narrowest."""
    drops_refused: bool = True
    """A refused ``auth`` drops the connection without a close frame ("Session"). If off: there
    is one, of code 1008."""
    cancel_rewrites: bool = True
    """``job.cancel`` rewrites any job's state, lets a running attempt go on and publishes nothing
    ("Jobs"). If off: a finished job is a 409, a running attempt is cancelled, and there is an
    event ``job.cancelled``."""
    definitions_ignored: bool = True
    """``max_retries`` and ``timeout`` of a job's definition do not count for jobs that come over
    the wire: those always have 3 retries and 5 minutes ("Jobs"). If off: they count."""
    strays_start: bool = True
    """``job.started`` is published for a job whose name no worker knows, and again minutes later
    ("Jobs"). If off: such a job stays running without an event."""
    late_starts: bool = True
    """Half of the jobs are started a moment (up to a millisecond) after they were enqueued, so
    that a subscription to ``job:<id>`` that is made right after the enqueue catches
    ``job.started`` half of the time. If off: workers start jobs at once."""
    slow_events: float = 0.01
    """A run that waits for an event looks for it every so many seconds ("Runs and steps"). 0: it
    goes on at once."""
    events_in_order: bool = False
    """Of several kept events of one name the oldest comes first, and a wait for a match looks at
    the oldest alone, so that one that does not match blocks it ("Runs and steps"). If off: any of
    them comes first."""
    events_release_two: bool = False
    """One event may release two waiting runs ("Several servers on one store")."""
    needs_payload: bool = False
    """A job without payload is refused with 500; an explicit null is not ("Several servers…")."""
    loses_versions: bool = False
    """``version`` and ``parent_run_id`` of a run are not kept ("Several servers…")."""
    rows_as_stored: bool = False
    """Rows look as a database keeps them: times have microseconds, and the event in a wait's row
    is not acknowledged yet ("Several servers on one store")."""
    keeps_cancelled_runs: bool = False
    """A run that was cancelled over RPC publishes ``workflow.failed`` and stays ``running`` in the
    store, so that the next start of a server resumes it ("Several servers…")."""

    failed_stay_retrying: bool = False
    """A job that has failed for good stays ``retrying`` in the store ("Several servers…")."""
    cancelled_jobs_run: bool = False
    """A cancelled job that waits for a worker runs all the same ("Several servers…")."""

    @classmethod
    def redis(cls) -> Quirks:
        """What is known of a server whose store is Redis."""
        return cls(slow_events=0.05, failed_stay_retrying=True, cancelled_jobs_run=True)

    @classmethod
    def postgres(cls) -> Quirks:
        """Those of a server whose store is Postgres: what production, and a cluster, has."""
        return cls(
            slow_events=0.05,
            events_in_order=True,
            events_release_two=True,
            needs_payload=True,
            loses_versions=True,
            rows_as_stored=True,
            keeps_cancelled_runs=True,
        )

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
            definitions_ignored=False,
            strays_start=False,
            late_starts=False,
            slow_events=0.0,
        )


RECORDED: Final = Quirks()
"""The recorded server's."""
