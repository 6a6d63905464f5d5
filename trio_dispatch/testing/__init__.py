"""Tools for tests of your programs: a network that fails on demand."""

from trio_dispatch._transport.pipe import PipeEnd, pipe
from trio_dispatch.testing._plan import WEIGHTS, FaultPlan
from trio_dispatch.testing._proxy import Fault, FaultyProxy, ProxyStatistics

__all__ = [
    "WEIGHTS",
    "Fault",
    "FaultPlan",
    "FaultyProxy",
    "PipeEnd",
    "ProxyStatistics",
    "pipe",
]
