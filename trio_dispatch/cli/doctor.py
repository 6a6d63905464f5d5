"""``trio-dispatch doctor``: what works with a server, what the token may do, and what is odd."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, Literal

import attrs
import trio
from rich.console import Console
from rich.table import Table
from rich.text import Text

from trio_dispatch import (
    Client,
    DispatchError,
    MethodNotSupported,
    NotFound,
    PermissionDenied,
    RequestError,
)
from trio_dispatch._wire.url import parse_url
from trio_dispatch.cli.connect import ServerOptions, connect
from trio_dispatch.cli.exits import Exit
from trio_dispatch.cli.output import OutputOptions, chosen, print_line
from trio_dispatch.cli.running import run_async
from trio_dispatch.cli.several import CONNECTIONS, count_servers
from trio_dispatch.cli.text import readable

ROUND_TRIPS: Final = 20
NO_JOB: Final = f"job_{0:026}"
NO_RUN: Final = f"wfrun_{0:026}"
"""Ids that no job and no run has."""

Verdict = Literal["ok", "note", "missing", "problem"]

_COLOURS: Final[dict[Verdict, str]] = {
    "ok": "green",
    "note": "yellow",
    "missing": "yellow",
    "problem": "bold red",
}


@attrs.frozen
class Finding:
    """One thing that was looked at."""

    verdict: Verdict
    subject: str
    text: str
    advice: str = ""


def doctor(*, server: ServerOptions | None = None, output: OutputOptions | None = None) -> int:
    """Look a server over: connection, latency, what the token may do, and what is odd.

    It changes nothing on the server: it asks for a job and a run that do not exist, and subscribes
    to channels that bring nothing, on several connections, as the URL may lead to several servers.
    Exit code 0: it can be worked with; 1: something is in the
    way.
    """
    options = server or ServerOptions()
    out = chosen(output)
    token = options.find_token()
    client = options.connect()
    console = Console(highlight=False)

    async def examine() -> Exit:
        findings: list[Finding] = []

        def tell(finding: Finding) -> None:
            findings.append(finding)
            if not out.for_programs:
                _print(console, finding)

        begin = trio.current_time()
        async with client as opened:
            took = trio.current_time() - begin
            via = f"{opened.transport}, session {opened.session_id or 'without an id'}"
            tell(Finding("ok", "connection", f"connected in {1000 * took:.0f} ms ({via})"))
            tell(await _latency(opened))
            for finding in await _scopes(opened):
                tell(finding)
            for finding in await _quirks(opened):
                tell(finding)
            tell(await find_servers(options.urls, partial(connect, token=token, warn=False)))
            tell(await _msgpack(options.urls[0], token))
            tell(await _http(options.urls[0], token))
        if out.for_programs:
            out.value(findings)
        return Exit.FAILED if any(f.verdict == "problem" for f in findings) else Exit.OK

    return run_async(examine)


def _print(console: Console, finding: Finding) -> None:
    text = readable(finding.text) + (f". {readable(finding.advice)}" if finding.advice else "")
    if not console.is_terminal:
        print_line(f"{finding.verdict:<8} {finding.subject}: {text}")
        return
    row = Table.grid(padding=(0, 1), expand=True)
    row.add_column(width=8)
    row.add_column(width=16)
    row.add_column(ratio=1)
    row.add_row(Text(finding.verdict, _COLOURS[finding.verdict]), finding.subject, Text(text))
    console.print(row)


async def _latency(client: Client) -> Finding:
    times: list[float] = []
    for _ in range(ROUND_TRIPS):
        begin = trio.current_time()
        await _allowed(client.get_job(NO_JOB))
        times.append(1000 * (trio.current_time() - begin))
    median = statistics.median(times)
    text = f"{median:.2f} ms for a round trip ({min(times):.2f} to {max(times):.2f})"
    if median > 200:
        return Finding("note", "latency", text, "Use enqueue_many for many jobs")
    return Finding("ok", "latency", text)


async def _allowed(asking: Awaitable[object]) -> bool:
    """Whether the token may; an answer that there is no such thing says that it may."""
    try:
        await asking
    except PermissionDenied:
        return False
    except (NotFound, MethodNotSupported):
        pass
    return True


async def _subscribe(client: Client) -> None:
    async with client.subscribe(f"job:{NO_JOB}"):
        pass


_SCOPES: Final[dict[str, tuple[Callable[[Client], Awaitable[object]], str]]] = {
    "job:read": (lambda c: c.get_job(NO_JOB), "get_job and wait_job will fail"),
    "job:write": (lambda c: c.cancel_job(NO_JOB), "enqueue and cancel_job will fail"),
    "workflow:read": (
        lambda c: c.get_workflow(NO_RUN),
        "get_workflow, timelines and waiting for runs will fail",
    ),
    "workflow:write": (
        # Its scope is checked before the server says that it has no such method.
        lambda c: c.request("workflow.cancel"),
        "start_workflow and publish_event will fail",
    ),
    "subscribe": (_subscribe, "subscribe will fail; waiting works, but asks now and then instead"),
    "stats:read": (lambda c: c.stats(), "stats will fail"),
}


async def _scopes(client: Client) -> list[Finding]:
    found: list[Finding] = []
    for scope, (probe, without) in _SCOPES.items():
        try:
            allowed = await _allowed(probe(client))
        except RequestError as exc:
            text = f"{scope}: the server answered {exc}"
            found.append(Finding("note", "scope", text, "It should allow it, or refuse it"))
            continue
        if allowed:
            found.append(Finding("ok", "scope", scope))
        else:
            text = f"{scope} is not the token's"
            found.append(Finding("missing", "scope", text, f"Without it {without}"))
    return found


async def _quirks(client: Client) -> list[Finding]:
    found: list[Finding] = []
    try:
        steps = await client.workflow_timeline(NO_RUN)
    except (NotFound, PermissionDenied):
        pass
    else:
        if not steps:
            text = "the timeline of a run that does not exist is empty, and no error"
            advice = "Ask get_workflow first where that matters"
            found.append(Finding("note", "quirk", text, advice))
    try:
        statistics = await client.stats()
    except PermissionDenied:
        pass
    else:
        if not statistics.connections:
            text = "its statistics count no connections, although there is this one"
            found.append(Finding("note", "quirk", text, "Read broker.subscriber_count instead"))
    return found


async def find_servers(
    urls: Sequence[str], open_client: Callable[[str], AbstractAsyncContextManager[Client]]
) -> Finding:
    """Find out how many servers *urls* lead to, and what follows for those who listen."""
    if parse_url(urls[0], "ws", "wss", "http", "https").is_http:
        return Finding("note", "servers", "not counted over HTTP", "Use the ws URL")
    each = max(2, CONNECTIONS // len(urls))
    try:
        servers = await count_servers(
            [partial(open_client, url) for url in urls for _ in range(each)]
        )
    except PermissionDenied:
        text = "not counted: that needs the scopes stats:read and subscribe"
        return Finding("note", "servers", text)
    except DispatchError as exc:
        return Finding("note", "servers", f"not counted: {exc}")
    connections = each * len(urls)
    if servers == len(urls) == 1:
        return Finding("ok", "servers", f"one: {connections} connections reached the same")
    if servers == len(urls):
        return Finding("ok", "servers", f"{servers}, one for each URL")
    if servers < len(urls):
        text = f"{servers} for {len(urls)} URLs: some lead to the same"
        return Finding("note", "servers", text, "Name each server once")
    what = "this URL" if len(urls) == 1 else f"these {len(urls)} URLs"
    return Finding(
        "note",
        "servers",
        f"at least {servers} behind {what}",
        "A subscriber hears the events of the one that it is connected to: give the URL of each. "
        "Requests, waits and runs lose nothing",
    )


async def _msgpack(url: str, token: str | None) -> Finding:
    address = parse_url(url, "ws", "wss", "http", "https")
    if address.is_http:
        return Finding("note", "msgpack", "not over HTTP")
    try:
        async with connect(url, token, format="msgpack", warn=False) as client:
            await _allowed(client.get_job(NO_JOB))
    except DispatchError as exc:
        return Finding("note", "msgpack", f"does not work: {exc}", "Leave format='json'")
    return Finding("ok", "msgpack", "works; JSON is the faster of the two")


async def _http(url: str, token: str | None) -> Finding:
    by_http = "http" + url[2:] if url.startswith("ws") else url
    try:
        async with connect(by_http, token, warn=False) as client:
            await _allowed(client.get_job(NO_JOB))
    except ModuleNotFoundError:
        return Finding("note", "HTTP", "not tried", "pip install 'trio-dispatch[http]'")
    except DispatchError as exc:
        advice = "http:// URLs and cancel_with_scope=True will not work"
        return Finding("note", "HTTP", f"does not work: {exc}", advice)
    return Finding("ok", "HTTP", "works, and so does cancel_with_scope=True")
