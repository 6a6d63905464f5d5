"""The client of the Dispatch API: calls go out one by one or as a batch. Connect over httpx.

One request is one batch: all of its calls are accepted or none. It is sent once more only where
nothing can have been accepted: there was no connection, or the service itself said ``unavailable``.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, cast

import certifi
import httpx
import trio

from trio_dispatch._transport.httpx_tools import Once, make_transport
from trio_dispatch._transport.needs_trio import check_trio
from trio_dispatch._transport.proxies import check_can_connect
from trio_dispatch._transport.reasons import why
from trio_dispatch._transport.tls import context_for
from trio_dispatch._wire.arguments import check_seconds, check_text
from trio_dispatch._wire.errors import ConnectFailed, ProtocolError
from trio_dispatch._wire.proxies import proxy_for
from trio_dispatch._wire.url import parse_url
from trio_dispatch.remote._call import Call, DispatchID
from trio_dispatch.remote._connect import PROTO_TYPE
from trio_dispatch.remote._errors import CallFailed, KeyRefused
from trio_dispatch.remote._messages import DISPATCH_PATH, DispatchRequest, DispatchResponse

DEFAULT_URL: Final = "https://api.dispatch.run"

ATTEMPTS: Final = 4
FIRST_DELAY: Final = 0.1
"""Seconds before the second attempt; each further one waits twice as long."""

MAX_REQUESTS: Final = 100
"""Requests of one client at a time. The others wait here, where no timeout of theirs runs."""

_REFUSALS: Final = frozenset(
    {
        "already_exists",
        "failed_precondition",
        "invalid_argument",
        "not_found",
        "out_of_range",
        "permission_denied",
        "resource_exhausted",
        "unavailable",
        "unimplemented",
    }
)
"""Connect's codes which say that nothing was done; the others may come after it was."""

_log = logging.getLogger("trio_dispatch.remote")


class Client:
    """A client of the Dispatch API. Made by `open_client`. Its repr does not show the key."""

    def __init__(self, http: httpx.AsyncClient, api_url: str, source: str, timeout: float) -> None:
        self._http = http
        self._url = api_url
        self._source = source
        self._timeout = timeout
        self._turns = trio.CapacityLimiter(MAX_REQUESTS)

    def __repr__(self) -> str:
        return f"<Client of {self._url}>"

    async def dispatch(self, call: Call) -> DispatchID:
        """Dispatch one call, and return its id. The function runs whenever the service sees fit.

        Cancelled in flight, the call may have been accepted: the log says so (a warning of
        ``trio_dispatch.remote``), and so does `Batch.maybe_accepted`, for a batch of one.

        Raises:
            KeyRefused: the service does not know the API key.
            CallFailed: the service refused the call; or, where `CallFailed.maybe_accepted`, its
                answer did not come.
            ConnectFailed: there is no connection to the service; nothing was accepted.
            ProtocolError: the answer makes no sense; it may have been accepted.
        """
        (id,) = await self._send([call])
        return id

    def batch(self) -> Batch:
        """Begin an empty batch."""
        return Batch(self)

    async def _send(self, calls: list[Call], note: Note | None = None) -> list[DispatchID]:
        """Dispatch *calls* in one request: all of them or none. *note* hears of doubts."""
        request = DispatchRequest(calls=[call.message() for call in calls])
        body = cast("bytes", request.SerializeToString())
        delay = FIRST_DELAY
        for attempt in range(1, ATTEMPTS + 1):
            try:
                async with self._turns:
                    answer = await self._post(body, note or _ignore)
                return self._read(*answer, len(calls))
            except (CallFailed, ConnectFailed) as exc:
                if isinstance(exc, CallFailed) and exc.code != "unavailable":
                    raise
                if attempt == ATTEMPTS:
                    raise
            await trio.sleep(delay)
            delay *= 2
        raise AssertionError  # pragma: no cover

    async def _post(self, body: bytes, note: Note) -> tuple[int, str, bytes]:
        once = Once(body)
        request = self._http.build_request(
            "POST",
            self._url + DISPATCH_PATH,
            headers={
                "Content-Type": PROTO_TYPE,
                "Content-Length": str(len(body)),
                "Connect-Protocol-Version": "1",
                "Connect-Timeout-Ms": str(int(self._timeout * 1000)),
            },
        )
        request.stream = once
        try:
            with trio.fail_after(self._timeout):
                async with aclosing(await self._http.send(request, stream=True)) as response:
                    answer = await response.aread()
        except trio.TooSlowError:
            text = f"no answer from {self._url} within {self._timeout:g} s"
            raise CallFailed("timeout", text, once.taken) from None
        except trio.Cancelled:
            if once.taken:
                note()
                _log.warning("a request to %s was cancelled; it may have been accepted", self._url)
            raise
        except httpx.HTTPError as exc:
            if not once.taken:
                raise ConnectFailed(f"cannot connect to {self._url}: {why(exc)}") from exc
            raise CallFailed("connection_lost", f"{self._url}: {why(exc)}", True) from exc
        return response.status_code, response.headers.get("content-type", ""), answer

    def _read(self, status: int, kind: str, answer: bytes, calls: int) -> list[DispatchID]:
        if status != 200:
            raise self._error(status, kind, answer)
        try:
            ids: Iterable[str] = DispatchResponse.FromString(answer).dispatch_ids
        except Exception as exc:  # protobuf raises its own, which has no public home
            raise ProtocolError(
                f"the answer of {self._url} cannot be read ({kind or 'no type'}), "
                f"so the calls may have been accepted: {exc}"
            ) from exc
        found = [DispatchID(id) for id in ids]
        if len(found) != calls or not all(found):
            what = f"{len(found)} ids" if all(found) else "an empty id"
            raise ProtocolError(
                f"{self._url} answered {calls} calls with {what}; they may have been accepted"
            )
        return found

    def _error(self, status: int, kind: str, answer: bytes) -> CallFailed:
        code, message = connect_error(kind, answer)
        if code == "unauthenticated" or (not code and status == 401):
            text = f"{self._url} refused the API key {self._source}: {message}"
            return KeyRefused("unauthenticated", text, False)
        if not code:
            # A proxy's word, or a crash: the service may have got the request.
            text = f"{self._url} answered with {kind or 'no type'}: {message}"
            return CallFailed(f"http {status}", text, status >= 500)
        return CallFailed(code, f"{self._url}: {message}", code not in _REFUSALS)


Note = Callable[[], None]


def _ignore() -> None:
    pass


def connect_error(kind: str, answer: bytes) -> tuple[str, str]:
    """Read the code and the message of a Connect error; no code where it is none."""
    text = " ".join(answer[:200].decode("utf-8", "replace").split())
    if "json" in kind:
        try:
            fields: Any = json.loads(answer)
        except ValueError:
            return "", text
        if isinstance(fields, dict):
            error = cast("dict[str, object]", fields)
            code = error.get("code")
            if isinstance(code, str):
                return code, str(error.get("message") or "no explanation")
    return "", text or "no explanation"


class Batch:
    """Calls that are dispatched together, all or none. Made by `Client.batch`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: list[Call] = []
        self._maybe_accepted = False

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} calls>"

    def __len__(self) -> int:
        """How many calls are in it."""
        return len(self._calls)

    def add(self, *calls: Call) -> None:
        """Add *calls*. Raises `TypeError` for what is no `Call`; then none is added."""
        for call in calls:
            if not isinstance(call, Call):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a batch holds calls, not {type(call).__name__}")
        self._calls += calls

    @property
    def maybe_accepted(self) -> bool:
        """Whether its last `dispatch` was cancelled so late that the service may have accepted it.

        As a whole: never a part of it. Errors say so themselves, by `CallFailed.maybe_accepted`.
        """
        return self._maybe_accepted

    def reset(self) -> None:
        """Take all calls out."""
        self._calls.clear()
        self._maybe_accepted = False

    async def dispatch(self) -> list[DispatchID]:
        """Dispatch the calls, and return their ids in order: all of them or none.

        The batch keeps its calls, so it can be dispatched again. Errors are those of
        `Client.dispatch`. Cancelled, see `maybe_accepted`.

        Raises:
            ValueError: it is empty.
        """
        if not self._calls:
            raise ValueError("the batch is empty; add calls first")
        self._maybe_accepted = False
        return await self._client._send(list(self._calls), self._note)  # pyright: ignore[reportPrivateUsage]

    def _note(self) -> None:
        self._maybe_accepted = True


def find_key(api_key: str | None) -> tuple[str, str]:
    """The API key, and the words for it: its first three characters and where it came from."""
    source = "given as api_key"
    key = api_key
    if key is None:
        key, source = os.environ.get("DISPATCH_API_KEY"), "of DISPATCH_API_KEY"
        if not key:
            raise ValueError(
                "no API key: pass api_key, or set the environment variable DISPATCH_API_KEY"
            )
    check_text(key, "an API key")
    if any(not "!" <= char <= "~" for char in key):
        raise ValueError(f"the API key {source} holds characters that no header can carry")
    return key, f"{key[: min(3, len(key) // 2)]!r}… {source}"


def find_url(api_url: str | None) -> str:
    """The URL of the service, from the argument, the environment, or the default."""
    url = api_url or os.environ.get("DISPATCH_API_URL") or DEFAULT_URL
    parse_url(url, "http", "https")
    return url.rstrip("/")


@asynccontextmanager
async def open_client(
    api_key: str | None = None,
    api_url: str | None = None,
    *,
    timeout: float = 30,
) -> AsyncGenerator[Client, None]:
    """Open a client of the Dispatch API, for the length of a block.

    Args:
        api_key: the key; that of ``DISPATCH_API_KEY`` without.
        api_url: the service; that of ``DISPATCH_API_URL`` without, else ``https://api.dispatch.run``.
        timeout: seconds for each request, from when it is its turn: a client has 100 requests
            under way at most.

    Raises:
        ValueError: there is no key, the URL is none, or a variable that names a proxy or
            certificates makes no sense.
    """
    check_trio("remote.open_client()")
    key, source = find_key(api_key)
    url = find_url(api_url)
    address = parse_url(url, "http", "https")
    proxy = proxy_for(address, "env", os.environ)
    if proxy is not None and proxy.is_socks:
        check_can_connect(proxy)
    context = context_for(address)
    if address.secure and not {"SSL_CERT_FILE", "SSL_CERT_DIR"} & os.environ.keys():
        # As httpx does, for systems that have no certificates of their own.
        context.load_verify_locations(cafile=certifi.where())
    http = httpx.AsyncClient(
        headers={"Authorization": f"Bearer {key}"},
        timeout=httpx.Timeout(None),
        trust_env=False,
        transport=make_transport(address, context, proxy, max_keepalive_connections=MAX_REQUESTS),
    )
    try:
        yield Client(http, url, source, check_seconds(timeout, "timeout"))
    finally:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
            await http.aclose()
