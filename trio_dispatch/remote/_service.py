"""An embedded service: it accepts calls and runs them on their endpoints, on one machine."""

from __future__ import annotations

import hmac
import logging
import math
import random
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, nullcontext
from datetime import timedelta
from typing import Any, Final

import httpx
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from trio_dispatch._transport.block import in_background
from trio_dispatch._transport.http_streams import StreamTransport
from trio_dispatch._transport.needs_trio import check_trio
from trio_dispatch._transport.pipe import pipe
from trio_dispatch._wire.arguments import check_count, check_seconds
from trio_dispatch._wire.url import Address, parse_url
from trio_dispatch.remote import _connect as connect
from trio_dispatch.remote._accepting import check_calls, expiration_of
from trio_dispatch.remote._call import DispatchID, check_endpoint
from trio_dispatch.remote._client import Client, find_key
from trio_dispatch.remote._driving import Driver, Policy, Record
from trio_dispatch.remote._endpoint import Endpoint
from trio_dispatch.remote._messages import DISPATCH_PATH, DispatchRequest, DispatchResponse
from trio_dispatch.remote._outcomes import CallEvent, CallInfo, EventType, Outcome
from trio_dispatch.remote._reaching import Reach
from trio_dispatch.remote._signatures import Signer, read_signing_key
from trio_dispatch.remote._time import now

MEMORY_URL: Final = "http://service.memory"
"""The URL of a service that listens nowhere."""

Observer = Callable[[CallEvent], None]

_log = logging.getLogger("trio_dispatch.remote")


class Service:
    """A service that runs in this process. Made by `open_service`."""

    def __init__(
        self,
        *,
        url: str,
        api_key: str,
        signer: Signer,
        policy: Policy,
        reach: Reach,
        max_concurrency: int,
        keep: int,
        max_body_size: int,
        on_event: Observer | None,
        seed: int | None,
        nursery: trio.Nursery,
    ) -> None:
        self._url = url
        self._api_key = api_key
        self._signer = signer
        self._policy = policy
        self._reach = reach
        self._max_body_size = max_body_size
        self._on_event = on_event
        self._nursery = nursery
        self._records: dict[DispatchID, Record] = {}
        self._ended: deque[DispatchID] = deque()
        self._keep = keep
        self._driver = Driver(
            policy,
            reach,
            trio.CapacityLimiter(max_concurrency),
            self._start,
            self._report,
            random.Random(seed),
        )

    def __repr__(self) -> str:
        return f"<Service at {self._url} with {len(self._records)} calls>"

    @property
    def url(self) -> str:
        """Where clients reach it: their ``api_url``, or ``DISPATCH_API_URL``."""
        return self._url

    @property
    def api_key(self) -> str:
        """What clients must show: their ``api_key``, or ``DISPATCH_API_KEY``."""
        return self._api_key

    @property
    def verification_key(self) -> str:
        """For endpoints that check signatures: ``DISPATCH_VERIFICATION_KEY``."""
        return self._signer.verification_key

    def add_endpoint(self, endpoint: Endpoint) -> None:
        """Reach *endpoint* in memory, without a socket, whatever its URL is.

        Raises:
            ValueError: it has no URL.
        """
        self._reach.add(endpoint)

    @asynccontextmanager
    async def open_client(
        self, api_key: str | None = None, *, timeout: float = 30
    ) -> AsyncGenerator[Client, None]:
        """Open a client of this service in memory: no socket, any clock.

        Args:
            api_key: what the client shows (default: the service's own key).
            timeout: as for `remote.open_client`.
        """
        key, source = find_key(self._api_key if api_key is None else api_key)
        address = parse_url(MEMORY_URL, "http")
        http = httpx.AsyncClient(
            transport=StreamTransport(address, self._connect),
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(None),
        )
        try:
            yield Client(http, MEMORY_URL, source, check_seconds(timeout, "timeout"))
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await http.aclose()

    async def _connect(self, address: Address) -> trio.abc.Stream:  # noqa: ARG002 - there is one
        ours, theirs = pipe()
        self._nursery.start_soon(self.handle, theirs)
        return ours

    async def wait(self, id: DispatchID) -> Outcome:
        """Wait until a call has ended, and return how.

        Cancelled, the call goes on.

        Raises:
            LookupError: there is no such call, or it is no longer remembered.
        """
        record = self._find(id)
        await record.done.wait()
        assert record.outcome is not None
        return record.outcome

    def call(self, id: DispatchID) -> CallInfo:
        """A call as it is now. Raises `LookupError` as `wait` does."""
        return self._find(id).info()

    def calls(self) -> list[CallInfo]:
        """All calls that it remembers, as they are now, in the order of their acceptance."""
        return [record.info() for record in self._records.values()]

    def _find(self, id: DispatchID) -> Record:
        try:
            return self._records[id]
        except KeyError:
            raise LookupError(f"this service knows no call {id!r}") from None

    # Serving

    async def handle(self, stream: trio.abc.Stream) -> None:
        """Serve one connection of a client, over any stream, until it ends."""
        await connect.serve_unary(stream, {DISPATCH_PATH}, self._dispatch, self._max_body_size)

    async def _dispatch(self, call: connect.Call) -> bytes:
        kind, _, key = call.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(
            key.strip().encode(), self._api_key.encode()
        ):
            text = "there is no such API key" if key else "the request has no API key"
            raise connect.Refused("unauthenticated", text)
        try:
            calls = DispatchRequest.FromString(call.message).calls
        except Exception as exc:  # protobuf raises its own, which has no public home
            text = f"the body is no DispatchRequest: {exc}"
            raise connect.Refused("invalid_argument", text) from exc
        check_calls(calls, self._reach.problem)
        # Nothing waits from here on, so all are accepted, or (had one been refused) none.
        ids = [self._start(message, None).id for message in calls]
        data: bytes = DispatchResponse(dispatch_ids=ids).SerializeToString()
        return data

    def _start(self, message: Any, parent: Record | None) -> Record:
        """Accept a call that has been checked."""
        expiration = timedelta(seconds=self._policy.expiration)
        if message.HasField("expiration"):
            expiration = expiration_of(message)
        record = Record(DispatchID(f"call_{secrets.token_hex(12)}"), message, parent, expiration)
        self._records[record.id] = record
        self._report("accepted", record, None)
        self._nursery.start_soon(self._driver.drive, record)
        return record

    def _report(self, type: EventType, record: Record, delay: float | None) -> None:
        if type == "ended":
            self._ended.append(record.id)
            while len(self._ended) > self._keep:
                del self._records[self._ended.popleft()]
        if self._on_event is None:
            return
        try:
            self._on_event(CallEvent(type=type, time=now(), call=record.info(), delay=delay))
        except Exception:  # noqa: BLE001 - users' code
            _log.exception("on_event has failed")


@asynccontextmanager
async def open_service(
    api_key: str = "dev",
    signing_key: str | None = None,
    expiration: float = 60,
    *,
    host: str | None = "127.0.0.1",
    port: int = 0,
    endpoints: Iterable[Endpoint] = (),
    routes: Mapping[str, str] | None = None,
    max_concurrency: int = 100,
    attempt_timeout: float | None = None,
    min_retry_delay: float = 0.1,
    max_retry_delay: float = 10,
    keep: int = 10_000,
    max_body_size: int = 16 * 1024 * 1024,
    on_event: Observer | None = None,
    seed: int | None = None,
) -> AsyncGenerator[Service, None]:
    """Open a service of the Dispatch API in this process, for the length of a block.

    It is for development and tests: everything is in memory, and lost at the end of the block.
    Leaving the block cancels what is under way. What the body raises comes out unchanged.

    Args:
        api_key: what clients must show.
        signing_key: an Ed25519 key, PEM or the base64 of its 32 bytes (default: a new one). All
            requests to endpoints are signed with it.
        expiration: seconds after which a call expires that does not say so itself.
        host: the address to listen on; None listens nowhere: clients are those of
            `Service.open_client`, and with *endpoints* nothing needs a socket or a real clock.
        port: the port; 0 takes a free one.
        endpoints: endpoints of this process, to be reached in memory at their URLs.
        routes: where endpoints really are, by their URLs: for ``bridge://`` and ``arn:`` ones.
        max_concurrency: requests to endpoints at a time; further calls wait for their turn.
        attempt_timeout: seconds for one request to an endpoint (default: until the call expires).
        min_retry_delay: seconds before a call is tried again; they double each time, and the jitter
            takes up to half of them away.
        max_retry_delay: seconds that they do not exceed.
        keep: calls that have ended and are remembered.
        max_body_size: bytes of a request, and of an endpoint's answer.
        on_event: called with each `CallEvent`, at once. What it raises is logged.
        seed: for the jitter.

    Raises:
        OSError: it cannot listen there.
        TypeError, ValueError: an argument cannot work.
    """
    check_trio("remote.open_service()")
    key, _ = find_key(api_key)
    signer = Signer(
        Ed25519PrivateKey.generate() if signing_key is None else read_signing_key(signing_key)
    )
    policy = Policy(
        expiration=check_seconds(expiration, "expiration"),
        attempt_timeout=(
            math.inf
            if attempt_timeout is None
            else check_seconds(attempt_timeout, "attempt_timeout")
        ),
        min_retry_delay=check_seconds(min_retry_delay, "min_retry_delay"),
        max_retry_delay=check_seconds(max_retry_delay, "max_retry_delay"),
    )
    places = check_count(max_concurrency, "max_concurrency")
    checked = {check_endpoint(url): _check_route(there) for url, there in (routes or {}).items()}
    options: dict[str, Any] = {
        "max_concurrency": places,
        "keep": check_count(keep, "keep", least=0),
        "max_body_size": check_count(max_body_size, "max_body_size"),
    }
    listeners = [] if host is None else await trio.open_tcp_listeners(port, host=host)
    opened: list[Service] = []

    async def run(*, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as nursery:
            reach = Reach(nursery, signer, checked, max_body_size)
            try:
                service = Service(
                    url=_url_of(listeners[0]) if listeners else MEMORY_URL,
                    api_key=key,
                    signer=signer,
                    policy=policy,
                    reach=reach,
                    on_event=on_event,
                    seed=seed,
                    nursery=nursery,
                    **options,
                )
                opened.append(service)
                if listeners:
                    nursery.start_soon(trio.serve_listeners, service.handle, listeners)
                task_status.started()
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                    await reach.aclose()

    async with in_background(run, nullcontext()):
        (service,) = opened
        for endpoint in endpoints:
            service.add_endpoint(endpoint)
        yield service


def _url_of(listener: trio.SocketListener) -> str:
    address = listener.socket.getsockname()
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"


def _check_route(url: str) -> str:
    parse_url(url, "http", "https")
    return check_endpoint(url)
