"""Which proxy leads to a server, by the usual variables, and what makes no sense in them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._wire.proxies import Proxy, proxy_for, read_proxy
from trio_dispatch._wire.url import parse_url


def found(url: str, choice: str | None = "env", **variables: str) -> str | None:
    proxy = proxy_for(parse_url(url, "ws", "wss", "http", "https"), choice, variables)
    return None if proxy is None else f"{proxy.url} {proxy.source}"


def test_an_option_wins_over_the_variables() -> None:
    assert found("ws://h/dwp", None, ALL_PROXY="http://p") is None
    assert found("ws://h/dwp", "http://q:8", ALL_PROXY="http://p") == "http://q:8 proxy="
    assert found("ws://h/dwp") is None
    with pytest.raises(ValueError, match="proxy= must be a proxy"):
        found("ws://h/dwp", "h:8")
    with pytest.raises(ValueError, match="proxy= must be a proxy"):
        found("ws://h/dwp", "")


@pytest.mark.parametrize(
    ("scheme", "wanted"),
    [
        ("ws", "HTTPS_PROXY"),
        ("wss", "HTTPS_PROXY"),
        ("http", "HTTP_PROXY"),
        ("https", "HTTPS_PROXY"),
    ],
)
def test_each_scheme_has_its_variable(scheme: str, wanted: str) -> None:
    names = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
    proxy = found(f"{scheme}://h/dwp", **{name: f"http://{name.lower()[:-6]}" for name in names})
    assert proxy is not None
    assert proxy.endswith(f" {wanted}")
    assert found(f"{scheme}://h/dwp", ALL_PROXY="socks5h://p") == "socks5://p:1080 ALL_PROXY"
    assert found(f"{scheme}://h/dwp", **{wanted: ""}, ALL_PROXY="p:1") == "http://p:1 ALL_PROXY"


def test_a_websocket_takes_the_proxy_for_http_if_there_is_none_for_https() -> None:
    assert found("ws://h/dwp", HTTP_PROXY="http://p") == "http://p:80 HTTP_PROXY"
    assert found("wss://h/dwp", HTTP_PROXY="http://p") is None


def test_lower_case_wins_and_programs_of_a_web_server_beware() -> None:
    assert (
        found("wss://h", HTTPS_PROXY="http://a", https_proxy="http://b")
        == "http://b:80 https_proxy"
    )
    assert found("wss://h", HTTPS_PROXY="http://a", https_proxy="") is None
    assert found("http://h", HTTP_PROXY="http://a", REQUEST_METHOD="GET") is None
    assert found("http://h", http_proxy="http://a", REQUEST_METHOD="GET") is not None


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("h.example.com", "example.com", True),
        ("h.example.com", ".example.com", True),
        ("example.com", ".example.com", True),
        ("h.example.com", "*.example.com", True),
        ("H.Example.com", "h.EXAMPLE.com.", True),
        ("notexample.com", "example.com", False),
        ("example.com.evil", "example.com", False),
        ("h", "a, h ,b", True),
        ("h", "a h b", True),
        ("h", "*", True),
        ("h", "", False),
        ("h", ",,", False),
        ("h", ".", False),
        ("h:8080", "h:8080", True),
        ("h:8080", "h:8081", False),
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.1:81", "127.0.0.1:81", True),
        ("127.0.0.1:81", "127.0.0.1:82", False),
        ("127.0.0.1", "localhost", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.0/255.255.255.0", True),
        ("h", "10.0.0.0/8", False),
        ("[::1]", "[::1]", True),
        ("[::1]", "::1", True),
        ("[::1]:81", "[::1]:81", True),
        ("[::1]:81", "[::1]:82", False),
        ("[::1]", "[0:0:0:0:0:0:0:1]", True),
        ("[fd00::5]", "fd00::/8", True),
        ("[fd00::5]", "[fd00::]/8", True),
        ("[fe00::5]", "fd00::/8", False),
        ("1.2.3.4", "2.3.4", False),
    ],
)
def test_no_proxy_names_hosts_addresses_and_networks(
    host: str, no_proxy: str, direct: bool
) -> None:
    assert (found(f"ws://{host}/dwp", ALL_PROXY="http://p", NO_PROXY=no_proxy) is None) is direct
    assert found(f"ws://{host}/dwp", "http://p", NO_PROXY=no_proxy) is not None


@pytest.mark.parametrize(
    "entry", ["10.0.0.0/99", "a/b", "[::1", "[h]", "[::1]x", "h:port", "h:1:2"]
)
def test_an_entry_that_makes_no_sense_is_named(entry: str) -> None:
    with pytest.raises(ValueError, match="NO_PROXY has an entry"):
        found("ws://h/dwp", ALL_PROXY="http://p", NO_PROXY=entry)


@pytest.mark.parametrize(
    "value",
    [
        "socks://h:1",
        "socks4://h:1",
        "ftp://h",
        "[::1]",
        "[::1",
        "http://",
        "http://h:port",
        "http://h:99999",
        "http://[h]",
        "http://h/path",
        "http://h?s3cr3t",
        "http://u:s3cr3t#x@h",
        "http://u:s3cr3t@h:x",
        "http://h\u00e9",
        "http://h h",
        "http://a%3Ab:s3cr3t@h",
        "http://:s3cr3t@h",
        "http://u:s3cr3t%0A@h",
        "://h",
    ],
)
def test_a_variable_that_makes_no_sense_is_named_and_no_secret_shown(value: str) -> None:
    if value == "[::1]":
        assert found("ws://h/dwp", ALL_PROXY=value) == "http://[::1]:80 ALL_PROXY"
        return
    with pytest.raises(ValueError, match="ALL_PROXY must be a proxy") as caught:
        found("ws://h/dwp", ALL_PROXY=value)
    assert "s3cr3t" not in str(caught.value)
    # What is reached without a proxy does not need it.
    assert found("ws://h/dwp", ALL_PROXY=value, NO_PROXY="h") is None


def test_a_password_is_decoded_and_not_shown() -> None:
    proxy = read_proxy("socks5://us%65r:s3cr3t%40@[::1]:9/", "HTTPS_PROXY")
    assert proxy.is_socks
    assert (proxy.user, proxy.password) == ("user", "s3cr3t@")
    assert proxy.shown == "the proxy socks5://[::1]:9 (HTTPS_PROXY)"
    assert "s3cr3t" not in repr(proxy)
    assert read_proxy("http://user@h", "x").password == ""


@given(st.text())
def test_any_text_is_a_proxy_or_an_error(text: str) -> None:
    try:
        assert isinstance(read_proxy(text, "ALL_PROXY"), Proxy)
    except ValueError as exc:
        assert str(exc).startswith("ALL_PROXY must be a proxy")
