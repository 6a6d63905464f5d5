"""An embedded Dispatch server, for development and tests.

It keeps everything in memory, and speaks the wire as a Dispatch server was recorded to. Production
runs a Dispatch server.
"""

from __future__ import annotations

from trio_dispatch._transport.extras import require

require(__name__, "server", "h11", "websockets")

from trio_dispatch.server._activity import RequestRecord
from trio_dispatch.server._app import Server
from trio_dispatch.server._balancer import Balancer, Refusal
from trio_dispatch.server._broker import PublishedEvent
from trio_dispatch.server._cluster import Cluster, StoreOutage
from trio_dispatch.server._cluster_node import ClusterNode
from trio_dispatch.server._identity import Identity
from trio_dispatch.server._quirks import Quirks
from trio_dispatch.server._steering import Freeze, Rule
from trio_dispatch.server._views import (
    ConnectionView,
    JobView,
    RunView,
    ServerStatistics,
    StepView,
)
from trio_dispatch.server._waiting import WorkflowEvent
from trio_dispatch.server._workers import JobContext, current_job
from trio_dispatch.server._workflow import Workflow, WorkflowError

__all__ = [
    "Balancer",
    "Cluster",
    "ClusterNode",
    "ConnectionView",
    "Freeze",
    "Identity",
    "JobContext",
    "JobView",
    "PublishedEvent",
    "Quirks",
    "Refusal",
    "RequestRecord",
    "Rule",
    "RunView",
    "Server",
    "ServerStatistics",
    "StepView",
    "StoreOutage",
    "Workflow",
    "WorkflowError",
    "WorkflowEvent",
    "current_job",
]
