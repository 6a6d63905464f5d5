"""The recordings of a real server (``tests/recordings``), read for tests."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

RECORDINGS = Path(__file__).parent / "recordings"
SCENARIOS = sorted(path.stem for path in RECORDINGS.glob("*.jsonl"))


def lines(scenario: str) -> Iterator[dict[str, Any]]:
    """The lines of one recording, without its title."""
    with (RECORDINGS / f"{scenario}.jsonl").open(encoding="utf-8") as file:
        next(file)
        for line in file:
            yield json.loads(line)


class Message(NamedTuple):
    """One frame that the server sent."""

    payload: bytes
    format: str
    method: str
    """The method that it answers; empty for events, pongs and answers without ``correl_id``."""


def messages(scenario: str) -> Iterator[Message]:
    """Every frame of the server in one recording: WebSocket messages and RPC responses."""
    methods: dict[tuple[str, str], str] = {}
    for line in lines(scenario):
        if "http" in line:
            exchange = line["http"]
            if "response" in exchange:
                body = exchange["body"]
                method = body.get("method", "") if isinstance(body, dict) else ""
                yield Message(exchange["response"].encode(), "json", method)
        elif "closed" in line or "note" in line:
            continue
        elif line["sender"] == "client":
            id, method = _request(line)
            methods[line["connection"], id] = method
        elif "text" in line:
            frame = json.loads(line["text"])
            method = methods.get((line["connection"], frame.get("correl_id", "")), "")
            yield Message(line["text"].encode(), "json", method)
        else:
            payload = bytes.fromhex(line["hex"])
            id = _unpack(payload).get("correl_id", "")
            yield Message(payload, "msgpack", methods.get((line["connection"], id), ""))


def event_stream_texts(scenario: str) -> Iterator[bytes]:
    """The ``data`` of every server-sent event in one recording."""
    for line in lines(scenario):
        exchange = line.get("http", {})
        stream = exchange["body"] if exchange.get("method") == "GET" else ""
        for text in stream.splitlines():
            if text.startswith("data: "):
                yield text.removeprefix("data: ").encode()


def _request(line: dict[str, Any]) -> tuple[str, str]:
    """The id and the method of a client's frame, as far as it has any."""
    try:
        frame = _unpack(bytes.fromhex(line["hex"])) if "hex" in line else json.loads(line["text"])
    except ValueError:
        return "", ""
    if not isinstance(frame, dict):
        return "", ""
    return str(frame.get("id", "")), str(frame.get("method", ""))


def _unpack(payload: bytes) -> dict[str, Any]:
    import msgpack

    frame: dict[str, Any] = msgpack.unpackb(payload)
    return frame
