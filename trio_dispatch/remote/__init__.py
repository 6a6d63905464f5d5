"""Calling remote functions: calls to functions on Dispatch endpoints, and endpoints to host them.

Needs the extra ``remote``.
"""

from __future__ import annotations

from trio_dispatch._transport.extras import require

require(
    __name__, "remote", "cryptography", "google.protobuf", "h11", "http_message_signatures", "httpx"
)

from trio_dispatch.remote._call import Call, DispatchID
from trio_dispatch.remote._client import Batch, Client, open_client
from trio_dispatch.remote._current import (
    CurrentCall,
    any_of,
    call,
    current_call,
    gather,
    race,
)
from trio_dispatch.remote._endpoint import Endpoint
from trio_dispatch.remote._errors import CallFailed, FunctionError, FunctionFailed, KeyRefused
from trio_dispatch.remote._messages import Status
from trio_dispatch.remote._outcomes import CallError, CallEvent, CallInfo, Outcome
from trio_dispatch.remote._service import Service, open_service
from trio_dispatch.remote._statuses import register_status
from trio_dispatch.remote._values import marshal, unmarshal

__all__ = [
    "Batch",
    "Call",
    "CallError",
    "CallEvent",
    "CallFailed",
    "CallInfo",
    "Client",
    "CurrentCall",
    "DispatchID",
    "Endpoint",
    "FunctionError",
    "FunctionFailed",
    "KeyRefused",
    "Outcome",
    "Service",
    "Status",
    "any_of",
    "call",
    "current_call",
    "gather",
    "marshal",
    "open_client",
    "open_service",
    "race",
    "register_status",
    "unmarshal",
]
