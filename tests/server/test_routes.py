"""Targets, paths and handshakes of HTTP. Expectations are a real server's answers."""

from __future__ import annotations

import pytest

from trio_dispatch._transport.http_server import Request
from trio_dispatch.server._handshake import acceptance, find_refusal
from trio_dispatch.server._routes import Redirect, Routes, read_target


@pytest.mark.parametrize(
    ("method", "path", "found"),
    [
        ("GET", "/dwp", "websocket"),
        ("GET", "/dwp/", "websocket"),
        ("POST", "/dwp/rpc///", "rpc"),
        ("GET", "/dwp/sse", "events"),
        ("HEAD", "/dwp", None),
        ("get", "/dwp/rpc", None),
        ("GET", "//dwp", Redirect("/dwp")),
        ("GET", "/x/../dwp", Redirect("/dwp")),
        ("GET", "/../dwp/./sse", Redirect("/dwp/sse")),
        ("POST", "/dwp//rpc", Redirect("/dwp/rpc")),
    ],
)
def test_paths_lead_somewhere(method: str, path: str, found: object) -> None:
    assert Routes("/dwp").find(method, path) == found


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "//"),
        ("GET", "/DWP"),
        ("GET", "/dwp//rpc"),
        ("GET", "/dwp/."),
        ("GET", "*"),
    ],
)
def test_other_paths_lead_nowhere(method: str, path: str) -> None:
    with pytest.raises(LookupError):
        Routes("/dwp").find(method, path)


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("/dwp?a", "/dwp"),
        ("http://x/dwp", "/dwp"),
        ("http://x", ""),
        ("/dw%70", "/dw%70"),
        ("/dwp#x", "/dwp#x"),
        ("*", "*"),
    ],
)
def test_targets_have_a_path(target: str, path: str) -> None:
    assert read_target(target).path == path


@pytest.mark.parametrize(
    ("query", "channel"),
    [
        ("channel=jobs", "jobs"),
        ("token=x&channel=job%3Ax+y", "job:x y"),
        ("channel=&channel=jobs", ""),
        ("channel=a;b&channel=jobs", "jobs"),
        ("channel=%zz&chan%6eel=jobs", "jobs"),
        ("", ""),
    ],
)
def test_the_first_sound_field_of_a_query_counts(query: str, channel: str) -> None:
    assert read_target(f"/dwp?{query}").field("channel") == channel


GOOD = {
    "host": "x",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-version": "13",
}


def handshake(version: str = "1.1", **changes: str) -> Request:
    headers = {**GOOD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return Request("GET", "/dwp", version, headers, list(headers.items()))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"upgrade": "WEBSOCKET"},
        {"connection": "keep-alive, upgrade"},
        {"sec_websocket_key": "?" * 24},
        {"origin": "http://elsewhere", "sec_websocket_protocol": "a", "content_length": "3"},
    ],
)
def test_handshakes_are_accepted(changes: dict[str, str]) -> None:
    assert find_refusal(handshake(**changes)) is None


def test_a_handshake_is_accepted_as_rfc_6455_has_it() -> None:
    assert acceptance(handshake()) == [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
    ]


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({"version": "1.0"}, b"505 HTTP Version Not Supported"),
        ({"host": ""}, b"400 Bad Request"),
        ({"upgrade": ""}, b"400 Bad Request"),
        ({"connection": "close"}, b"400 Bad Request"),
        ({"sec_websocket_key": "short"}, b"400 Bad Request"),
        ({"sec_websocket_version": ""}, b"400 Bad Request"),
        ({"sec_websocket_version": "12"}, b"426 Upgrade Required"),
    ],
)
def test_other_handshakes_are_refused(changes: dict[str, str], answer: bytes) -> None:
    refusal = find_refusal(handshake(**changes))
    assert refusal is not None
    head, _, text = refusal.encode().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 " + answer + b"\r\n")
    assert f"Content-Length: {len(text)}".encode() in head
    assert text.startswith(b"handshake error: bad ")
    assert (b"Sec-WebSocket-Version: 13" in head) == (b"426" in answer)
