"""Dialects: what the messages of a server mean. No I/O.

A `Link` connects, correlates and hands over; which message answers which is its dialect's to say.
Two are ready-made: `Fields` for servers that name these things by fields of JSON objects, and
`JsonRpc`. For another protocol, derive from the nearest one, or from `Dialect`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from trio_dispatch._wire.codecs import encode_data
from trio_dispatch._wire.errors import RequestError

M = TypeVar("M")

Fielded = Mapping[str, Any]
"""A JSON object."""


class Dialect(Generic[M]):
    """What messages mean, for one kind of server. `M` is the type of a message.

    A dialect keeps no state: one serves every connection of a link. What its methods raise, other
    than `encode` and `greet`, makes the message undecodable.
    """

    subprotocols: Sequence[str] = ()
    """The WebSocket subprotocols to offer, the best one first."""

    def encode(self, message: M) -> str | bytes:
        """Turn a message into text, or into bytes for a binary WebSocket message.

        Raises:
            TypeError, ValueError: it cannot be sent.
        """
        raise NotImplementedError

    def decode(self, payload: bytes) -> M:
        """Turn what arrived, text as UTF-8, into a message.

        Raises:
            ValueError: it is no message.
        """
        raise NotImplementedError

    def id_of(self, message: M) -> Hashable | None:
        """Return the id of a request, by which its answer is recognized; None: it has none yet."""
        raise NotImplementedError

    def with_id(self, message: M, number: int) -> M:
        """Return a copy of a request with an id made of *number*, which counts up on each link."""
        raise NotImplementedError

    def answers(self, message: M) -> Hashable | None:
        """Return the id of the request that a message answers; None: it answers none."""
        raise NotImplementedError

    def error_of(self, message: M) -> Exception | None:  # noqa: ARG002
        """Return the error that an answer means, to raise in its caller; None: it is no error."""
        return None

    def is_last(self, message: M) -> bool:  # noqa: ARG002
        """Return whether an answer is the last one to its request, for `Link.stream`."""
        return True

    def leave(self, request: M) -> M | None:  # noqa: ARG002
        """Return the message that tells the server that nobody reads a stream any more."""
        return None

    def reply(self, message: M) -> M | None:  # noqa: ARG002
        """Return what to send at once in reply, for example a pong to a ping of the server's.

        Such a message goes to nobody. None: it is an ordinary message.
        """
        return None

    def ping(self, number: int) -> M:  # noqa: ARG002
        """Return a message that the server answers, for `DialectPing`."""
        raise TypeError(f"{type(self).__name__} has no ping of its own; use WebSocketPing")

    def greet(self, token: str | None) -> Generator[M | None, M, Sequence[M] | None]:  # noqa: ARG002
        """Say hello, as a generator: what it yields is sent, and it gets the next message back.

        Yield None to wait for a message first. The link is connected when it returns; messages that
        it returns are sent without waiting for an answer. To refuse, raise an error: `AuthError`
        for a token that the server does not take.
        """
        yield from ()
        return None


class Fields(Dialect[Fielded]):
    """JSON objects whose fields name the id and what they answer. No field is lost.

    Args:
        id: the field with a request's id.
        reply_to: the field in which an answer names the request's id; it may be *id* itself.
        type: the field with a message's type; only for messages about errors.
        error: the field that an error has; None if there is no such thing. An answer of the type
            ``error`` is one, too.
        new_id: makes an id of a number, for requests without one: `str` or `int`.
        subprotocols: the WebSocket subprotocols to offer.
    """

    def __init__(
        self,
        *,
        id: str = "id",
        reply_to: str = "correl_id",
        type: str = "type",
        error: str | None = "error",
        new_id: Callable[[int], Hashable] = str,
        subprotocols: Sequence[str] = (),
    ) -> None:
        self.id = id
        self.reply_to = reply_to
        self.type = type
        self.error = error
        self.new_id = new_id
        self.subprotocols = subprotocols

    def encode(self, message: Fielded) -> str | bytes:
        """Encode as JSON text."""
        if not isinstance(message, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a message is a mapping, not {message.__class__.__name__}")
        return bytes(encode_data(dict(message))).decode()

    def decode(self, payload: bytes) -> Fielded:
        """Decode a JSON object."""
        message: object = msgspec.json.decode(payload)
        if not isinstance(message, dict):
            raise ValueError("not a JSON object")
        return cast("Fielded", message)

    def id_of(self, message: Fielded) -> Hashable | None:
        """The field *id*; an empty one is none."""
        return _named(message.get(self.id))

    def with_id(self, message: Fielded, number: int) -> Fielded:
        """The same message with an id."""
        return {self.id: self.new_id(number), **{k: v for k, v in message.items() if k != self.id}}

    def answers(self, message: Fielded) -> Hashable | None:
        """The field *reply_to*; an empty one is none."""
        return _named(message.get(self.reply_to))

    def error_of(self, message: Fielded) -> Exception | None:
        """A `RequestError` for the field *error*, or for the type ``error``."""
        told: object = message.get(self.error) if self.error is not None else None
        if not told and (self.error is None or message.get(self.type) != "error"):
            return None
        return request_error_of(told)


def _named(id: Hashable) -> Hashable | None:
    return None if id is None or id == "" else id


def request_error_of(told: object) -> RequestError:
    """Make an error of what a server says of one: an object with code and message, or a text."""
    if not isinstance(told, Mapping):
        return RequestError(0, "the server answered with an error" if told is None else str(told))
    fields = cast("Fielded", told)
    code: object = fields.get("code", 0)
    message = str(fields.get("message", ""))
    details: object = fields.get("details", fields.get("data"))
    if isinstance(code, int):
        return RequestError(code, message, details)
    return RequestError(0, f"{code}: {message}" if message else str(code), details)


class JsonRpc(Fields):
    """JSON-RPC, and the protocols that look like it (language servers, browsers' DevTools).

    Args:
        version: what ``jsonrpc`` says; None leaves it out, as DevTools do.
        subprotocols: the WebSocket subprotocols to offer.
    """

    def __init__(self, version: str | None = "2.0", *, subprotocols: Sequence[str] = ()) -> None:
        super().__init__(reply_to="id", type="method", new_id=int, subprotocols=subprotocols)
        self.version = version

    def encode(self, message: Fielded) -> str | bytes:
        """Encode as JSON text, with the version."""
        if self.version is None or "jsonrpc" in message:
            return super().encode(message)
        return super().encode({"jsonrpc": self.version, **message})

    def id_of(self, message: Fielded) -> Hashable | None:
        """The id, which may be 0."""
        return cast("Hashable", message.get("id"))

    def answers(self, message: Fielded) -> Hashable | None:
        """The id of a message with a result or an error; requests of the server's have a method."""
        if "method" in message or not ("result" in message or "error" in message):
            return None
        return cast("Hashable", message.get("id"))

    def error_of(self, message: Fielded) -> Exception | None:
        """A `RequestError` with the server's code, message and data."""
        told: object = message.get("error")
        return None if told is None else request_error_of(told)
