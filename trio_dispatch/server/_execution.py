"""One execution of a run, and what it works with."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import attrs
import trio

from trio_dispatch.server._clock import Clock
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._publishing import Publisher
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._store import RUNNING, RunRow, Store


class Execution:
    """One execution of a run by one server.

    Attributes:
        row: the run in the store.
        nursery: where it lives.
        done: set when it has ended.
        scope: cancel it to cancel the run.
        state: ``running``, then how this execution ended, whatever the store was told.
        result: what its function returned, as JSON text; None for None.
        error: why it failed; None where it did not.
        lost_store: whether it failed because the store was away, which the store never learns.
    """

    def __init__(self, row: RunRow, nursery: trio.Nursery) -> None:
        self.row = row
        self.nursery = nursery
        self.began = trio.current_time()
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.state = RUNNING
        self.result: bytes | None = None
        self.error: str | None = None
        self.lost_store = False

    def move(self, nursery: trio.Nursery) -> None:
        """Live in *nursery* from now on."""
        self.nursery = nursery
        scope = trio.CancelScope()
        if self.scope.cancel_called:
            scope.cancel()
        self.scope = scope

    @property
    def is_cut_off(self) -> bool:
        """Whether its server ends, rather than the run."""
        return self.nursery.cancel_scope.cancel_called


class StartRun(Protocol):
    """How a run starts a child."""

    def __call__(
        self, name: str, input: bytes | None, identity: Identity, parent_run_id: str = ""
    ) -> Execution:
        """Start a run of the workflow *name*.

        Raises:
            LookupError: no workflow has that name.
            StoreAway: the store cannot be reached.
        """
        ...


@attrs.frozen(kw_only=True, eq=False)
class Environment:
    """The server that a run is executed by."""

    clock: Clock
    store: Store
    steering: Steering
    publisher: Publisher
    rng: random.Random
    quirks: Quirks
    start_run: StartRun
    notice_change: Callable[[], None]
