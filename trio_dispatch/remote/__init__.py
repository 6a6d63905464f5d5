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
from trio_dispatch.remote._endpoint import Endpoint
from trio_dispatch.remote._errors import CallFailed, FunctionError, KeyRefused
from trio_dispatch.remote._messages import Status
from trio_dispatch.remote._statuses import register_status
from trio_dispatch.remote._values import marshal, unmarshal

__all__ = [
    "Batch",
    "Call",
    "CallFailed",
    "Client",
    "DispatchID",
    "Endpoint",
    "FunctionError",
    "KeyRefused",
    "Status",
    "marshal",
    "open_client",
    "register_status",
    "unmarshal",
]
