"""The session of one connection whose messages a dialect explains: it correlates, and no more.

It is to a `Link` what the session of the Dispatch protocol is to a client: `Connection` hands it
every message that arrives, acts on the outcomes, and writes what `data_to_send` returns.

1. A request is remembered from `request` until its answer arrives; a stream until its last answer.
2. A request that was forgotten is remembered for a while, to recognize its late answers.
3. What answers nothing that is remembered is for the handler.
4. A message that the dialect cannot read is skipped and reported, or ends the connection.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Generator, Hashable, Sequence
from datetime import datetime
from typing import Any, Final

from trio_dispatch._link.dialects import Dialect
from trio_dispatch._wire.errors import ConnectFailed, DispatchError, InternalError, ProtocolError
from trio_dispatch._wire.frames import Message
from trio_dispatch._wire.session import (
    LATE_ANSWERS,
    UNSENT_PONGS,
    Answer,
    Failure,
    Outcome,
    Part,
    Pong,
    Push,
    Ready,
    Refused,
    Skipped,
    State,
    Stray,
)

_PING: Final = object()
"""Stands for a request of the heartbeat's."""

_Hello = Generator[Any, Any, Sequence[Any] | None]


def key_of(id: Hashable) -> str:
    """Name an id by a string: 1 and "1" are different ids."""
    return id if isinstance(id, str) else f"\0{id!r}"


class DialectSession:
    """One connection of a link.

    Args:
        dialect: what messages mean.
        numbers: for the ids of requests that have none; one for all connections of a link.
        late_to_handler: whether late answers are strays; without, they are dropped.
        skip: whether an undecodable message is skipped; without, it ends the session.
    """

    window: int | None = None
    """As many requests may be in flight as there are callers."""

    def __init__(
        self,
        dialect: Dialect[Any],
        numbers: itertools.count[int],
        *,
        late_to_handler: bool = True,
        skip: bool = True,
    ) -> None:
        self._dialect = dialect
        self._numbers = numbers
        self._late_to_handler = late_to_handler
        self._skip = skip
        self._state = State.NEW
        self._hello: _Hello | None = None
        self._replies: list[Message] = []
        self._urgent: list[Message] = []
        self._messages: list[Message] = []
        self._bytes = 0
        self._unanswered: dict[str, Any] = {}
        self._late: OrderedDict[str, None] = OrderedDict()
        self.last_ts: datetime | None = None

    @property
    def state(self) -> State:
        """Where the session stands."""
        return self._state

    @property
    def in_flight(self) -> int:
        """How many requests are written and not answered."""
        return len(self._unanswered)

    @property
    def has_urgent_data(self) -> bool:
        """Whether the session itself has something to say."""
        return bool(self._urgent or self._replies)

    @property
    def bytes_to_send(self) -> int:
        """The size of the messages that `data_to_send` would return now."""
        return self._bytes

    # Sending.

    def start(self, token: str | None) -> Outcome | None:
        """Begin to greet the server. Returns `Ready` if there is nothing to say."""
        self._state = State.AUTHENTICATING
        self._hello = self._dialect.greet(token)
        return self._greet(None, first=True)

    def request(self, message: Any, text: bytes | None = None) -> str:  # noqa: ARG002
        """Send *message*, which has an id, and expect its answer. Returns the id's name.

        Raises:
            ValueError: a request of this id is still unanswered.
        """
        id = self._dialect.id_of(message)
        if id is None:
            raise ValueError("a request needs an id, by which its answer is recognized")
        key = key_of(id)
        if key in self._unanswered or key in self._late:
            raise ValueError(f"a request with the id {id!r} is still unanswered; use another id")
        self._put(message)
        self._unanswered[key] = message
        return key

    def send(self, message: Any) -> None:
        """Send *message*, expecting nothing."""
        self._put(message)

    def ping(self) -> str:
        """Send a ping of the dialect's ahead of all messages."""
        message = self._dialect.ping(next(self._numbers))
        id = self._dialect.id_of(message)
        key = "" if id is None else key_of(id)
        if key:
            self._unanswered[key] = _PING
        self._urgent.append(self._encode(message))
        return key

    def forget(self, id: str) -> None:
        """Nobody waits for the answer to *id* any more."""
        request = self._unanswered.pop(id, None)
        if request is None:
            return
        self._late[id] = None
        if len(self._late) > LATE_ANSWERS:
            self._late.popitem(last=False)

    def leave(self, request: Any) -> None:
        """Nobody reads the stream of *request* any more: tell a server that wants to know."""
        message = self._dialect.leave(request)
        if message is not None and self._state is State.READY:
            self._put(message)

    def data_to_send(self) -> list[Message]:
        """Take the messages to write now, in order."""
        data = [*self._urgent, *self._replies, *self._messages]
        self._urgent, self._replies, self._messages, self._bytes = [], [], [], 0
        return data

    def _put(self, message: Any) -> None:
        encoded = self._encode(message)
        self._messages.append(encoded)
        self._bytes += len(encoded.data)

    def _encode(self, message: Any) -> Message:
        payload = self._dialect.encode(message)
        if isinstance(payload, str):
            return Message(payload.encode(), False)
        return Message(payload, True)

    # Receiving.

    def receive(self, payload: bytes | str) -> list[Outcome]:
        """Take one message and say what it means.

        Raises:
            ProtocolError: the message cannot be read, and is not skipped.
        """
        if self._state is State.CLOSED:
            return []
        try:
            data = payload.encode() if isinstance(payload, str) else payload
            message = self._dialect.decode(data)
            if self._state is State.AUTHENTICATING:
                outcome = self._greet(message)
            else:
                outcome = self._act(message)
        except DispatchError:
            raise
        except Exception as exc:
            why = f"a message cannot be read: {type(exc).__name__}: {exc}"
            if self._skip and self._state is State.READY:
                return [Skipped(why)]
            self._state = State.CLOSED
            raise ProtocolError(why) from exc
        return [] if outcome is None else [outcome]

    def _greet(self, message: Any, *, first: bool = False) -> Outcome | None:
        assert self._hello is not None
        try:
            said = next(self._hello) if first else self._hello.send(message)
        except StopIteration as end:
            self._state = State.READY
            for last in end.value or ():
                self._urgent.append(self._encode(last))
            return Ready(None, "", None)
        except DispatchError as exc:
            self._state = State.CLOSED
            return Refused(exc)
        except Exception as exc:  # noqa: BLE001 - users' code, on what a server sent
            self._state = State.CLOSED
            refused = ConnectFailed(f"the greeting failed: {type(exc).__name__}: {exc}")
            refused.__cause__ = exc
            return Refused(refused)
        if said is not None:
            self._urgent.append(self._encode(said))
        return None

    def _act(self, message: Any) -> Outcome | None:
        dialect = self._dialect
        reply = dialect.reply(message)
        if reply is not None:
            # A peer that pings and does not read gets the replies to its latest pings.
            self._replies = [*self._replies[-UNSENT_PONGS + 1 :], self._encode(reply)]
            return None
        id = dialect.answers(message)
        if id is None:
            return Push(message)
        key = key_of(id)
        request = self._unanswered.get(key)
        if request is None:
            return self._unowed(key, message)
        if request is _PING:
            del self._unanswered[key]
            return Pong(key)
        error = dialect.error_of(message)
        last = dialect.is_last(message)
        if error is not None or last:
            # A request that expects one answer is popped by the first one in any case.
            del self._unanswered[key]
        if error is not None:
            return Failure(key, error)
        return Answer(key, message) if last else Part(key, message)

    def answered(self, id: str) -> None:
        """The request *id* has had its only answer."""
        self._unanswered.pop(id, None)

    def _unowed(self, key: str, message: Any) -> Outcome | None:
        if key not in self._late:
            return Stray(message)
        if self._dialect.is_last(message):
            del self._late[key]
        return Stray(message) if self._late_to_handler else None

    # Errors.

    def error_for(self, failure: Failure, message: Any) -> Exception:  # noqa: ARG002
        """The error to raise in the caller."""
        if not isinstance(failure.error, Exception):
            raise InternalError("a dialect's failure is an exception")
        return failure.error

    def refusal(self, refused: Refused) -> Exception:
        """The error of a refused session."""
        if not isinstance(refused.error, Exception):
            raise InternalError("a dialect's refusal is an exception")
        return refused.error
