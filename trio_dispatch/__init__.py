"""A structured-concurrency client for Dispatch, for trio."""

from trio_dispatch._client import (
    Client,
    ClientStatistics,
)
from trio_dispatch._errors import (
    AuthError,
    BadRequest,
    ClientClosed,
    Conflict,
    ConnectFailed,
    ConnectionLost,
    DispatchError,
    EnqueueManyFailed,
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
from trio_dispatch._finished_jobs import FinishedJobs
from trio_dispatch._frames import ErrorBody, ErrorCode, Frame, FrameType, Method
from trio_dispatch._instruments import Instrument, RequestRecord
from trio_dispatch._jobs import EnqueueRequest, JobHandle
from trio_dispatch._link import Link, LinkStatistics
from trio_dispatch._link_events import Connected, ConnectionEvent, Disconnected, LinkEvents
from trio_dispatch._models import (
    BrokerStats,
    Event,
    FederationStats,
    Job,
    Stats,
    StreamGap,
    TimelineStep,
    WorkflowRun,
)
from trio_dispatch._open import InsecureTokenWarning, connect_client, open_client
from trio_dispatch._open_link import open_link, run_link
from trio_dispatch._run_handle import RunEvents, RunHandle
from trio_dispatch._subscriptions import Subscription, SubscriptionStatistics
from trio_dispatch._watching import RunWatch

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
    "Disconnected",
    "DispatchError",
    "EnqueueManyFailed",
    "EnqueueRequest",
    "ErrorBody",
    "ErrorCode",
    "Event",
    "FederationStats",
    "FinishedJobs",
    "Frame",
    "FrameType",
    "InsecureTokenWarning",
    "Instrument",
    "InternalError",
    "Job",
    "JobCancelled",
    "JobFailed",
    "JobHandle",
    "Link",
    "LinkEvents",
    "LinkStatistics",
    "Method",
    "MethodNotSupported",
    "NotFound",
    "NotSupported",
    "PermissionDenied",
    "ProtocolError",
    "RequestError",
    "RequestRecord",
    "RequestTimeout",
    "RunEvents",
    "RunHandle",
    "RunNotKnown",
    "RunWatch",
    "ServerError",
    "Stats",
    "StreamGap",
    "Subscription",
    "SubscriptionOverflow",
    "SubscriptionStatistics",
    "TimelineStep",
    "WorkflowFailed",
    "WorkflowRun",
    "connect_client",
    "open_client",
    "open_link",
    "run_link",
]
