"""Several servers on one store, and a balancer before them."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Any, Final, final

import trio

from trio_dispatch._client.client import Client
from trio_dispatch.server._activity import Activity
from trio_dispatch.server._balancer import Balancer, Reach
from trio_dispatch.server._clock import Clock
from trio_dispatch.server._cluster_node import ClusterNode
from trio_dispatch.server._dispatcher import Dispatcher
from trio_dispatch.server._host import Host
from trio_dispatch.server._identity import Tokens
from trio_dispatch.server._inspecting import Inspecting
from trio_dispatch.server._node import Node
from trio_dispatch.server._opening import open_client_over
from trio_dispatch.server._options import check_options
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._registry import Registering, Registry
from trio_dispatch.server._steered import Steered
from trio_dispatch.server._steering import Steering
from trio_dispatch.server._store import DEFAULT_KEEP, Store

_LOGGER: Final = logging.getLogger("trio_dispatch.server")
_POSTGRES: Final = Quirks.postgres()


@final
class StoreOutage:
    """A store that cannot be reached: a context manager that brings it back."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def __enter__(self) -> StoreOutage:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cluster.store_back()


class Cluster(Registering, Inspecting, Steered):
    """Several Dispatch servers in this process that share a store, for development and tests.

    Jobs, runs, timelines and events for workflows are shared. **Published events and ``stats`` are
    each server's own**: a subscriber hears ``job.enqueued`` from the server that took the request,
    and ``job.started`` and what follows from the one whose worker took the job. Which one that is
    is left to chance, by the seed. A run is executed by the server that got its start.

    Register jobs and workflows, and steer, as with `Server`. What is steered here counts for all
    servers; `nodes` can be steered one by one. Registering comes first: a server that starts takes
    up all runs that are in the store unfinished, also those that another one is executing.

    Args:
        tokens: as for `Server`.
        nodes: how many servers.
        path: as for `Server`.
        queues: as for `Server`.
        concurrency: how many jobs run at once on each server.
        retry_delay: as for `Server`.
        max_retry_delay: as for `Server`.
        keep: as for `Server`; the number of events is for each server.
        seed: for everything random, also for which server takes a job.
        quirks: by default those of servers whose store is Postgres.
        max_message_size: as for `Server`.
        logger: as for `Server`.

    Attributes:
        activity: as for `Server`, of all servers.
        nodes: the servers.
        balancer: what `open_client` connects through.

    Raises:
        TypeError, ValueError: an option cannot work.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        nodes: int = 3,
        path: str = "/dwp",
        queues: Collection[str] | None = None,
        concurrency: int = 10,
        retry_delay: float = 1.0,
        max_retry_delay: float = 60.0,
        keep: int = DEFAULT_KEEP,
        seed: int | None = None,
        quirks: Quirks = _POSTGRES,
        max_message_size: int = 16 * 1024 * 1024,
        logger: logging.Logger | None = None,
    ) -> None:
        if nodes < 1:
            raise ValueError("nodes must be at least 1")
        options = check_options(
            tokens,
            path=path,
            queues=queues,
            concurrency=concurrency,
            retry_delay=retry_delay,
            max_retry_delay=max_retry_delay,
            quirks=quirks,
            max_message_size=max_message_size,
            keep=keep,
        )
        self._clock = Clock()
        self._tokens = tokens
        logger = logger if logger is not None else _LOGGER
        self.activity: Final = Activity(logger).logger
        registry = Registry()
        self._rng = rng = random.Random(seed)  # ids and delays, not secrets
        store = Store(options.queues, rng=rng, keep=keep, quirks=quirks)
        steering = Steering()
        Registering.__init__(self, registry)
        Inspecting.__init__(self, store, registry)
        Steered.__init__(self, steering)
        self._dispatcher = Dispatcher(
            clock=self._clock, store=store, registry=registry, rng=rng, waiting=self._all_wait
        )
        self._host = Host(_Work(self._clock, self._dispatcher, lambda: self.nodes))
        self.nodes: tuple[ClusterNode, ...] = tuple(
            ClusterNode(
                index,
                Node(
                    options,
                    clock=self._clock,
                    store=store,
                    registry=registry,
                    rng=rng,
                    logger=logger,
                    steering=Steering(steering),
                ),
                self._dispatcher,
                self._host,
                tokens,
            )
            for index in range(nodes)
        )
        self._next = 0
        self.balancer = Balancer(self._choose, self._host.nursery, options.path)

    def reseed(self, seed: int) -> None:
        """Begin everything random anew, as if *seed* had been given to the constructor."""
        self._rng.seed(seed)

    def _all_wait(self) -> bool:
        return all(node.is_waiting for node in self.nodes)

    def _choose(self) -> Reach | None:
        """How to reach the next server that is running; None if there is none."""
        for offset in range(len(self.nodes)):
            index = (self._next + offset) % len(self.nodes)
            if self.nodes[index].running:
                self._next = index + 1
                return self.nodes[index].open_stream
        return None

    # Running

    @property
    def urls(self) -> list[str]:
        """The servers' URLs for `open_client`: they lead to each of them in memory."""
        return [node.memory_url for node in self.nodes]

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Run all servers, without ports, for as long as the block lasts, as `Server.run`."""
        async with self._host.block():
            yield

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1") -> AsyncGenerator[list[str], None]:
        """Listen on a free TCP port for each server; gives their WebSockets' URLs.

        A server that is stopped closes its port, and opens the same one when it starts again. For
        a port of the balancer, enter ``cluster.balancer.serve()`` inside this block.
        """
        async with self._host.block() as nursery, AsyncExitStack() as stack:
            yield [
                await stack.enter_async_context(node.served(host, nursery)) for node in self.nodes
            ]

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory, through the balancer.

        Raises:
            RuntimeError: the cluster is not running.
        """
        return await self.balancer.open_stream()

    @asynccontextmanager
    async def open_client(
        self,
        *,
        token: str | None = None,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Client, None]:
        """Open a client in memory: through the balancer, or to single servers by their `urls`.

        Runs the servers for the length of the block, unless an enclosing block runs them.

        Args:
            token: as for `Server.open_client`.
            open_stream: how to reach the cluster; through the balancer by default.
            options: those of `trio_dispatch.open_client`. With ``url=cluster.urls`` the client has
                a list of servers; the default leads to the balancer.

        Raises:
            TypeError: no token is given, and none is known.
            AuthError: the server refused the token.
        """
        reach = open_stream or self.open_stream
        hosts = {node.memory_host: node.open_stream for node in self.nodes}

        async def connect(address: Any) -> trio.abc.Stream:
            return await hosts.get(address.host, reach)()

        options.setdefault("url", f"ws://localhost{self.nodes[0].path}")
        async with (
            self._host.block(),
            open_client_over(connect, self._tokens, token, options) as client,
        ):
            yield client

    # Steering

    def store_away(self) -> StoreOutage:
        """Take the store away from all servers, until `store_back`.

        ``job.get``, ``workflow.get`` and ``job.cancel`` are then answered by 404, other methods by
        500. Attempts that end meanwhile are lost, and made again when they are stale; runs that
        need the store fail on their server and stay ``running`` in the store, until a server
        starts and resumes them. As a context manager it brings the store back in the end.
        """
        self._store.go_away()
        return StoreOutage(self)

    def store_back(self) -> None:
        """Bring the store back. Idempotent."""
        self._store.away = False
        self._dispatcher.notice_change()

    def drop_connections(self) -> int:
        """Drop all servers' connections, without a close frame; returns how many there were."""
        return sum(node.drop_connections() for node in self.nodes)

    def publish(self, type: str, topic: str, data: Mapping[str, object]) -> None:
        """Publish an event, true or not, on all servers, as `Server.publish`."""
        for node in self.nodes:
            node.publish(type, topic, data)

    async def idle(self) -> None:
        """Wait until nothing moves by itself, as `Server.idle`."""
        await self._dispatcher.idle()

    def forget(self) -> None:
        """Forget what is over, as `Server.forget`."""
        super().forget()
        for node in self.nodes:
            node.forget_events()


class _Work:
    """A cluster's work, which moves from block to block."""

    def __init__(
        self,
        clock: Clock,
        dispatcher: Dispatcher,
        nodes: Callable[[], tuple[ClusterNode, ...]],
    ) -> None:
        self._clock = clock
        self._dispatcher = dispatcher
        self._nodes = nodes

    async def begin(self, nursery: trio.Nursery) -> None:
        self._clock.follow(trio.current_time)
        for node in self._nodes():
            # Each would resume all runs that an earlier block has left.
            await node.begin(nursery, resume=node.index == 0)
        await nursery.start(self._dispatcher.run)

    async def move(self, nursery: trio.Nursery) -> None:
        for node in self._nodes():
            await node.move(nursery)
        await nursery.start(self._dispatcher.run)

    def end(self) -> None:
        for node in self._nodes():
            node.end()
