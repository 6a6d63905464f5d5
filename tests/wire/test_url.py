"""URLs: where they lead, and that no secret in them is ever shown."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._wire.url import Address, parse_url


def read(url: object) -> Address:
    """Read a URL of any scheme that there is."""
    return parse_url(url, "ws", "wss", "http", "https")


def complaint(url: str, *schemes: str) -> str:
    """What is said of a URL that is refused."""
    with pytest.raises(ValueError, match="URL") as caught:
        parse_url(url, *(schemes or ("ws", "wss")))
    # Nothing more is in what a traceback prints below it.
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# Where it leads.


def test_a_url_has_its_parts() -> None:
    address = read("ws://example.com:8080/dwp?region=eu")
    assert attrs.asdict(address) == {
        "scheme": "ws",
        "host": "example.com",
        "port": 8080,
        "resource": "/dwp?region=eu",
        "shown": "ws://example.com:8080/dwp",
        "user_info": None,
    }


@pytest.mark.parametrize(
    ("scheme", "port", "secure"),
    [("ws", 80, False), ("wss", 443, True), ("http", 80, False), ("https", 443, True)],
)
def test_each_scheme_has_its_port_and_is_encrypted_or_not(
    scheme: str, port: int, secure: bool
) -> None:
    for url in (f"{scheme}://h/dwp", f"{scheme}://h:/dwp"):
        assert read(url).port == port
        assert read(url).secure is secure
        assert read(url).host_header == "h"
    other = read(f"{scheme}://h:{port + 1}/dwp")
    assert other.port == port + 1
    assert other.host_header == f"h:{port + 1}"
    assert read(f"{scheme}://h:{port}/dwp").host_header == "h"


def test_user_and_password_are_kept_and_not_shown() -> None:
    address = read("wss://us%65r:p%40ss%3A%2F@h/dwp")
    assert address.user_info == "user:p@ss:/"
    assert address.secrets == ("dXNlcjpwQHNzOi8=", "p@ss:/")
    assert read("wss://only@h/dwp").secrets == ("b25seTo=",)
    assert read("wss://h/dwp").secrets == ()
    assert read("wss://only@h/dwp").user_info == "only:"
    assert "p@ss" not in f"{address!r} {address.shown}"
    assert "p%40ss" not in f"{address!r} {address.shown}"
    for url in ("ws://a%0Ab:c@h/dwp", "ws://a%3Ab:c@h/dwp", "ws://a:b%00@h/dwp"):
        assert "user and password" in complaint(url)


def test_a_missing_path_is_guessed_at() -> None:
    assert "did you mean ws://h/dwp?" in read("ws://h").hint_for(404)
    assert "did you mean ws://h:8/dwp?" in read("ws://u:p@h:8/?token=x").hint_for(404)
    assert read("ws://h").hint_for(502) == read("ws://h/x").hint_for(404) == ""


def test_a_url_without_a_path_asks_for_the_root() -> None:
    assert read("ws://h").resource == "/"
    assert read("ws://h?a=1").resource == "/?a=1"
    assert read("ws://h").shown == "ws://h"


def test_scheme_and_host_are_read_in_any_case_and_the_path_is_kept() -> None:
    address = read("WSS://EXAMPLE.com/DWP/%C3%A4")
    assert (address.scheme, address.host, address.port) == ("wss", "example.com", 443)
    assert address.resource == "/DWP/%C3%A4"


@pytest.mark.parametrize(
    ("url", "host", "port", "header"),
    [
        ("ws://[::1]/dwp", "::1", 80, "[::1]"),
        ("ws://[::1]:8080/dwp", "::1", 8080, "[::1]:8080"),
        ("wss://[2001:DB8::5]:443", "2001:db8::5", 443, "[2001:db8::5]"),
        ("ws://user:secret@[fe80::1]:1/", "fe80::1", 1, "[fe80::1]:1"),
    ],
)
def test_addresses_of_ip_version_6_stand_in_brackets(
    url: str, host: str, port: int, header: str
) -> None:
    address = read(url)
    assert (address.host, address.port, address.host_header) == (host, port, header)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST", "app.localhost", "127.0.0.1", "127.8.8.8", "[::1]"]
)
def test_hosts_that_are_this_machine(host: str) -> None:
    assert read(f"ws://{host}:8080/dwp").loopback


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "localhost.example.com",
        "notlocalhost",
        "10.0.0.1",
        "128.0.0.1",
        "0.0.0.0",
        "[::2]",
        "127.0.0.1.example.com",
    ],
)
def test_hosts_that_are_not_this_machine(host: str) -> None:
    assert not read(f"ws://{host}/dwp").loopback


# What is refused.


@pytest.mark.parametrize("url", [None, b"ws://h/", 7, ["ws://h/"]])
def test_what_is_no_text_is_no_url(url: object) -> None:
    with pytest.raises(TypeError, match=f"not {type(url).__name__}"):
        read(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "h",
        "h/dwp",
        "//h/dwp",
        "ws:",
        "ws:/h",
        "ws:///dwp",
        "ws://:80/",
        "ws://user@/dwp",
        "localhost:8080/dwp",
        "http://h/dwp",
        "https://h/dwp",
        "ftp://h/",
        "wsx://h/",
        "://h",
    ],
)
def test_what_is_no_such_url_is_shown_beside_one_that_is(url: str) -> None:
    said = complaint(url)
    assert "not a URL like ws://host[:port]/path or wss://host[:port]/path" in said
    assert repr(url.replace("user@", "")) in said


@pytest.mark.parametrize(
    "place",
    ["h:99999", "h:-1", "h:http", "h:8o8o", "h:１", "[::1", "::1]", "[nonsense]", "ho\u2100st"],
)
def test_a_host_or_port_that_cannot_be_read_is_refused(place: str) -> None:
    assert "its host or port cannot be read" in complaint(f"ws://{place}/dwp")


@pytest.mark.parametrize(
    "url",
    [
        " ws://h/",
        "ws://h/ ",
        "ws://h/a b",
        "ws://h/\n",
        "ws://h\t/",
        "ws://h/\x7f",
        "ws://h/\x00",
        "ws://h/?q=a b",
        "ws://bücher.example/",
        "ws://h/ä",
        "ws://h/\ud800",
    ],
)
def test_a_url_is_printable_ascii_as_the_request_line_needs_it(url: str) -> None:
    assert "printable ASCII" in complaint(url)


def test_a_fragment_is_refused_as_nobody_would_send_it() -> None:
    assert "no fragment" in complaint("ws://h/dwp#here")


# Secrets.

SECRETS = [
    "ws://user:SECRET@h/dwp",
    "ws://SECRET@h/dwp",
    "ws://:SECRET@h/dwp",
    "ws://user@SECRET@h/dwp",
    "ws://h/dwp?token=SECRET",
    "ws://h?SECRET",
    "ws://user:SECRET@[::1]:8080/dwp?token=SECRET",
]


@pytest.mark.parametrize("url", SECRETS)
def test_secrets_are_not_shown(url: str) -> None:
    address = read(url)
    assert "SECRET" not in address.shown
    assert "SECRET" not in repr(address)
    assert "SECRET" not in str(address)
    assert "SECRET" not in address.host_header
    assert address.host in address.shown


def test_a_query_is_asked_for_all_the_same() -> None:
    assert read("ws://user:SECRET@h/dwp?token=SECRET").resource == "/dwp?token=SECRET"


@pytest.mark.parametrize(
    "url",
    [url.replace("ws://", scheme) for url in SECRETS for scheme in ("ftp://", "ws:/", "ws:", "")]
    + [f"{url}\n" for url in SECRETS]
    + [f"{url}#x" for url in SECRETS]
    + [
        "ws://user:80?SECRET@h/dwp",
        "ws://SECRET?x@h/dwp",
        "user:SECRET?x@h/dwp",
        "user:SECRET://x@h/dwp",
        "ws://h/dwp?token=SECRET@x",
        "ws://user:SECRET",  # the host was forgotten
        "ws://user:SECRET/dwp",
        "ws://user:SECRET@h:99999/dwp",
        "ws://user:SECRET@h:port/dwp",
        "ws://user:SECRET@ho\u2100st/dwp",  # Python's own message quotes all of it
        "ws://[SECRET]/dwp",
        "ws://user:SECRET@[::1/dwp",
        "ws://user:SECRET@/dwp",
        "ws://user:80/SECRET@h/dwp",  # a token with a slash
        "ws://user:80#SECRET@h/dwp",
        "ws://user:SE/SECRET@h/dwp",
        "ws://h/dwp#SECRET",
        "x://user:SECRET@h://dwp",
    ],
)
def test_secrets_are_not_in_what_is_said_of_a_refused_url(url: str) -> None:
    assert "SECRET" not in complaint(url)


def test_a_token_with_a_slash_is_not_taken_for_host_and_port() -> None:
    assert "write / as %2F" in complaint("ws://user:80/SECRET@h/dwp")
    assert read("ws://user:80%2FSECRET@h/dwp").host == "h"


SECRET_TEXTS = st.text(st.sampled_from("SECRT/@:?#[]%. \nä"), max_size=12).map(
    lambda text: f"{text[: len(text) // 2]}KEY{text[len(text) // 2 :]}"
)


@given(SECRET_TEXTS, st.sampled_from(["ws://u:{}@h:80/p", "ws://{}@h", "ws://h/?t={}", "u:{}@h"]))
def test_whatever_a_secret_is_made_of_it_is_not_shown(secret: str, form: str) -> None:
    try:
        address = parse_url(form.format(secret), "ws")
    except ValueError as refused:
        shown = str(refused)
    else:
        shown = f"{address!r} {address} {address.shown}"
    assert "KEY" not in shown


@given(st.text(max_size=40) | st.text("ws:/@?#[]%.h1 \n", max_size=20).map("ws://{}".format))
def test_any_text_is_a_url_or_a_value_error(text: str) -> None:
    try:
        address = read(text)
    except ValueError:
        return
    assert address.host
    assert address.resource.startswith("/")
    assert address.host_header.isascii()
    assert address.shown.isascii()
    assert 0 <= address.port <= 65535
