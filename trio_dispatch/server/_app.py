"""The embedded server: what users make, register functions with, and enter."""

from __future__ import annotations

import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import trio

from trio_dispatch._client.client import Client
from trio_dispatch.server._broker import PublishedEvent
from trio_dispatch.server._clock import Clock
from trio_dispatch.server._cluster import Cluster
from trio_dispatch.server._dispatcher import Dispatcher
from trio_dispatch.server._host import Host
from trio_dispatch.server._identity import Tokens
from trio_dispatch.server._inspecting import Inspecting
from trio_dispatch.server._node import Node, open_port, url_host
from trio_dispatch.server._opening import open_client_over
from trio_dispatch.server._options import check_options
from trio_dispatch.server._quirks import RECORDED, Quirks
from trio_dispatch.server._registry import Registering, Registry
from trio_dispatch.server._steered import Steered
from trio_dispatch.server._steering import Freeze
from trio_dispatch.server._store import DEFAULT_KEEP, Store
from trio_dispatch.server._views import ConnectionView, JobView, ServerStatistics, job_view

LOGGER: Final = logging.getLogger("trio_dispatch.server")


class Server(Registering, Inspecting, Steered):
    """A Dispatch server in this process, for development and tests. Production runs a real one.

    It keeps everything in memory, speaks the wire as a Dispatch server was recorded to, quirks
    included, and does its waiting by trio's clock, so that it works under a virtual one. Several
    tasks may enter the same server, each in a block of its own. A server may be entered again
    after it has ended: its jobs and runs are still there, attempts that the end cut off are made
    again, and runs are resumed.

    Args:
        tokens: what each token stands for; or a function, sync or async, from a token to its
            `Identity`, None for one that is refused.
        path: where the WebSocket is; RPC and event streams are below it.
        queues: the queues that workers take; None for every queue. Jobs of other queues stay
            pending.
        concurrency: how many jobs run at once.
        retry_delay: the first retry of a failed job comes after a random time of up to this many
            seconds, each later one after up to twice as long as the one before...
        max_retry_delay: ...but no longer than this.
        keep: how many ended jobs, ended runs, published events, and workflow events that no
            run has taken it remembers, of each. The oldest are forgotten first; see `forget`.
        seed: for everything random: ids, retry delays, and races that a real server has.
        quirks: which surprises of the recorded server it has; all of them by default.
        federation_id: the server's name among its peers, which switches the ``federation.*``
            methods on. They are answered, and no peer is ever called.
        max_message_size: the longest message that is read, in bytes.
        logger: where failures of users' functions go, with their tracebacks. By default the logger
            ``trio_dispatch.server``.

    Attributes:
        activity: a logger below the one of *logger*: requests, and what becomes of jobs and runs,
            are logged to it at level INFO.

    Raises:
        TypeError, ValueError: an option cannot work.
    """

    def __init__(
        self,
        tokens: Tokens,
        *,
        path: str = "/dwp",
        queues: Collection[str] | None = None,
        concurrency: int = 10,
        retry_delay: float = 1.0,
        max_retry_delay: float = 60.0,
        keep: int = DEFAULT_KEEP,
        seed: int | None = None,
        quirks: Quirks = RECORDED,
        federation_id: str | None = None,
        max_message_size: int = 16 * 1024 * 1024,
        logger: logging.Logger | None = None,
    ) -> None:
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
            federation_id=federation_id,
        )
        clock = Clock()
        registry = Registry()
        rng = random.Random(seed)  # ids and delays, not secrets
        store = Store(options.queues, rng=rng, keep=keep, quirks=quirks)
        Registering.__init__(self, registry)
        Inspecting.__init__(self, store, registry)
        self._node = Node(
            options,
            clock=clock,
            store=store,
            registry=registry,
            rng=rng,
            logger=logger if logger is not None else LOGGER,
        )
        self._options = options
        self._rng = rng
        self.activity: Final = self._node.activity.logger
        self._engine = self._node.engine
        self._hub = self._node.hub
        self._steering = self._node.steering
        Steered.__init__(self, self._steering)
        self._dispatcher = Dispatcher(
            clock=clock,
            store=store,
            registry=registry,
            rng=rng,
            waiting=self._engine.all_wait,
        )
        self._engine.watchers.append(self._dispatcher.notice_change)
        self._host = Host(_Work(self._node, self._dispatcher))

    def reseed(self, seed: int) -> None:
        """Begin everything random anew, as if *seed* had been given to the constructor."""
        self._rng.seed(seed)

    def as_cluster(self, nodes: int = 3, *, seed: int | None = None) -> Cluster:
        """Make a cluster of servers with this one's options, jobs, workflows and schedules.

        Its servers have the quirks of those whose store is Postgres, unless this one has quirks of
        its own. What is registered later is registered here alone.

        Raises:
            ValueError: *nodes* is less than 1.
        """
        options = self._options
        cluster = Cluster(
            options.tokens,
            nodes=nodes,
            path=options.path,
            queues=options.queues,
            concurrency=options.workers.concurrency,
            retry_delay=options.workers.retry_delay,
            max_retry_delay=options.workers.max_retry_delay,
            keep=options.keep,
            seed=seed,
            quirks=Quirks.postgres() if options.quirks == RECORDED else options.quirks,
            max_message_size=options.max_message_size,
            logger=self._hub.logger,
        )
        cluster._take_over(self._registry)
        return cluster

    # Running

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Run the server's workers, without a port, for as long as the block lasts.

        Other blocks of the same server may overlap, in the same task or in others: the server runs
        until the last of them ends. Connections drop with the block that they were made in.
        Attempts and runs that were under way in a block that ends are begun again in another one,
        runs without the steps that they have done. What the block raises comes out unchanged.
        """
        async with self._host.block():
            yield

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Listen on a TCP port for as long as the block lasts; gives the WebSocket's URL.

        RPC and event streams are on the same port. Port 0 picks a free one. When the block ends,
        the port's connections drop; work continues if another block runs the server.
        """
        async with self._host.block() as nursery:
            listeners, bound = await open_port(host, port)
            ended = trio.Event()
            scope = await nursery.start(self._node.listen, listeners, ended)
            try:
                yield f"ws://{url_host(host)}:{bound}{self._hub.path}"
            finally:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await ended.wait()

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory: one end of a stream whose other end is served as a TCP connection is.

        Needs no socket, and so works under a virtual clock. The server must be running.

        Raises:
            RuntimeError: the server is not running.
        """
        nursery = self._host.nursery()
        await trio.lowlevel.checkpoint()
        return self._node.open_stream(nursery)

    @asynccontextmanager
    async def open_client(
        self,
        *,
        token: str | None = None,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Client, None]:
        """Open a client of this server in memory: real frames, no socket, any clock.

        Runs the server for the length of the block, unless an enclosing block runs it.

        Args:
            token: what the client authenticates with. By default the first of the server's tokens,
                if these are a mapping.
            open_stream: how to reach the server; `open_stream` of a `FaultyProxy` leads there by
                a network that fails.
            options: those of `trio_dispatch.open_client`.

        Raises:
            TypeError: no token is given, and none is known.
            AuthError: the server refused the token.
        """
        reach = open_stream or self.open_stream

        async def connect(address: object) -> trio.abc.Stream:  # noqa: ARG001 - there is one server
            return await reach()

        options.setdefault("url", f"ws://localhost{self._hub.path}")
        async with (
            self._host.block(),
            open_client_over(connect, self._hub.tokens, token, options) as client,
        ):
            yield client

    # Steering

    def freeze(self) -> Freeze:
        """Stand still: read and write nothing on any connection, until `thaw`.

        Connections stay open, and jobs and runs go on. As a context manager it thaws in the end.
        """
        return self._steering.freeze()

    def thaw(self) -> None:
        """Go on with what is waiting. Idempotent."""
        self._steering.thaw()

    async def run_job(self, job_id: str) -> JobView:
        """Make the next attempt at a job, now, in this task; returns the job after it.

        For servers whose workers take nothing (``queues=()``), and retries that are not due. What
        the job's function raises is a failed attempt, as ever. Cancelled, it puts the job back.

        Raises:
            LookupError: there is no such job.
            ValueError: it does not wait for an attempt, or no function is registered for it.
        """
        job = self._store.jobs.get(job_id)
        if job is None:
            raise LookupError(f"there is no job {job_id!r}")
        await self._engine.workers.run_job(job)
        return job_view(job)

    def publish(self, type: str, topic: str, data: Mapping[str, object]) -> None:
        """Publish an event, true or not, to everybody who subscribed to it.

        Args:
            type: for example ``"job.completed"``.
            topic: what it is about: ``"job:<id>"`` or ``"workflow:<id>"``.
            data: its fields.
        """
        self._engine.publisher.raw(type, topic, dict(data))

    async def idle(self) -> None:
        """Wait until nothing moves by itself.

        Then no job that a function is registered for is running or will be tried again, and each
        run has ended or waits for an event. Jobs of queues that no worker takes do not count.
        """
        await self._dispatcher.idle()

    # Looking in

    def forget(self) -> None:
        """Forget what is over: ended jobs and runs, events, and events that no run has taken.

        Work in progress stays. Jobs that never end, because no function is registered for their
        name, are forgotten too. Use it between tests that share a server.
        """
        super().forget()
        self._hub.broker.history.clear()

    @property
    def events(self) -> list[PublishedEvent]:
        """The events published, oldest first: the last of them, as many as *keep* says."""
        return list(self._hub.broker.history)

    @property
    def connections(self) -> list[ConnectionView]:
        """The live sessions and event streams, oldest first."""
        return [connection.view() for connection in self._hub.connections]

    def statistics(self) -> ServerStatistics:
        """Counts, at this moment."""
        return self._node.statistics()


class _Work:
    """A server's work, which moves from block to block."""

    def __init__(self, node: Node, dispatcher: Dispatcher) -> None:
        self._node = node
        self._dispatcher = dispatcher

    async def begin(self, nursery: trio.Nursery) -> None:
        self._node.hub.clock.follow(trio.current_time)
        self._node.engine.start(nursery)
        self._dispatcher.nodes = [self._node.engine]
        await nursery.start(self._dispatcher.run)

    async def move(self, nursery: trio.Nursery) -> None:
        self._node.engine.move(nursery)
        await nursery.start(self._dispatcher.run)

    def end(self) -> None:
        self._node.engine.move(None)
