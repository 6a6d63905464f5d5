"""One server of a cluster, as tests see it: it stops, crashes, freezes and starts again."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any, final

import trio

from trio_dispatch._client.client import Client
from trio_dispatch.server._broker import PublishedEvent
from trio_dispatch.server._dispatcher import Dispatcher
from trio_dispatch.server._host import Host
from trio_dispatch.server._identity import Tokens
from trio_dispatch.server._node import Node, open_port, url_host
from trio_dispatch.server._opening import open_client_over
from trio_dispatch.server._steered import Steered
from trio_dispatch.server._steering import Freeze
from trio_dispatch.server._views import ConnectionView, ServerStatistics


class _Port:
    """A port that is open while its server runs."""

    def __init__(self, node: Node, host: str, port: int, nursery: trio.Nursery) -> None:
        self._node = node
        self._host = host
        self.port = port
        self._nursery = nursery
        self._scope: trio.CancelScope | None = None
        self._closed = trio.Event()

    async def open(self) -> None:
        """Listen."""
        listeners, self.port = await open_port(self._host, self.port)
        self._closed = trio.Event()
        self._scope = await self._nursery.start(self._node.listen, listeners, self._closed)

    def close(self) -> None:
        """Listen no more, from the next moment on."""
        if self._scope is not None:
            self._scope.cancel()

    async def wait_closed(self) -> None:
        """Wait until the port is free."""
        if self._scope is not None:
            await self._closed.wait()


@final
class ClusterNode(Steered):
    """One server of a `Cluster`. Clusters make these, and users never do.

    Attributes:
        index: its place in `Cluster.nodes`.
    """

    def __init__(
        self, index: int, node: Node, dispatcher: Dispatcher, host: Host, tokens: Tokens
    ) -> None:
        super().__init__(node.steering)
        self.index = index
        self._node = node
        self._dispatcher = dispatcher
        self._host = host
        self._tokens = tokens
        self._life: trio.Nursery | None = None
        self._ports: list[_Port] = []
        self.memory_host = f"node-{index + 1}.localhost"
        self.path = node.hub.path
        node.engine.watchers.append(dispatcher.notice_change)

    def __repr__(self) -> str:
        state = "frozen" if self.frozen else "running" if self.running else "stopped"
        return f"<ClusterNode {self.index}: {state}>"

    @property
    def memory_url(self) -> str:
        """Its URL for `Cluster.open_client`."""
        return f"ws://{self.memory_host}{self.path}"

    @property
    def running(self) -> bool:
        """Whether it has been started, and neither stopped nor killed."""
        return self._life is not None

    @property
    def frozen(self) -> bool:
        """Whether it stands still."""
        return self._steering.frozen

    @property
    def is_waiting(self) -> bool:
        """Whether all its runs wait for events."""
        return not self.running or self._node.engine.all_wait()

    # Life

    async def start(self) -> None:
        """Start it again; no effect if it is running.

        It resumes all runs that are in the store unfinished, also those that another server is
        executing, and then listens.

        Raises:
            RuntimeError: the cluster is not running.
        """
        if self.running:
            return
        await self.begin(self._host.nursery())
        for port in self._ports:
            await port.wait_closed()
            await port.open()

    async def stop(self, grace: float = 30.0) -> None:
        """Stop it in an orderly way: drop its connections, and let its attempts at jobs end.

        Attempts that take longer than *grace* seconds are put back for others. Runs are cut off,
        and stay ``running`` in the store until a server starts.
        """
        life = self._life
        if life is None:
            return
        self._life = None
        self._leave()
        self._node.engine.stop()
        with trio.move_on_after(grace):
            while self._node.engine.busy:
                await self._dispatcher.wait_change()
        life.cancel_scope.cancel()
        for port in self._ports:
            await port.wait_closed()

    def kill(self) -> None:
        """Let it crash: connections drop, and all that it was doing is cut off.

        Others take its jobs over when nothing was heard of them for 30 s. Its runs stay
        ``running`` in the store until a server starts.
        """
        life = self._life
        if life is None:
            return
        self._life = None
        self._leave()
        self._node.engine.kill()
        life.cancel_scope.cancel()

    def freeze(self) -> Freeze:
        """Stand still, as a stopped process does, until `thaw`; connections stay open.

        No attempt and no step of a run ends meanwhile, and others take its jobs over when nothing
        was heard of them for 30 s. As a context manager it thaws in the end.
        """
        self._steering.freeze()
        self._steering.stop_work()
        self._node.engine.workers.freeze()
        return Freeze(self.thaw)

    def thaw(self) -> None:
        """Go on. Idempotent."""
        self._steering.thaw()
        self._steering.resume_work()
        self._node.engine.workers.thaw()

    def _leave(self) -> None:
        self.thaw()
        for port in self._ports:
            port.close()
        self._steering.drop_connections()
        if self._node.engine in self._dispatcher.nodes:
            self._dispatcher.nodes.remove(self._node.engine)

    async def begin(self, nursery: trio.Nursery, *, resume: bool = True) -> None:
        """Work in *nursery*. For the cluster alone."""
        life: trio.Nursery = await nursery.start(_live)
        self._life = life
        self._node.engine.start(life, resume=resume)
        if self._node.engine not in self._dispatcher.nodes:
            self._dispatcher.nodes.append(self._node.engine)

    async def move(self, nursery: trio.Nursery) -> None:
        """Work in *nursery* instead. For the cluster alone."""
        if self.running:
            self._life = await nursery.start(_live)
            self._node.engine.move(self._life)

    def end(self) -> None:
        """Work no more. For the cluster alone."""
        self._life = None
        self.thaw()
        self._node.engine.move(None)
        self._dispatcher.nodes.clear()

    @asynccontextmanager
    async def served(self, host: str, nursery: trio.Nursery) -> AsyncGenerator[str, None]:
        """Listen while it is running, for the length of a block. For the cluster alone."""
        port = _Port(self._node, host, 0, nursery)
        await port.open()
        self._ports.append(port)
        try:
            yield f"ws://{url_host(host)}:{port.port}{self.path}"
        finally:
            self._ports.remove(port)
            port.close()
            with trio.CancelScope(shield=True):
                await port.wait_closed()

    # Clients

    async def open_stream(self) -> trio.abc.HalfCloseableStream:
        """Connect in memory, past the balancer.

        Raises:
            ConnectionRefusedError: it is not running.
            RuntimeError: the cluster is not running.
        """
        nursery = self._host.nursery()
        await trio.lowlevel.checkpoint()
        if not self.running:
            raise ConnectionRefusedError(f"node {self.index} is not running")
        return self._node.open_stream(nursery)

    @asynccontextmanager
    async def open_client(
        self, *, token: str | None = None, **options: Any
    ) -> AsyncGenerator[Client, None]:
        """Open a client of this server alone, in memory. The cluster must be running.

        Args:
            token: as for `Server.open_client`.
            options: those of `trio_dispatch.open_client`.
        """

        async def connect(address: object) -> trio.abc.Stream:  # noqa: ARG001 - there is one server
            return await self.open_stream()

        options.setdefault("url", self.memory_url)
        async with open_client_over(connect, self._tokens, token, options) as client:
            yield client

    # Looking in

    def publish(self, type: str, topic: str, data: Mapping[str, object]) -> None:
        """Publish an event, true or not, to its subscribers, as `Server.publish`."""
        self._node.engine.publisher.raw(type, topic, dict(data))

    @property
    def events(self) -> list[PublishedEvent]:
        """The events that it has published, oldest first."""
        return list(self._node.broker.history)

    def forget_events(self) -> None:
        """Forget the events that it has published."""
        self._node.broker.history.clear()

    @property
    def connections(self) -> list[ConnectionView]:
        """Its live sessions and event streams, oldest first."""
        return [connection.view() for connection in self._node.hub.connections]

    def statistics(self) -> ServerStatistics:
        """Counts, at this moment; jobs and runs are those of the store."""
        return self._node.statistics()


async def _live(task_status: trio.TaskStatus[trio.Nursery]) -> None:
    async with trio.open_nursery() as nursery:
        task_status.started(nursery)
        await trio.sleep_forever()
