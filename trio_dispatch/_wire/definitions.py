"""Typed definitions: one object that holds a name and the type of its data.

Both sides import the same object. The type checker then checks what is sent, and the reader gets
the type that was sent. Every function that takes a name also takes a definition.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

from trio_dispatch._wire.arguments import check_int, check_text, encode_payload
from trio_dispatch._wire.models import Job, WorkflowRun

P = TypeVar("P")
"""A job's payload."""
I = TypeVar("I")  # noqa: E741 - as in WorkflowType[I]
"""A workflow's input."""
T = TypeVar("T")


def _decoder(type: type[T]) -> Callable[[bytes], T]:
    """Return a decoder of *type* from JSON: a pydantic model's own method, else msgspec's."""
    validate = getattr(type, "model_validate_json", None)
    if validate is not None:
        return cast("Callable[[bytes], T]", validate)
    try:
        return msgspec.json.Decoder(type).decode
    except (TypeError, RecursionError) as exc:
        raise TypeError(f"{type!r} cannot be decoded from JSON: {exc}") from None


def _encode(value: object, decode: Callable[[bytes], object], what: str) -> msgspec.Raw:
    """Encode *value*, and check that it can be decoded again."""
    text = encode_payload(value, what)
    try:
        decode(bytes(text))
    except ValueError as exc:  # msgspec's and pydantic's validation errors are subclasses
        raise ValueError(f"{what} does not fit its type: {exc}") from exc
    return text


class JobType(Generic[P]):
    """A job's name, and the type of its payload.

    ``send_email = JobType("send-email", Email, queue="email")``, and then
    ``await client.enqueue(send_email, Email(to="you"))``, ``@server.job(send_email)`` and
    ``send_email.payload_of(job)``.

    Args:
        name: the name that workers know the job by.
        payload: the type of its payload: a msgspec struct, an attrs class, a dataclass, a
            TypedDict, a pydantic model, or anything else that msgspec decodes into.
        queue: the queue of its jobs, unless ``enqueue`` names another (default: the server's).
        priority: the priority of its jobs, unless ``enqueue`` sets another.

    Raises:
        TypeError, ValueError: the name cannot be sent, or *payload* cannot be read from JSON.
    """

    __slots__ = ("_decode", "name", "payload", "priority", "queue")

    def __init__(
        self, name: str, payload: type[P], *, queue: str | None = None, priority: int = 0
    ) -> None:
        self.name: Final = check_text(name, "a job's name")
        self.payload: Final = payload
        self.queue: Final = None if queue is None else check_text(queue, "a queue's name")
        self.priority: Final = check_int(priority, "priority")
        self._decode = _decoder(payload)

    def __repr__(self) -> str:
        return f"JobType({self.name!r}, {_name_of(self.payload)})"

    def payload_of(self, job: Job) -> P:
        """Read the payload of *job*.

        Raises:
            ValueError: the job has another name, or its payload has another shape
                (`msgspec.ValidationError`, or pydantic's).
        """
        if job.name != self.name:
            raise ValueError(f"job {job.id} is a {job.name!r}, not a {self.name!r}")
        return self.decode(job.payload_bytes)

    def encode(self, payload: P) -> msgspec.Raw:
        """Encode a payload as JSON text. Raises `ValueError` if it has another shape."""
        return _encode(payload, self._decode, f"the payload of {self.name!r}")

    def decode(self, text: bytes | None) -> P:
        """Decode a payload from JSON text. A missing payload counts as ``null``."""
        return self._decode(b"null" if text is None else text)


class WorkflowType(Generic[I]):
    """A workflow's name, and the type of its input.

    ``order = WorkflowType("order-pipeline", Order)``, and then
    ``await client.start_workflow(order, Order(...))``, ``@server.workflow(order)`` and
    ``order.input_of(run)``.

    Args:
        name: the workflow's name.
        input: the type of its input, as for `JobType`.

    Raises:
        TypeError, ValueError: the name cannot be sent, or *input* cannot be read from JSON.
    """

    __slots__ = ("_decode", "input", "name")

    def __init__(self, name: str, input: type[I]) -> None:
        self.name: Final = check_text(name, "a workflow's name")
        self.input: Final = input
        self._decode = _decoder(input)

    def __repr__(self) -> str:
        return f"WorkflowType({self.name!r}, {_name_of(self.input)})"

    def input_of(self, run: WorkflowRun) -> I:
        """Read the input of *run*.

        Raises:
            ValueError: the run belongs to another workflow, or its input has another shape.
        """
        if run.name != self.name:
            raise ValueError(f"run {run.id} is a {run.name!r}, not a {self.name!r}")
        return self.decode(run.input_bytes)

    def encode(self, input: I) -> msgspec.Raw:
        """Encode an input as JSON text. Raises `ValueError` if it has another shape."""
        return _encode(input, self._decode, f"the input of {self.name!r}")

    def decode(self, text: bytes | None) -> I:
        """Decode an input from JSON text. A missing input counts as ``null``."""
        return self._decode(b"null" if text is None else text)


def _name_of(type: object) -> str:
    return getattr(type, "__name__", None) or repr(type)


def name_of(name: str | JobType[Any] | WorkflowType[Any]) -> str:
    """Return the name of a definition; return a plain name unchanged."""
    return name.name if isinstance(name, (JobType, WorkflowType)) else name
