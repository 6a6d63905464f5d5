"""The embedded server: what users make, register functions with, and enter."""

from __future__ import annotations

import ipaddress
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, TypeVar

import trio

from trio_dispatch._transport.pipe import pipe
from trio_dispatch.server._assertions import ANYTHING, check_found
from trio_dispatch.server._broker import Broker, PublishedEvent
from trio_dispatch.server._clock import Clock
from trio_dispatch.server._engine import (
    Engine,
    JobFunction,
    JobKind,
    WorkflowFunction,
)
from trio_dispatch.server._failures import holds, only_cancelled
from trio_dispatch.server._http import HttpConnection
from trio_dispatch.server._hub import Hub
from trio_dispatch.server._identity import Tokens
from trio_dispatch.server._methods import Methods
from trio_dispatch.server._quirks import RECORDED, Quirks
from trio_dispatch.server._steering import Freeze, Rule, SteeredStream, Steering
from trio_dispatch.server._store import DEFAULT_MAX_RETRIES, DEFAULT_TIMEOUT_S, Store
from trio_dispatch.server._views import (
    ConnectionView,
    JobView,
    RunView,
    ServerStatistics,
    job_view,
    run_view,
)

if TYPE_CHECKING:
    from trio_dispatch._client.client import Client

J = TypeVar("J", bound=JobFunction)
W = TypeVar("W", bound=WorkflowFunction)

_IN_MEMORY_ROOM: Final = 4 * 1024 * 1024
"""Bytes that may be on their way to a client in memory: about what TCP holds on loopback."""

_LOGGER: Final = logging.getLogger("trio_dispatch.server")


class Server:
    """A Dispatch server in this process, for development and tests. Production runs a real one.

    It keeps everything in memory, speaks the wire as a Dispatch server was recorded to, quirks
    included, and does its waiting by trio's clock, so that it works under a virtual one. A server
    may be entered again after it has ended: its jobs and runs are still there, and attempts that
    the end cut off are made again.

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
        seed: for everything random: ids and retry delays.
        quirks: which surprises of the recorded server it has; all of them by default.
        federation_id: the server's name among its peers, which switches the ``federation.*``
            methods on. They are answered, and no peer is ever called.
        max_message_size: the longest message that is read, in bytes.
        logger: where failures of users' functions go, with their tracebacks. By default the logger
            ``trio_dispatch.server``.
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
        seed: int | None = None,
        quirks: Quirks = RECORDED,
        federation_id: str | None = None,
        max_message_size: int = 16 * 1024 * 1024,
        logger: logging.Logger | None = None,
    ) -> None:
        if not path.startswith("/"):
            raise ValueError("path must begin with a slash")
        if isinstance(queues, str):
            raise TypeError("queues must be a collection of names, not one string")
        if concurrency < 1:
            raise ValueError("concurrency must be at least 1")
        if retry_delay < 0 or max_retry_delay < 0:
            raise ValueError("retry delays must not be negative")
        if max_message_size < 1:
            raise ValueError("max_message_size must be positive")
        logger = logger if logger is not None else _LOGGER
        clock = Clock()
        broker = Broker(quirks)
        self._steering = Steering()
        self._store = Store(None if queues is None else frozenset(queues))
        self._engine = Engine(
            clock=clock,
            store=self._store,
            broker=broker,
            rng=random.Random(seed),  # ids and delays, not secrets
            concurrency=concurrency,
            retry_delay=retry_delay,
            max_retry_delay=max_retry_delay,
            logger=logger,
        )
        self._hub = Hub(
            clock=clock,
            broker=broker,
            engine=self._engine,
            methods=Methods(self._engine, federation_id, quirks, self._steering),
            tokens=tokens,
            path=path.rstrip("/"),
            max_message_size=max_message_size,
            quirks=quirks,
            steering=self._steering,
            logger=logger,
        )
        self._nursery: trio.Nursery | None = None

    # Registering

    def job(
        self,
        name: str,
        *,
        max_retries: int = DEFAULT_MAX_RETRIES,
        timeout: float = DEFAULT_TIMEOUT_S,
    ) -> Callable[[J], J]:
        """Register an async function for the jobs called *name*.

        It is called with the decoded payload, None where there is none. Returning is success,
        raising anything a failure, and so is taking longer than *timeout* seconds. A failed job is
        tried again up to *max_retries* times.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._engine.job_kinds:
            raise ValueError(f"there is a job called {name!r} already")
        if max_retries < 0:
            raise ValueError("max_retries must not be negative")
        if not timeout > 0:
            raise ValueError("timeout must be positive")

        def register(function: J) -> J:
            kind = JobKind(function=function, max_retries=max_retries, timeout=timeout)
            self._engine.job_kinds[name] = kind
            return function

        return register

    def workflow(self, name: str) -> Callable[[W], W]:
        """Register an async function for the workflow called *name*.

        It is called with the run's `Workflow` and the decoded input, None where there is none.
        Returning completes the run, raising anything fails it.

        Raises:
            ValueError: the name is taken.
        """
        if name in self._engine.workflows:
            raise ValueError(f"there is a workflow called {name!r} already")

        def register(function: W) -> W:
            self._engine.workflows[name] = function
            return function

        return register

    # Running

    @asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        """Run the server's workers, without a port, for as long as the block lasts.

        Entered inside another `run` or `serve` of the same server it does nothing: the outermost
        block owns the engine. When that ends, all connections drop, and running work is cancelled.
        What the block raises comes out unchanged.
        """
        if self._nursery is not None:
            yield
            return
        self._hub.clock.follow(trio.current_time)
        body_error: BaseException | None = None
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                await nursery.start(self._engine.run, nursery)
                try:
                    yield
                except BaseException as exc:
                    if isinstance(exc, GeneratorExit) or holds(exc, trio.Cancelled):
                        raise
                    # Raised inside the nursery it would come out in a group.
                    body_error = exc
                nursery.cancel_scope.cancel()
        except BaseException as exc:
            if body_error is None or not only_cancelled(exc):
                raise
        finally:
            self._nursery = None
        if body_error is not None:
            raise body_error

    @asynccontextmanager
    async def serve(self, host: str = "127.0.0.1", port: int = 0) -> AsyncGenerator[str, None]:
        """Listen on a TCP port for as long as the block lasts; gives the WebSocket's URL.

        RPC and event streams are on the same port. Port 0 picks a free one. When the block ends,
        the port's connections drop; work goes on where an outer block runs the engine.
        """
        async with self.run():
            nursery = self._running()
            listeners = await trio.open_tcp_listeners(port, host=host)
            if port == 0:
                # One port, one URL: each address of a name would get a port of its own.
                for extra in listeners[1:]:
                    await extra.aclose()
                del listeners[1:]
            bound: int = listeners[0].socket.getsockname()[1]
            ended = trio.Event()
            scope = await nursery.start(self._listen, listeners, ended)
            try:
                yield f"ws://{_url_host(host)}:{bound}{self._hub.path}"
            finally:
                scope.cancel()
                with trio.CancelScope(shield=True):
                    await ended.wait()

    async def _listen(
        self,
        listeners: list[trio.SocketListener],
        ended: trio.Event,
        task_status: trio.TaskStatus[trio.CancelScope],
    ) -> None:
        try:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    task_status.started(scope)
                    await trio.serve_listeners(self._connect, listeners, handler_nursery=nursery)
        finally:
            ended.set()

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory: one end of a stream whose other end is served as a TCP connection is.

        Needs no socket, and so works under a virtual clock. The server must be running.

        Raises:
            RuntimeError: the server is not running.
        """
        nursery = self._running()
        await trio.lowlevel.checkpoint()
        ours, theirs = pipe(_IN_MEMORY_ROOM)
        nursery.start_soon(self._connect, ours)
        return theirs

    @asynccontextmanager
    async def open_client(
        self,
        *,
        token: str | None = None,
        open_stream: Callable[[], Awaitable[trio.abc.Stream]] | None = None,
        **options: Any,
    ) -> AsyncGenerator[Client, None]:
        """Open a client of this server in memory: real frames, no socket, any clock.

        Runs the server, where it is not running yet, for the length of the block.

        Args:
            token: what the client authenticates with. By default the first of the server's tokens,
                where these are a mapping.
            open_stream: how to reach the server; `open_stream` of a `FaultyProxy` leads there by
                a network that fails.
            options: those of `trio_dispatch.open_client`.

        Raises:
            TypeError: no token is given, and none is known.
            AuthError: the server refused the token.
        """
        from trio_dispatch._client.opening import open_over

        if token is None and "token_provider" not in options:
            if callable(self._hub.tokens):
                raise TypeError("name a token: this server's tokens are a function")
            token = next(iter(self._hub.tokens), None)
        url = options.pop("url", f"ws://localhost{self._hub.path}")
        reach = open_stream or self.open_stream

        async def connect(address: object) -> trio.abc.Stream:  # noqa: ARG001 - there is one server
            return await reach()

        async with self.run(), open_over(connect, url, token=token, **options) as client:
            yield client

    def _running(self) -> trio.Nursery:
        if self._nursery is None:
            raise RuntimeError("the server is not running; enter run() or serve() first")
        return self._nursery

    async def _connect(self, stream: trio.abc.HalfCloseableStream) -> None:
        steering = self._steering
        with trio.CancelScope() as scope:
            steering.connections[scope] = None
            try:
                await HttpConnection(self._hub, SteeredStream(stream, steering)).run()
            finally:
                del steering.connections[scope]

    # Steering

    def refuse(
        self,
        method: str,
        code: int = 500,
        message: str = "refused on request",
        *,
        times: int | None = 1,
    ) -> Rule:
        """Refuse the next requests of *method* with an error of *code*, without carrying them out.

        ``"auth"`` refuses sessions. For *times* requests, None for every one; as a context manager
        it ends with its block.

        Raises:
            ValueError: *times* is less than 1.
        """
        return Rule(self._steering.rules, method, times, code=code, message=message)

    def delay(self, method: str, seconds: float, *, times: int | None = 1) -> Rule:
        """Wait *seconds* before the next requests of *method* are carried out.

        The requests behind them on the same connection wait as well. For *times* requests, None
        for every one; as a context manager it ends with its block.

        Raises:
            ValueError: *times* is less than 1, or *seconds* negative.
        """
        if seconds < 0:
            raise ValueError("seconds must not be negative")
        return Rule(self._steering.rules, method, times, seconds=seconds)

    def freeze(self) -> Freeze:
        """Stand still: read and write nothing on any connection, until `thaw`.

        Connections stay open, and jobs and runs go on. As a context manager it thaws in the end.
        """
        return self._steering.freeze()

    def thaw(self) -> None:
        """Go on with what is waiting. Idempotent."""
        self._steering.thaw()

    def drop_connections(self) -> int:
        """Drop all connections, without a close frame; returns how many there were.

        New ones are accepted. Runs that were started over a WebSocket go on.
        """
        return self._steering.drop_connections()

    def revoke(self, token: str) -> None:
        """Refuse *token* from now on. Sessions that it has opened go on, as on a real server."""
        self._steering.revoked.add(token)

    def reinstate(self, token: str) -> None:
        """Accept a token again that was revoked."""
        self._steering.revoked.discard(token)

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
        await self._engine.run_job(job)
        return job_view(job)

    def publish(self, type: str, topic: str, data: Mapping[str, object]) -> None:
        """Publish an event, true or not, to everybody who subscribed to it.

        Args:
            type: for example ``"job.completed"``.
            topic: what it is about: ``"job:<id>"`` or ``"workflow:<id>"``.
            data: its fields.
        """
        self._engine.publish(type, topic, dict(data))

    async def idle(self) -> None:
        """Wait until nothing moves by itself.

        Then no job that a function is registered for is running or will be tried again, and each
        run has ended or waits for an event. Jobs of queues that no worker takes do not count.
        """
        await self._engine.idle()

    # Looking in

    def assert_enqueued(
        self, name: str, payload: object = ANYTHING, *, count: int | None = None
    ) -> list[JobView]:
        """Assert that jobs called *name* were enqueued; returns them, oldest first.

        Args:
            name: the job's name.
            payload: what its payload is equal to, by way of JSON; anything without.
            count: how many there are; at least one without.

        Raises:
            AssertionError: there are not; the message shows those there are, and how they differ.
        """
        jobs = self.jobs(name)
        ids = check_found(
            f"jobs called {name!r}", payload, count, [(job.id, job.payload) for job in jobs]
        )
        return [job for job in jobs if job.id in ids]

    def assert_started(
        self, name: str, input: object = ANYTHING, *, count: int | None = None
    ) -> list[RunView]:
        """Assert that runs of the workflow *name* were started; as `assert_enqueued`."""
        runs = self.runs(name)
        ids = check_found(f"runs of {name!r}", input, count, [(run.id, run.input) for run in runs])
        return [run for run in runs if run.id in ids]

    def jobs(self, name: str | None = None, state: str | None = None) -> list[JobView]:
        """The jobs, oldest first; those called *name* and in *state* where these are given."""
        return [
            job_view(job)
            for job in self._store.jobs.values()
            if name in {None, job.name} and state in {None, job.state}
        ]

    def runs(self, name: str | None = None, state: str | None = None) -> list[RunView]:
        """The workflow runs, oldest first; those called *name* and in *state* where given."""
        return [
            run_view(run)
            for run in self._store.runs.values()
            if name in {None, run.name} and state in {None, run.state}
        ]

    @property
    def events(self) -> list[PublishedEvent]:
        """The events published, oldest first: the last 100,000 of them."""
        return list(self._hub.broker.history)

    @property
    def connections(self) -> list[ConnectionView]:
        """The live sessions and event streams, oldest first."""
        return [connection.view() for connection in self._hub.connections]

    def statistics(self) -> ServerStatistics:
        """Counts, at this moment."""
        broker = self._hub.broker
        return ServerStatistics(
            jobs=_count(job.state for job in self._store.jobs.values()),
            runs=_count(run.state for run in self._store.runs.values()),
            connections=len(self._hub.connections),
            topics=broker.topic_count,
            frames=self._hub.methods.frames,
            events_published=broker.published,
            events_delivered=broker.deliveries,
            events_dropped=broker.dropped,
            events_waiting=len(self._store.mailbox.kept()),
        )


def _count(states: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for state in states:
        counts[state] = counts.get(state, 0) + 1
    return counts


def _url_host(host: str) -> str:
    """How to reach *host*: a wildcard address by loopback, an IPv6 address in brackets."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"
