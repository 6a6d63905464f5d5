"""The messages of ``dispatch.sdk.v1``, in a descriptor pool of their own.

Another package in the same process may have registered the same names in protobuf's default pool,
which refuses a second registration. What stands for values (``Any``) crosses between the two pools
as bytes.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Final

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    duration_pb2,
    message_factory,
    timestamp_pb2,
)
from google.protobuf.message import Message

_PACKAGE: Final = "dispatch.sdk.v1"
DISPATCH_PATH: Final = f"/{_PACKAGE}.DispatchService/Dispatch"
RUN_PATH: Final = f"/{_PACKAGE}.FunctionService/Run"
_Field = descriptor_pb2.FieldDescriptorProto

_SCALARS: Final = {
    "string": _Field.TYPE_STRING,
    "bytes": _Field.TYPE_BYTES,
    "int32": _Field.TYPE_INT32,
    "uint64": _Field.TYPE_UINT64,
    "enum": _Field.TYPE_ENUM,
}

_FIELDS: Final[dict[str, list[tuple[int, str, str]]]] = {
    # message: [(number, name, type)]; `*` repeats a field, `|` puts it into the one oneof.
    "Call": [
        (1, "correlation_id", "uint64"),
        (2, "endpoint", "string"),
        (3, "function", "string"),
        (4, "input", "google.protobuf.Any"),
        (5, "expiration", "google.protobuf.Duration"),
        (6, "version", "string"),
    ],
    "DispatchRequest": [(1, "calls", "*Call")],
    "DispatchResponse": [(1, "dispatch_ids", "*string")],
    "Error": [
        (1, "type", "string"),
        (2, "message", "string"),
        (3, "value", "bytes"),
        (4, "traceback", "bytes"),
    ],
    "CallResult": [
        (1, "correlation_id", "uint64"),
        (2, "output", "google.protobuf.Any"),
        (3, "error", "Error"),
        (4, "dispatch_id", "string"),
    ],
    "Exit": [(1, "result", "CallResult"), (2, "tail_call", "Call")],
    "Poll": [
        (1, "coroutine_state", "bytes"),
        (2, "calls", "*Call"),
        (3, "max_wait", "google.protobuf.Duration"),
        (4, "max_results", "int32"),
        (5, "min_results", "int32"),
        (6, "typed_coroutine_state", "google.protobuf.Any"),
    ],
    "PollResult": [
        (1, "coroutine_state", "bytes"),
        (2, "results", "*CallResult"),
        (3, "error", "Error"),
        (4, "typed_coroutine_state", "google.protobuf.Any"),
    ],
    "RunRequest": [
        (1, "function", "string"),
        (2, "input", "|google.protobuf.Any"),
        (3, "poll_result", "|PollResult"),
        (4, "dispatch_id", "string"),
        (5, "parent_dispatch_id", "string"),
        (6, "root_dispatch_id", "string"),
        (7, "creation_time", "google.protobuf.Timestamp"),
        (8, "expiration_time", "google.protobuf.Timestamp"),
    ],
    "RunResponse": [(1, "status", "enum"), (2, "exit", "|Exit"), (3, "poll", "|Poll")],
}


class Status(IntEnum):
    """How the run of a function ended, for the service."""

    UNSPECIFIED = 0
    OK = 1
    TIMEOUT = 2
    THROTTLED = 3
    INVALID_ARGUMENT = 4
    INVALID_RESPONSE = 5
    TEMPORARY_ERROR = 6
    PERMANENT_ERROR = 7
    INCOMPATIBLE_STATE = 8
    DNS_ERROR = 9
    TCP_ERROR = 10
    TLS_ERROR = 11
    HTTP_ERROR = 12
    UNAUTHENTICATED = 13
    PERMISSION_DENIED = 14
    NOT_FOUND = 15


RETRIED: Final = frozenset(
    {
        Status.TIMEOUT,
        Status.THROTTLED,
        Status.TEMPORARY_ERROR,
        Status.INCOMPATIBLE_STATE,
        Status.DNS_ERROR,
        Status.TCP_ERROR,
        Status.TLS_ERROR,
        Status.HTTP_ERROR,
    }
)
"""The service tries again after these, until the call expires; the others end the call."""


def check_error_status(status: object) -> Status:
    """Return *status* if it is that of an error. Raises `TypeError` or `ValueError`."""
    if not isinstance(status, Status):
        raise TypeError(f"a status is a Status, not {type(status).__name__}")
    if status in (Status.OK, Status.UNSPECIFIED):
        raise ValueError(f"{status.name} is not the status of an error")
    return status


def _make_file() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(
        name="trio_dispatch/remote.proto",
        package=_PACKAGE,
        syntax="proto3",
        dependency=[module.DESCRIPTOR.name for module in (any_pb2, duration_pb2, timestamp_pb2)],
    )
    status = file.enum_type.add(name="Status")
    for value in Status:
        status.value.add(name=f"STATUS_{value.name}", number=value.value)
    for name, fields in _FIELDS.items():
        message = file.message_type.add(name=name)
        if any(kind.startswith("|") for _, _, kind in fields):
            message.oneof_decl.add(name="directive")
        for number, field_name, kind in fields:
            field = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if kind.startswith("*"):
                field.label = _Field.LABEL_REPEATED
            if kind.startswith("|"):
                field.oneof_index = 0
            kind = kind.lstrip("*|")
            field.type = _SCALARS.get(kind, _Field.TYPE_MESSAGE)
            if kind == "enum":
                field.type_name = f".{_PACKAGE}.Status"
            elif kind not in _SCALARS:
                field.type_name = f".{kind}" if "." in kind else f".{_PACKAGE}.{kind}"
    return file


def _make_pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, duration_pb2, timestamp_pb2):
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(_make_file().SerializeToString())
    return pool


_POOL: Final = _make_pool()


def _message(name: str) -> type[Any]:
    found: type[Message] = message_factory.GetMessageClass(
        _POOL.FindMessageTypeByName(f"{_PACKAGE}.{name}")
    )
    return found


CallMessage: Final = _message("Call")
CallResult: Final = _message("CallResult")
Error: Final = _message("Error")
DispatchRequest: Final = _message("DispatchRequest")
DispatchResponse: Final = _message("DispatchResponse")
RunRequest: Final = _message("RunRequest")
RunResponse: Final = _message("RunResponse")
