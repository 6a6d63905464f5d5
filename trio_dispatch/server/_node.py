"""One server of one or several on a store: its work, its connections, its port."""

from __future__ import annotations

import ipaddress
import logging
import random
from typing import Final

import trio

from trio_dispatch._transport.listening import serve_listeners
from trio_dispatch._transport.pipe import pipe
from trio_dispatch.server._activity import Activity
from trio_dispatch.server._broker import Broker, PublishedEvent
from trio_dispatch.server._clock import Clock
from trio_dispatch.server._engine import Engine
from trio_dispatch.server._http import ServerConnection
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._methods import Methods
from trio_dispatch.server._options import Options
from trio_dispatch.server._registry import Registry
from trio_dispatch.server._steering import SteeredStream, Steering
from trio_dispatch.server._store import Store
from trio_dispatch.server._views import ServerStatistics, count

_IN_MEMORY_ROOM: Final = 4 * 1024 * 1024
"""Bytes that may be on their way to a client in memory: about what TCP holds on loopback."""


class Node:
    """One server. *clock*, *store*, *registry* and *rng* may be shared with others."""

    def __init__(
        self,
        options: Options,
        *,
        clock: Clock,
        store: Store,
        registry: Registry,
        rng: random.Random,
        logger: logging.Logger,
        steering: Steering | None = None,
    ) -> None:
        self.steering = steering or Steering()
        self.activity = Activity(logger)
        self.broker = Broker(options.quirks, options.keep)
        self.broker.on_publish = self._log_event
        self.engine = Engine(
            clock=clock,
            store=store,
            registry=registry,
            broker=self.broker,
            steering=self.steering,
            rng=rng,
            quirks=options.quirks,
            options=options.workers,
            logger=logger,
        )
        self.methods = Methods(
            self.engine, options.federation_id, options.quirks, self.steering, self.activity
        )
        self.hub = Hub(
            clock=clock,
            broker=self.broker,
            engine=self.engine,
            methods=self.methods,
            tokens=options.tokens,
            path=options.path.rstrip("/"),
            max_message_size=options.max_message_size,
            quirks=options.quirks,
            steering=self.steering,
            logger=logger,
            activity=self.activity,
        )

    def _log_event(self, event: PublishedEvent) -> None:
        if self.activity.wanted:
            self.activity.event(event)

    def statistics(self) -> ServerStatistics:
        """Counts, at this moment."""
        store, broker = self.engine.store, self.broker
        return ServerStatistics(
            jobs=count(job.state for job in store.jobs.values()),
            runs=count(run.state for run in store.runs.values()),
            connections=len(self.hub.connections),
            topics=broker.topic_count,
            frames=self.methods.frames,
            events_published=broker.published,
            events_delivered=broker.deliveries,
            events_dropped=broker.dropped,
            events_waiting=len(store.awaited.kept()),
        )

    def open_stream(self, nursery: trio.Nursery) -> trio.abc.HalfCloseableStream:
        """Connect in memory; the other end is served in *nursery*."""
        ours, theirs = pipe(_IN_MEMORY_ROOM)
        nursery.start_soon(self.connect, ours)
        return theirs

    async def connect(self, stream: trio.abc.HalfCloseableStream) -> None:
        """Serve one connection."""
        steering = self.steering
        with trio.CancelScope() as scope:
            steering.connections[scope] = None
            try:
                await ServerConnection(self.hub, SteeredStream(stream, steering)).run()
            finally:
                del steering.connections[scope]

    async def listen(
        self,
        listeners: list[trio.SocketListener],
        ended: trio.Event,
        task_status: trio.TaskStatus[trio.CancelScope] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve what connects to *listeners*, until the scope that is given is cancelled."""
        try:
            with trio.CancelScope() as scope:
                task_status.started(scope)
                await serve_listeners(self.connect, listeners)
        finally:
            ended.set()


async def open_port(host: str, port: int) -> tuple[list[trio.SocketListener], int]:
    """Listen on a port, 0 for a free one; returns the listeners and the port."""
    listeners = await trio.open_tcp_listeners(port, host=host)
    if port == 0:
        # One port, one URL: each address of a name would get a port of its own.
        for extra in listeners[1:]:
            await extra.aclose()
        del listeners[1:]
    bound: int = listeners[0].socket.getsockname()[1]
    return listeners, bound


def url_host(host: str) -> str:
    """How to reach *host*: a wildcard address by loopback, an IPv6 address in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"
