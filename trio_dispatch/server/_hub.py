"""What all connections of one server share."""

from __future__ import annotations

import logging
from typing import Protocol

import attrs

from trio_dispatch.server._activity import Activity
from trio_dispatch.server._broker import Broker
from trio_dispatch.server._clock import Clock
from trio_dispatch.server._engine import Engine
from trio_dispatch.server._identity import Identity, Tokens, authenticate
from trio_dispatch.server._methods import Methods
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._views import ConnectionView


class Viewed(Protocol):
    """A connection that shows itself in `Server.connections`."""

    def view(self) -> ConnectionView: ...


@attrs.frozen(kw_only=True, eq=False)
class Hub:
    """The rooms that every connection works with, and the list of live ones."""

    clock: Clock
    broker: Broker
    engine: Engine
    methods: Methods
    tokens: Tokens = attrs.field(repr=False)
    path: str
    max_message_size: int
    quirks: Quirks
    steering: Steering
    logger: logging.Logger
    activity: Activity
    connections: dict[Viewed, None] = attrs.field(factory=dict[Viewed, None], repr=False)

    async def authenticate(self, token: str) -> Identity | None:
        """Find out what *token* stands for; None when it is refused."""
        found: Identity | None = None
        if not self.steering.is_revoked(token):
            found = await authenticate(self.tokens, token, self.logger)
        if found is None and self.activity.wanted:
            self.activity.refused_token()
        return found
