"""A structured-concurrency client for Dispatch, for trio."""

from trio_dispatch._client.client import Client
from trio_dispatch._client.enqueueing import EnqueueManyFailed, EnqueueRequest
from trio_dispatch._client.finished_jobs import FinishedJobs
from trio_dispatch._client.jobs import JobHandle
from trio_dispatch._client.opening import connect_client, open_client
from trio_dispatch._client.options import InsecureTokenWarning
from trio_dispatch._client.run_handle import RunEvents, RunHandle
from trio_dispatch._client.statistics import ClientStatistics
from trio_dispatch._client.subscription import Subscription, SubscriptionStatistics
from trio_dispatch._client.watching import RunWatch
from trio_dispatch._link.auth import Header, QueryToken
from trio_dispatch._link.dialects import Dialect, Fields, JsonRpc
from trio_dispatch._link.events import Connected, ConnectionEvent, Disconnected, LinkEvents
from trio_dispatch._link.instruments import Instrument, RequestRecord
from trio_dispatch._link.link import Link, LinkConnection
from trio_dispatch._link.opening import DialectPing, WebSocketPing, open_link, run_link
from trio_dispatch._link.statistics import LinkStatistics
from trio_dispatch._link.stream import MessageStream
from trio_dispatch._wire.definitions import JobType, WorkflowType
from trio_dispatch._wire.errors import (
    AuthError,
    BadRequest,
    ClientClosed,
    Conflict,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    InternalError,
    JobCancelled,
    JobFailed,
    MethodNotSupported,
    NotFound,
    NotSupported,
    PermissionDenied,
    ProtocolError,
    RequestError,
    RequestTimeout,
    RunNotKnown,
    ServerError,
    SubscriptionOverflow,
    WorkflowFailed,
)
from trio_dispatch._wire.frames import ErrorBody, ErrorCode, Frame, FrameType, Method
from trio_dispatch._wire.models import (
    BrokerStats,
    Event,
    EventType,
    FederationStats,
    Job,
    JobState,
    RunState,
    Stats,
    StreamGap,
    TimelineStep,
    WorkflowRun,
)

__version__ = "0.1.0"

__all__ = [
    "AuthError",
    "BadRequest",
    "BrokerStats",
    "Client",
    "ClientClosed",
    "ClientStatistics",
    "Conflict",
    "ConnectFailed",
    "Connected",
    "ConnectionEvent",
    "ConnectionLost",
    "Dialect",
    "DialectPing",
    "Disconnected",
    "DispatchError",
    "EnqueueManyFailed",
    "EnqueueRequest",
    "ErrorBody",
    "ErrorCode",
    "Event",
    "EventType",
    "FederationStats",
    "Fields",
    "FinishedJobs",
    "Frame",
    "FrameType",
    "Header",
    "InsecureTokenWarning",
    "Instrument",
    "InternalError",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "JobState",
    "JobType",
    "JsonRpc",
    "Link",
    "LinkConnection",
    "LinkEvents",
    "LinkStatistics",
    "MessageStream",
    "Method",
    "MethodNotSupported",
    "NotFound",
    "NotSupported",
    "PermissionDenied",
    "ProtocolError",
    "QueryToken",
    "RequestError",
    "RequestRecord",
    "RequestTimeout",
    "RunEvents",
    "RunHandle",
    "RunNotKnown",
    "RunState",
    "RunWatch",
    "ServerError",
    "Stats",
    "StreamGap",
    "Subscription",
    "SubscriptionOverflow",
    "SubscriptionStatistics",
    "TimelineStep",
    "WebSocketPing",
    "WorkflowFailed",
    "WorkflowRun",
    "WorkflowType",
    "connect_client",
    "open_client",
    "open_link",
    "run_link",
]
