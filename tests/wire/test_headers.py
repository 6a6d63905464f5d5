"""Headers: which users may set, and that there is one of each that may stand once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._wire.headers import (
    check_one_authorization,
    complete_headers,
    find_header,
    read_headers,
    split_host,
)
from trio_dispatch._wire.url import parse_url

HERE = parse_url("ws://h:81/dwp", "ws")
WITH_USER = parse_url("ws://user:p%40ss@h/dwp", "ws")


def test_a_mapping_and_pairs_are_read() -> None:
    assert read_headers({"X-A": "1", "x_b": ""}) == (("X-A", "1"), ("x_b", ""))
    assert read_headers([("X-A", "1"), ("X-A", "a b\tc")]) == (("X-A", "1"), ("X-A", "a b\tc"))
    assert read_headers(()) == ()


@pytest.mark.parametrize(
    "headers",
    [
        {"": "x"},
        {"X:Y": "z"},
        {"X Y": "z"},
        {"X\n": "z"},
        {"Ä": "z"},
        {"X-Team": "s3cr3t\n"},
        {"X-Team": "s3cr3t\r\nX-Evil: 1"},
        {"X-Team": " s3cr3t"},
        {"X-Team": "s3cr3t日本"},
        {"X-Team": "s3cr3t\x00"},
        {"X-Team": "s3cr3t\ud800"},
        {"Host": "a", "host": "b"},
        [("Authorization", "s3cr3t"), ("authorization", "s3cr3t")],
        {"Content-Length": "5"},
        {"connection": "close"},
        {"Upgrade": "h2c"},
        {"Transfer-Encoding": "chunked"},
        {"Sec-WebSocket-Key": "x"},
        {"sec-websocket-protocol": "x"},
        [("a", "b", "s3cr3t")],
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(headers: Any) -> None:
    with pytest.raises(ValueError, match="header") as caught:
        read_headers(headers)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    ["X: y", b"X: y", None, 5, [("X", 1)], [(b"X", "y")], {"X": None}, ["X: s3cr3t"], [1]],
)
def test_what_are_no_headers_is_a_type_error(headers: Any) -> None:
    with pytest.raises(TypeError, match=r"header") as caught:
        read_headers(headers)
    assert "s3cr3t" not in str(caught.value)


@given(st.text(), st.text())
def test_any_text_is_sent_as_it_is_or_refused(name: str, value: str) -> None:
    try:
        ((read_name, read_value),) = read_headers([(name, value)])
    except ValueError:
        return
    assert (read_name, read_value) == (name, value)


def test_there_is_one_authorization() -> None:
    def authorization(address: Any, token: str | None, *headers: tuple[str, str]) -> list[str]:
        complete = complete_headers(address, token, headers, "me")
        return [value for name, value in complete if name.lower() == "authorization"]

    assert authorization(HERE, None) == []
    assert authorization(HERE, "t") == ["Bearer t"]
    assert authorization(WITH_USER, "t") == ["Basic dXNlcjpwQHNz"]
    assert authorization(HERE, "t", ("authorization", "Basic x")) == ["Basic x"]
    with pytest.raises(ValueError, match="and headers= an Authorization"):
        check_one_authorization([WITH_USER], (("Authorization", "x"),))
    check_one_authorization([HERE], (("Authorization", "x"),))
    check_one_authorization([WITH_USER], (("Host", "x"),))
    assert read_headers({"Host": "a", "Authorization": "b"})


def test_host_and_user_agent_are_the_users_if_set() -> None:
    assert split_host(HERE, ()) == ("h:81", ())
    assert split_host(HERE, (("a", "b"), ("HOST", "other"))) == ("other", (("a", "b"),))
    assert find_header(complete_headers(HERE, None, (), "me"), "User-Agent") == "me"
    assert complete_headers(HERE, None, (("user-agent", "you"),), "me") == (("user-agent", "you"),)
