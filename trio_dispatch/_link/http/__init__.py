"""HTTP mode: requests by RPC, subscriptions by event streams.

Imported only when a URL asks for it, because it needs httpx and httpx-sse.
"""
