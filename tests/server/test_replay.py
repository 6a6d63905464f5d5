"""Every recording of a running Dispatch server, replayed against the embedded one.

By the rules that the recordings' README gives: answers exactly and in order, events as sets, ids of
earlier answers put in, times and ids and Go's own texts not compared. Recordings of several servers
are replayed against a cluster; which server takes a job is chance there, so events of jobs are not
compared, but for the counts that a recording gives.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import Dropped, HttpPeer, Peer
from tests.server.recorded_server import recorded_cluster, recorded_server
from trio_dispatch.server import Cluster, Server

RECORDINGS = Path(__file__).parent.parent / "recordings"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.jsonl"))

CANNOT_REPLAY: dict[str, str] = {}
"""Recordings that the server cannot replay, and why."""


ID = re.compile(r"(?:job|wfrun|evt)_[0-9a-z]{26}")
TIME_FIELDS = {
    "ts",
    "created_at",
    "updated_at",
    "run_at",
    "started_at",
    "completed_at",
    "next_run_at",
    "elapsed_ms",
}
PARALLEL_ROW = re.compile(r"parallel:\w+:\d+")
GO_TEXTS = ("invalid frame: ", "invalid request: ", "unmarshal input for workflow")


def normal(value: Any, key: str = "") -> Any:
    """*value* without what is not compared. Which fields there are is compared, and their order."""
    if isinstance(value, dict):
        if value.get("step_name") in {"calculate-total", "record", "seen"} and "data" in value:
            value = {**value, "data": None}
        return {name: normal(item, name) for name, item in value.items()}
    if isinstance(value, list):
        # Steps that ran side by side ended in either order.
        rows = [normal(item) for item in value]
        side_by_side = [row for row in rows if PARALLEL_ROW.fullmatch(row.get("step_name", ""))]
        ordered = iter(sorted(side_by_side, key=json.dumps))
        return [next(ordered) if row in side_by_side else row for row in rows]
    if key in TIME_FIELDS:
        # Go's zero time is no time.
        return value if isinstance(value, str) and value.startswith("0001") else "<time>"
    if key == "session_id":
        assert re.fullmatch(r"ws_\d{19}", value)
        return "<session>"
    if isinstance(value, str) and key in {"message", "error"}:
        return next((text for text in GO_TEXTS if value.startswith(text)), value)
    if isinstance(value, str) and key == "data":
        # What a wait kept: the event, whose id was told before; or the id of a child.
        text = base64.b64decode(value).decode()
        return normal(json.loads(text)) if text.startswith("{") else text
    return value


def normal_frame(frame: dict[str, Any]) -> str:
    frame = dict(frame)
    if frame.get("id", "").startswith("2026"):
        assert re.fullmatch(r"\d{14}\.\d{9}", frame["id"])
    frame["id"] = "<id>"
    if frame["type"] == "pong":
        ts = frame["ts"]
        return json.dumps({**normal(frame), "ts": ts})
    return json.dumps(normal(frame))


def read(line: dict[str, Any]) -> dict[str, Any]:
    """The frame of a recorded message."""
    frame: dict[str, Any]
    if "text" in line:
        frame = json.loads(line["text"])
        return frame
    return unpack(bytes.fromhex(line["hex"]))


def unpack(payload: bytes) -> dict[str, Any]:
    frame: dict[str, Any] = msgspec.msgpack.decode(payload)
    if "data" in frame:
        frame["data"] = json.loads(frame["data"])
    frame["ts"] = frame["ts"].isoformat().replace("+00:00", "Z")
    if frame["type"] == "pong":
        frame["ts"] = "0001-01-01T00:00:00Z"
    return frame


class Connection:
    """One recorded connection: what was recorded, and what comes now."""

    def __init__(self, name: str, lines: list[dict[str, Any]]) -> None:
        self.name = name
        self.recorded: list[dict[str, Any]] = []
        self.expected_drop = False
        self.last_line = max(index for index, line in enumerate(lines) if self.is_mine(line))
        for line in lines:
            if not self.is_mine(line) or line["sender"] == "client":
                continue
            if line.get("closed"):
                assert line["close_code"] is None
                self.expected_drop = True
            else:
                assert line["opcode"] == "text"
                self.recorded.append(read(line))
        self.received: list[dict[str, Any]] = []
        self.drop: Dropped | None = None
        self.peer: Peer | None = None

    def is_mine(self, line: dict[str, Any]) -> bool:
        return line.get("connection") == self.name

    async def receive(self) -> None:
        assert self.peer is not None
        try:
            while True:
                message = await self.peer.receive()
                assert message.opcode == 1
                is_json = message.payload.startswith(b"{")
                self.received.append(message.json if is_json else unpack(message.payload))
        except Dropped as exc:
            self.drop = exc
        except trio.ClosedResourceError:
            pass

    def answers(self, frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [frame for frame in frames if frame["type"] != "event"]

    def events(self, frames: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [frame for frame in frames if frame["type"] == "event"]


class Replay:
    """One recording, replayed."""

    def __init__(self, scenario: str) -> None:
        self.scenario = scenario
        with (RECORDINGS / f"{scenario}.jsonl").open() as file:
            self.lines = [json.loads(line) for line in file][1:]
        names = {line["connection"]: None for line in self.lines if "connection" in line}
        self.connections = {name: Connection(name, self.lines) for name in names}
        self.ids: dict[str, str] = {}
        """Recorded ids to those of now."""
        self.enqueues = [450, 40]
        self.is_cluster = scenario.startswith(("cluster_", "postgres_", "store_"))
        self.target: Server | Cluster = (
            recorded_cluster() if self.is_cluster else recorded_server(scenario)
        )

    async def open_stream(self, connection: str = "") -> trio.abc.HalfCloseableStream:
        """Connect to the server that *connection* was to."""
        if isinstance(self.target, Cluster):
            return await self.target.nodes[1 if connection.startswith("b") else 0].open_stream()
        return await self.target.open_stream()

    def learn(self) -> None:
        """Learn the ids of now from the answers and events so far."""
        for connection in self.connections.values():
            recorded, received = connection.recorded, connection.received
            for old, new in zip(
                connection.answers(recorded), connection.answers(received), strict=False
            ):
                self.learn_from(old, new)
            waiting = connection.events(received)
            for old in connection.events(recorded):
                for new in waiting:
                    if self.kind(old) == self.kind(new):
                        self.learn_from(old, new)
                        waiting.remove(new)
                        break

    def kind(self, event: dict[str, Any]) -> tuple[str, str]:
        data = event["data"]["data"]
        return event["data"]["type"], data.get("name") or data["job_name"]

    def learn_from(self, old: object, new: object) -> None:
        for before, now in zip(
            ID.findall(json.dumps(old)), ID.findall(json.dumps(new)), strict=False
        ):
            self.ids.setdefault(before, now)

    def translate(self, text: str) -> str:
        return ID.sub(lambda match: self.ids.get(match[0], match[0]), text)

    async def run(self) -> None:
        start = trio.current_time()
        async with self.target.run(), trio.open_nursery() as nursery:
            for index, line in enumerate(self.lines):
                if "http" in line:
                    if "sse" not in line["http"]["path"]:
                        wait = line["http"].get("client_went_away_after_s", 0)
                        await trio.sleep_until(start + line["at"] - wait)
                    await self.exchange(line["http"])
                elif "note" in line:
                    await trio.sleep_until(start + line["at"])
                    await self.obey(line)
                elif line["sender"] == "client":
                    await trio.sleep_until(start + line["at"])
                    self.learn()
                    await self.play(nursery, index, line)
            last = max([line["at"] for line in self.lines])
            await trio.sleep_until(max(start + last, trio.current_time()) + 0.001)
            self.learn()
            for connection in self.connections.values():
                self.compare(connection)
            nursery.cancel_scope.cancel()

    async def play(self, nursery: trio.Nursery, index: int, line: dict[str, Any]) -> None:
        connection = self.connections[line["connection"]]
        if connection.peer is None:
            # Ordinary closes are not recorded: whoever says nothing any more had left by now.
            for other in self.connections.values():
                if other.peer is not None and other.last_line < index and other.drop is None:
                    other.peer.protocol.send_close(1000)
                    await other.peer.flush()
                    await trio.testing.wait_all_tasks_blocked()
                    other.expected_drop = True
                    self.check_close(other)
            connection.peer = Peer(await self.open_stream(connection.name))
            await connection.peer.upgrade()
            nursery.start_soon(connection.receive)
        if line.get("closed"):
            await connection.peer.vanish()
        elif "text" in line:
            await connection.peer.send_text(self.translate(line["text"]))
        else:
            payload = bytes.fromhex(line["hex"])
            for old, new in self.ids.items():
                payload = payload.replace(old.encode(), new.encode())
            await connection.peer.send_binary(payload)

    def check_close(self, connection: Connection) -> None:
        assert connection.drop is not None
        assert connection.drop.code == 1000

    async def obey(self, line: dict[str, Any]) -> None:
        """Do what a note says, or check it."""
        target = self.target
        if not isinstance(target, Cluster):
            await self.enqueue_many(line)
        elif line["note"] == "the store is away":
            target.store_away()
        elif line["note"] == "the store is back":
            target.store_back()
        else:
            self.compare_counts(target, line["events"])

    def compare_counts(self, cluster: Cluster, recorded: dict[str, dict[str, int]]) -> None:
        """Where jobs were enqueued is exact, and so is what was done in all."""
        counts = [Counter(event.type for event in node.events) for node in cluster.nodes]
        assert [count["job.enqueued"] for count in counts] == [
            recorded["a"]["job.enqueued"],
            recorded["b"].get("job.enqueued", 0),
            0,
        ]
        for type in ("job.started", "job.completed"):
            assert sum(count[type] for count in counts) == recorded["a"]["job.enqueued"]

    async def enqueue_many(self, line: dict[str, Any]) -> None:
        """What the recording of credits leaves out."""
        sender = self.connections["b"]
        assert sender.peer is not None
        for _ in range(self.enqueues.pop(0)):
            await sender.peer.send(id="x", method="job.enqueue", data={"name": "noop"})
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(0.01)  # jobs start a moment after they were enqueued
        expected = line.get("events_received", line.get("events_received_in_all"))
        subscriber = self.connections["a"]
        assert len(subscriber.events(subscriber.received)) == expected
        if not self.enqueues:
            del sender.received[1:]
            subscriber.received[:] = subscriber.answers(subscriber.received)

    async def exchange(self, recorded: dict[str, Any]) -> None:
        peer = HttpPeer(await self.open_stream())
        if recorded["method"] == "GET":
            await self.stream(peer, recorded)
            return
        body = recorded["body"]
        text = body if isinstance(body, str) else json.dumps(body)
        headers = {"Content-Type": "application/json", **recorded.get("headers", {})}
        await peer.send("POST", recorded["path"], headers, self.translate(text).encode())
        if "client_went_away_after_s" in recorded:
            await trio.sleep(recorded["client_went_away_after_s"])
            await trio.aclose_forcefully(peer.stream)
            return
        response = await peer.receive()
        assert response.status == recorded["status"]
        assert response.headers["content-type"] == recorded["content_type"]
        assert response.body.endswith(b"}\n")
        old, new = json.loads(recorded["response"]), response.json
        self.learn_from(old, new)
        assert normal_frame(new) == normal_frame(json.loads(self.translate(json.dumps(old))))

    async def stream(self, peer: HttpPeer, recorded: dict[str, Any]) -> None:
        await peer.send("GET", recorded["path"])
        await trio.sleep(0.2)
        if recorded["body"].count("event:"):
            other = HttpPeer(await self.open_stream())
            if "jobs" in recorded["path"]:
                await other.rpc("job.enqueue", {"name": "noop", "payload": {}})
            else:
                data = {"name": "order-pipeline", "input": {"items": ["a"]}}
                await other.rpc("workflow.start", data)
        response = await peer.receive(1)
        assert response.status == recorded["status"]
        headers = {n: v for n, v in response.headers.items() if n != "date"}
        assert headers == recorded["headers"]
        assert response.ended == recorded["server_ended_stream"]
        self.learn_from(recorded["body"], response.body.decode())
        old = [normal_sse(part) for part in self.translate(recorded["body"]).split("\n\n")]
        new = [normal_sse(part) for part in response.body.decode().split("\n\n")]
        assert new[0] == old[0] == "retry: 3000"
        assert Counter(new) == Counter(old)

    def compare(self, connection: Connection) -> None:
        recorded, received = connection.recorded, connection.received
        recorded = [json.loads(self.translate(json.dumps(frame))) for frame in recorded]
        answers = connection.answers(received)
        expected = connection.answers(recorded)
        # Once more, for the ids that only show in what was base64.
        wanted = [self.translate(normal_frame(frame)) for frame in expected]
        found = list(map(normal_frame, answers))
        if self.is_cluster:  # the servers had served other recordings before
            found, wanted = (
                [re.sub(r'"total_published": \d+', "", text) for text in side]
                for side in (found, wanted)
            )
        assert found == wanted
        # A recording ends with its last line. What that line set off was not recorded any more.
        beyond = set(ID.findall(json.dumps(answers[-1]))) if answers else set()
        known = set(ID.findall(json.dumps([*expected[:-1], *connection.events(recorded)])))
        events = [
            frame
            for frame in connection.events(received)
            if not set(ID.findall(frame["channel"])) & (beyond - known)
            and not (self.is_cluster and frame["channel"].startswith("job:"))
        ]
        recorded = [
            frame
            for frame in recorded
            if not (self.is_cluster and frame.get("channel", "").startswith("job:"))
        ]
        assert Counter(map(normal_frame, events)) == Counter(
            map(normal_frame, connection.events(recorded))
        )
        if connection.expected_drop:
            assert connection.drop is not None
        if self.scenario == "auth_refused":
            assert connection.drop is not None
            assert connection.drop.code is None


def normal_sse(part: str) -> str:
    name, separator, data = part.partition("\ndata: ")
    return f"{name}{separator}{json.dumps(normal(json.loads(data)))}" if separator else part


@pytest.mark.parametrize("scenario", NAMES)
async def test_the_server_answers_as_recorded(scenario: str, autojump_clock: MockClock) -> None:
    if scenario in CANNOT_REPLAY:
        pytest.xfail(CANNOT_REPLAY[scenario])
    await Replay(scenario).run()


def test_all_recordings_are_here() -> None:
    assert len(NAMES) == 28
