"""What is compared: everything but ids, times, and the texts that are Go's own."""

from __future__ import annotations

import base64
import json
import re
from typing import Any, Final

import msgpack
import msgspec

ID: Final = re.compile(r"(job|wfrun|evt)_[0-9a-z]{26}")
TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")
TIME_FIELDS: Final = frozenset(
    {
        "ts",
        "created_at",
        "updated_at",
        "run_at",
        "started_at",
        "completed_at",
        "heartbeat_at",
        "next_run_at",
    }
)
ZERO: Final = "0001-01-01T00:00:00Z"


class Normalizer:
    """Gives ids names, in the order in which they come up."""

    def __init__(self, published: int = 0) -> None:
        self.ids: dict[str, str] = {}
        self.published = published
        """The count of deliveries in ``stats`` when the scenario began."""

    def text(self, text: str) -> str:
        """Name the ids in *text*."""
        return ID.sub(lambda found: self._named(found[0], found[1]), text)

    def _named(self, id: str, kind: str) -> str:
        if id not in self.ids:
            count = sum(name.startswith(f"<{kind}") for name in self.ids.values())
            self.ids[id] = f"<{kind}{count + 1}>"
        return self.ids[id]

    def value(self, value: Any, key: str = "") -> Any:
        """Normalise any part of a frame."""
        if isinstance(value, dict):
            # Without the time that something took, which is absent below a millisecond.
            kept = {name: item for name, item in value.items() if name != "elapsed_ms"}
            return {name: self.value(item, name) for name, item in kept.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if key == "total_published" and isinstance(value, int):
            return f"+{value - self.published}"
        if not isinstance(value, str):
            return value
        if key in TIME_FIELDS and TIME.fullmatch(value):
            return "<T>"
        if key == "session_id" and value.startswith("ws_"):
            return "<S>"
        if key in {"payload", "input", "data"}:
            inner = _json_in_base64(value)
            if isinstance(inner, dict) and "acked" in inner:
                return {"B64JSON": self.value(inner)}
        return self.text(value)

    def frame(self, frame: Any) -> Any:
        """Normalise a frame."""
        if not isinstance(frame, dict):
            return frame
        fields = {"id": "<F>"} if frame.get("id") else {}
        for name, item in frame.items():
            if name == "ts" and frame.get("type") == "pong":
                fields["ts"] = item
            elif name != "id":
                fields[name] = self.value(item, name)
        return fields


def _json_in_base64(text: str) -> Any:
    try:
        return json.loads(base64.b64decode(text, validate=True))
    except (ValueError, UnicodeDecodeError):
        return None


def decode(payload: bytes) -> tuple[Any, dict[str, str] | None]:
    """A message as JSON; and, if it is msgpack, the types of its fields."""
    if payload.startswith(b"{"):
        return json.loads(payload), None
    frame: dict[str, Any] = _unpack(payload)
    types = {name: _kind(item) for name, item in frame.items()}
    if "data" in frame:
        frame["data"] = json.loads(frame["data"])
    if frame.get("type") != "pong":
        frame["ts"] = "<Tf>"
    else:
        frame["ts"] = str(frame["ts"])
    return frame, types


def _unpack(payload: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(payload)
    except UnicodeDecodeError:
        # Go's text may hold any bytes.
        return msgpack.unpackb(payload, unicode_errors="backslashreplace", timestamp=1)


def _kind(item: Any) -> str:
    if isinstance(item, (str, bytes, int)):
        return type(item).__name__
    # Recorded by a reader that makes numbers of timestamps.
    return "dict" if isinstance(item, dict) else "float"


_GO_TEXT: Final = re.compile(
    r"(invalid (?:frame|request|federation \w+|heartbeat|job ID|run ID): ).*", re.DOTALL
)


def without_go_texts(value: Any) -> Any:
    """*value* with Go's own error texts cut off where they begin."""
    if isinstance(value, dict):
        return {name: without_go_texts(item) for name, item in value.items()}
    if isinstance(value, list):
        return [without_go_texts(item) for item in value]
    return _GO_TEXT.sub(r"\1…", value) if isinstance(value, str) else value


def without_results(value: Any) -> Any:
    """*value* without the results of steps, which a Go server keeps in an encoding of its own."""
    if isinstance(value, list):
        rows = [without_results(item) for item in value]
        # Steps that ran side by side ended in either order.
        mixed = sorted(filter(_ran_beside, rows), key=str)
        return [mixed.pop(0) if _ran_beside(row) else row for row in rows]
    if not isinstance(value, dict):
        return value
    if "step_name" in value and isinstance(value.get("data"), str):
        return {**value, "data": "<result>"}
    return {name: without_results(item) for name, item in value.items()}


def _ran_beside(row: Any) -> bool:
    name = row.get("step_name", "") if isinstance(row, dict) else ""
    return re.fullmatch(r"parallel:\w+:\d+", name) is not None
