"""The programs that are compared, each in a process of its own.

``python contenders.py NAME URL`` reads one JSON command on each line of standard input, does it,
and writes the figures as one line of JSON.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

TOKEN: Final = "t"
PAYLOAD: Final = {"to": "user@example.com", "subject": "hello"}

Figures = dict[str, Any]


def rss() -> int:
    """Bytes of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def kib(text: object) -> str:
    return "x" * (int(str(text)) - 20)


class Stopwatch:
    """Wall time and CPU time of a block."""

    def __enter__(self) -> Stopwatch:
        gc.collect()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *args: object) -> None:
        self.wall = time.perf_counter() - self._wall
        self.cpu = time.process_time() - self._cpu


class Contender:
    """What is measured of all of them in the same way, by an `enqueue` of their own."""

    enqueue: Callable[[object], Awaitable[object]]
    side_by_side: Callable[[Callable[[], Awaitable[None]], int], Awaitable[None]]

    async def latency(self, count: int) -> Figures:
        enqueue, times = self.enqueue, []
        with Stopwatch() as watch:
            for _ in range(count):
                begin = time.perf_counter()
                await enqueue(PAYLOAD)
                times.append(time.perf_counter() - begin)
        return {"median": statistics.median(times), "cpu": watch.cpu / count, "wall": watch.wall}

    async def throughput(self, count: int, in_flight: int, size: int = 0) -> Figures:
        enqueue = self.enqueue
        payload: object = kib(size) if size else PAYLOAD

        async def work() -> None:
            for _ in range(count // in_flight):
                await enqueue(payload)

        with Stopwatch() as watch:
            await self.side_by_side(work, in_flight)
        done = count // in_flight * in_flight
        return {"rate": done / watch.wall, "cpu": watch.cpu / done, "wall": watch.wall}


class Ours(Contender):
    """This library."""

    def __init__(self, url: str, transport: str, format: str) -> None:
        import trio

        import trio_dispatch

        self.trio, self.lib = trio, trio_dispatch
        self.url = url
        self.options: Any = {"token": TOKEN, "transport": transport, "format": format}

    def run(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        self.trio.run(self._main, serve)

    async def _main(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        async with self.lib.open_client(self.url, **self.options) as self.client:
            await serve(self)

    async def read_line(self) -> str:
        return await self.trio.to_thread.run_sync(sys.stdin.readline)

    async def request(self, method: str, data: object = None) -> Any:
        return await self.client.request(method, data)

    def enqueue(self, payload: object) -> Awaitable[object]:
        return self.client.enqueue("send-email", payload)

    async def side_by_side(self, work: Callable[[], Awaitable[None]], times: int) -> None:
        async with self.trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(work)

    async def many(self, count: int) -> Figures:
        entries = [self.lib.EnqueueRequest("send-email", PAYLOAD) for _ in range(count)]
        with Stopwatch() as watch:
            handles = await self.client.enqueue_many(entries)
        assert len(handles) == count
        return {"rate": count / watch.wall, "cpu": watch.cpu / count, "wall": watch.wall}

    async def events(self, count: int, subscriptions: int = 1) -> Figures:
        async with self.trio.open_nursery() as nursery:
            for number in range(subscriptions - 1):
                await nursery.start(self._hold, f"job:{number}")
            async with self.client.subscribe("jobs", buffer=count) as events:
                with Stopwatch() as watch:
                    await self.request("bench.events", {"events": count})
                    left = count
                    async for _ in events:
                        left -= 1
                        if not left:
                            break
            nursery.cancel_scope.cancel()
        return {"rate": count / watch.wall, "cpu": watch.cpu / count, "wall": watch.wall}

    async def _hold(self, channel: str, *, task_status: Any) -> None:
        async with self.client.subscribe(channel):
            task_status.started()
            await self.trio.sleep_forever()

    async def connect(self, count: int) -> Figures:
        times = []
        with Stopwatch() as watch:
            for _ in range(count):
                begin = time.perf_counter()
                async with self.lib.open_client(self.url, **self.options):
                    times.append(time.perf_counter() - begin)
        return {"median": statistics.median(times), "cpu": watch.cpu / count, "wall": watch.wall}

    async def memory(self) -> Figures:
        clients, subscriptions, events = 200, 1_000, 10_000
        gc.collect()
        figures: Figures = {}
        async with self.trio.open_nursery() as nursery:
            before = rss()
            for _ in range(clients):
                await self.lib.connect_client(nursery, self.url, **self.options)
            gc.collect()
            figures["client"] = (rss() - before) / clients
            before = rss()
            for number in range(subscriptions):
                await nursery.start(self._hold, f"job:{number}")
            gc.collect()
            # Each has a task of its own here, as the block around it needs one.
            figures["subscription and its task"] = (rss() - before) / subscriptions
            before = rss()
            for _ in range(subscriptions):
                await nursery.start(self._idle)
            gc.collect()
            task = (rss() - before) / subscriptions
            figures["subscription"] = figures["subscription and its task"] - task
            async with self.client.subscribe("jobs", buffer=events) as stored:
                before = rss()
                await self.request("bench.events", {"events": events})
                while stored.statistics().stored < events:
                    await self.trio.sleep(0.01)
                gc.collect()
                figures["10,000 events"] = rss() - before
            nursery.cancel_scope.cancel()
        return figures

    async def _idle(self, *, task_status: Any) -> None:
        with self.trio.CancelScope():
            task_status.started()
            await self.trio.sleep_forever()

    async def restore(self, subscriptions: int, delay: float) -> Figures:
        options = self.options | {"min_reconnect_delay": 0.001, "max_reconnect_delay": 0.001}
        async with (
            self.lib.open_client(self.url, **options) as client,
            self.trio.open_nursery() as nursery,
        ):

            async def hold(number: int, *, task_status: Any) -> None:
                async with client.subscribe(f"job:{number}") as events:
                    task_status.started()
                    gap = await events.receive()
                    assert gap.type == "stream.gap"
                    back.append(self.trio.current_time())
                    if len(back) == subscriptions:
                        all_back.set()

            back: list[float] = []
            all_back = self.trio.Event()
            for number in range(subscriptions):
                await nursery.start(hold, number)
            await client.send(self.lib.Frame(id="x", method="bench.drop", data={"delay": delay}))
            with Stopwatch() as watch:
                await all_back.wait()
            await client.request("bench.delay", {"delay": 0})
        return {"seconds": watch.wall, "cpu": watch.cpu, "round trips": watch.wall / delay}


class PlainTrio(Contender):
    """A loop on trio-websocket as one writes it: a reader task, and an event for each request."""

    def __init__(self, url: str) -> None:
        import trio
        import trio_websocket

        self.trio, self.ws_library = trio, trio_websocket
        self.url = url
        self.waiting: dict[str, list[Any]] = {}
        self.last_id = 0

    def run(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        self.trio.run(self._main, serve)

    async def _main(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        async with (
            self.ws_library.open_websocket_url(self.url) as self.ws,
            self.trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._read)
            await self.request("auth", {"token": TOKEN, "format": "json"})
            await serve(self)
            nursery.cancel_scope.cancel()

    async def read_line(self) -> str:
        return await self.trio.to_thread.run_sync(sys.stdin.readline)

    async def _read(self) -> None:
        while True:
            frame = json.loads(await self.ws.get_message())
            slot = self.waiting.pop(frame["correl_id"])
            slot[1] = frame
            slot[0].set()

    async def request(self, method: str, data: object = None) -> Any:
        self.last_id += 1
        id = str(self.last_id)
        slot = self.waiting[id] = [self.trio.Event(), None]
        frame = {"id": id, "type": "request", "method": method, "data": data}
        await self.ws.send_message(json.dumps(frame))
        await slot[0].wait()
        return slot[1]["data"]

    async def enqueue(self, payload: object) -> Any:
        return await self.request("job.enqueue", {"name": "send-email", "payload": payload})

    async def side_by_side(self, work: Callable[[], Awaitable[None]], times: int) -> None:
        async with self.trio.open_nursery() as nursery:
            for _ in range(times):
                nursery.start_soon(work)


class PlainAsyncio(Contender):
    """A loop on asyncio and websockets: a reader task, JSON, and a future for each request."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waiting: dict[str, asyncio.Future[Any]] = {}
        self.last_id = 0
        self.events_to_come = 0

    def run(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        asyncio.run(self._main(serve))

    async def _main(self, serve: Callable[[Any], Awaitable[None]]) -> None:
        from websockets.asyncio.client import connect

        async with connect(self.url, compression=None, max_size=None) as self.ws:
            reader = asyncio.create_task(self._read())
            await self.request("auth", {"token": TOKEN, "format": "json"})
            await serve(self)
            reader.cancel()

    async def read_line(self) -> str:
        return await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

    async def _read(self) -> None:
        async for message in self.ws:
            frame = json.loads(message)
            if frame["type"] == "event":
                self.events_to_come -= 1
                if not self.events_to_come:
                    self.all_events.set()
            else:
                self.waiting.pop(frame["correl_id"]).set_result(frame)

    async def request(self, method: str, data: object = None) -> Any:
        self.last_id += 1
        id = str(self.last_id)
        future = self.waiting[id] = asyncio.get_running_loop().create_future()
        frame = {"id": id, "type": "request", "method": method, "data": data}
        await self.ws.send(json.dumps(frame))
        return (await future)["data"]

    async def enqueue(self, payload: object) -> Any:
        return await self.request("job.enqueue", {"name": "send-email", "payload": payload})

    async def side_by_side(self, work: Callable[[], Awaitable[None]], times: int) -> None:
        await asyncio.gather(*(work() for _ in range(times)))

    async def many(self, count: int) -> Figures:
        with Stopwatch() as watch:
            await asyncio.gather(*(self.enqueue(PAYLOAD) for _ in range(count)))
        return {"rate": count / watch.wall, "cpu": watch.cpu / count, "wall": watch.wall}

    async def events(self, count: int) -> Figures:
        self.events_to_come, self.all_events = count, asyncio.Event()
        with Stopwatch() as watch:
            await self.request("bench.events", {"events": count})
            await self.all_events.wait()
        return {"rate": count / watch.wall, "cpu": watch.cpu / count, "wall": watch.wall}

    async def connect(self, count: int) -> Figures:
        from websockets.asyncio.client import connect

        times = []
        auth = {"id": "a", "type": "request", "method": "auth", "data": {"token": TOKEN}}
        with Stopwatch() as watch:
            for _ in range(count):
                begin = time.perf_counter()
                async with connect(self.url, compression=None) as ws:
                    await ws.send(json.dumps(auth))
                    json.loads(await ws.recv())
                    times.append(time.perf_counter() - begin)
        return {"median": statistics.median(times), "cpu": watch.cpu / count, "wall": watch.wall}


CONTENDERS: Final[dict[str, Callable[[str], Any]]] = {
    "websockets, json": lambda url: Ours(url, "websockets", "json"),
    "websockets, msgpack": lambda url: Ours(url, "websockets", "msgpack"),
    "trio-websocket, json": lambda url: Ours(url, "trio-websocket", "json"),
    "trio-websocket, msgpack": lambda url: Ours(url, "trio-websocket", "msgpack"),
    "plain trio-websocket": PlainTrio,
    "plain asyncio": PlainAsyncio,
}


async def serve(contender: Any) -> None:
    """Do what standard input says, until it ends."""
    print("{}", flush=True)
    while line := await contender.read_line():
        command = json.loads(line)
        before = (await contender.request("bench.cpu"))["cpu"]
        figures = await getattr(contender, command.pop("do"))(**command)
        after = (await contender.request("bench.cpu"))["cpu"]
        if "wall" in figures:
            figures["responder"] = (after - before) / figures["wall"]
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    gc.freeze()
    CONTENDERS[sys.argv[1]](sys.argv[2]).run(serve)
