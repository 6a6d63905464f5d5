"""Channels and the events that belong to them.

This module exists because of a fact of the wire (protocol, "Events"): the ``channel`` of an event
frame is the topic of its entity, not the subscribed channel, and a connection gets each event once
even if several of its subscriptions match. So this module matches topics to decide who gets an
event. Servers that follow the published description send the subscribed channel instead, and put
the event's fields flat into ``data``. This module understands both shapes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, cast

import msgspec

from trio_dispatch._wire.codecs import aware, decode_leniently, object_text
from trio_dispatch._wire.frames import WireFrame

JOBS: Final = "jobs"
WORKFLOWS: Final = "workflows"
FIREHOSE: Final = "firehose"
_WHOLE: Final = frozenset({JOBS, WORKFLOWS, FIREHOSE})
_PREFIXES: Final = ("job:", "workflow:", "queue:")


def check_channel(channel: object) -> str:
    """Return *channel* if servers accept it.

    Raises:
        TypeError: it is not a string.
        ValueError: no server accepts it (they answer 400 ``stream: invalid topic``).
    """
    if not isinstance(channel, str):
        raise TypeError(f"a channel is a string, not {type(channel).__name__}")
    try:
        channel.encode()
    except UnicodeEncodeError as exc:
        raise ValueError(f"a channel is valid text: {exc}") from None
    if channel in _WHOLE:
        return channel
    if any(channel.startswith(prefix) and len(channel) > len(prefix) for prefix in _PREFIXES):
        return channel
    raise ValueError(
        f"no server has a channel {channel!r}: use 'jobs', 'workflows', 'firehose', "
        "'job:<id>', 'workflow:<id>' or 'queue:<name>'"
    )


def server_channel(channel: str) -> str:
    """Return the channel to subscribe to on the server for the events of *channel*.

    Servers accept ``queue:<name>`` but never deliver events for it (protocol, "Events"), so a
    queue's events are filtered out of ``jobs``.
    """
    return JOBS if channel.startswith("queue:") else channel


def covering_channel(channels: Iterable[str]) -> str:
    """Return the narrowest single channel that includes the events of all *channels*."""
    names = {server_channel(channel) for channel in channels}
    if len(names) == 1:
        return names.pop()
    kinds = {whole_channel(name) for name in names}
    return kinds.pop() if len(kinds) == 1 else FIREHOSE


def whole_channel(channel: str) -> str:
    """Return the channel of all entities of the kind that *channel* is about."""
    kind = channel.partition(":")[0]
    return {"job": JOBS, "workflow": WORKFLOWS}.get(kind, channel)


class _Body(msgspec.Struct, frozen=True):
    """Both shapes of an event's ``data``: the envelope that servers send, and the flat one."""

    type: str = ""
    ts: datetime | None = None
    topic: str = ""
    data: msgspec.Raw = msgspec.Raw()
    job_id: str = ""
    run_id: str = ""
    state: str = ""


class _Queue(msgspec.Struct, frozen=True):
    queue: str = ""


_body_decoder: Final = msgspec.json.Decoder(_Body)
_queue_decoder: Final = msgspec.json.Decoder(_Queue)
_fields_decoder: Final = msgspec.json.Decoder(dict[str, Any])


class Occurrence(msgspec.Struct, frozen=True):
    """The content of one event frame, decoded only as far as needed."""

    type: str
    ts: datetime | None
    topic: str
    fields_text: bytes
    """The event's own fields, as the JSON text of an object."""
    flat: bool
    """Whether the frame had the described shape: ``channel`` is then the subscribed one."""
    channel: str
    """The frame's ``channel``."""

    def fields(self) -> dict[str, object]:
        """Decode the event's own fields."""
        return cast("dict[str, object]", _fields_decoder.decode(self.fields_text))

    def queue(self) -> str:
        """The queue of the job that it is about; empty if it has none."""
        return decode_leniently(self.fields_text, _queue_decoder).queue

    def channels(self, *, with_queue: bool) -> list[str]:
        """Return every channel whose subscribers get this, narrowest first.

        Args:
            with_queue: include the ``queue:`` channel, which requires decoding the fields.
        """
        kind, _, name = self.topic.partition(":")
        found: list[str] = []
        if kind == "job" and name:
            found.append(self.topic)
            if with_queue and (queue := self.queue()):
                found.append(f"queue:{queue}")
            found.append(JOBS)
        elif kind == "workflow" and name:
            found += (self.topic, WORKFLOWS)
        elif self.flat and self.channel not in ("", FIREHOSE):
            # The frame does not name its entity, but it was sent for this channel.
            found.append(self.channel)
        found.append(FIREHOSE)
        return found


def read_occurrence(frame: WireFrame) -> Occurrence:
    """Read an event frame of either shape.

    Raises:
        msgspec.DecodeError, UnicodeDecodeError: its ``data`` is not a JSON object.
    """
    text = object_text(frame.data)
    body = decode_leniently(text, _body_decoder)
    ts = aware(body.ts) or frame.ts
    if body.type and (body.topic or bytes(body.data)):
        topic = body.topic or (frame.channel if ":" in frame.channel else "")
        return Occurrence(body.type, ts, topic, object_text(body.data), False, frame.channel)
    if body.job_id:
        topic, kind = f"job:{body.job_id}", "job"
    elif body.run_id:
        topic, kind = f"workflow:{body.run_id}", "workflow"
    else:
        topic, kind = "", ""
    name = body.type or (f"{kind}.{body.state}" if kind and body.state else "")
    return Occurrence(name, ts, topic, text, True, frame.channel)


class CopyFilter:
    """Distinguishes a new event from a copy of an earlier one, for events of the flat shape.

    A server that names the subscribed channel may send one frame for each matching channel of a
    connection. (Today's server sends one frame in all.) The client delivers each event to every
    matching subscriber when it first arrives. So the same fields under *another* channel are a
    copy, and under the *same* channel they are a new event.
    """

    REMEMBERED: Final = 1024

    def __init__(self) -> None:
        self._seen: OrderedDict[bytes, set[str]] = OrderedDict()

    def is_copy(self, occurrence: Occurrence) -> bool:
        """Return whether *occurrence* has already been seen under another channel."""
        if not occurrence.flat:
            return False
        channels = self._seen.get(occurrence.fields_text)
        if channels is not None and occurrence.channel not in channels:
            channels.add(occurrence.channel)
            return True
        self._seen[occurrence.fields_text] = {occurrence.channel}
        self._seen.move_to_end(occurrence.fields_text)
        if len(self._seen) > self.REMEMBERED:
            self._seen.popitem(last=False)
        return False
