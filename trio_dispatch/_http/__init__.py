"""HTTP mode: requests by RPC, subscriptions by event streams.

Imported only where a URL asks for it, as it needs httpx and httpx-sse.
"""

from trio_dispatch._http._connection import HttpConnection
from trio_dispatch._http._run import carry_by_rpc

__all__ = ["HttpConnection", "carry_by_rpc"]
