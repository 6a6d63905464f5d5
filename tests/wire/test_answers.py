"""HTTP answers of proxies and strangers: one line each, without pages and without secrets."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trio_dispatch._wire.answers import describe_answer, retry_after

PAGE = (
    b"<!DOCTYPE html><html><head><title>502</title></head><body><h1>Bad Gateway</h1></body></html>"
)


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        ((404, "Not Found", (), b"no such\r\n  page"), "HTTP 404 Not Found: no such page"),
        ((404, "", (), b""), "HTTP 404 Not Found"),
        ((799, "", (), b""), "HTTP 799"),
        ((502, "Bad Gateway", (), PAGE), "HTTP 502 Bad Gateway (an HTML page)"),
        ((502, "", (), b"  <h1>502</h1>"), "HTTP 502 Bad Gateway (an HTML page)"),
        (
            (502, "", (("content-type", "text/html; charset=x"),), b"oops"),
            "HTTP 502 Bad Gateway (an HTML page)",
        ),
        ((503, "Busy", (("Retry-After", "5"),), b""), "HTTP 503 Busy (Retry-After: 5)"),
        (
            (301, "", (("Location", "https://u:s3cr3t@there/dwp?token=s3cr3t"),), b""),
            "HTTP 301 Moved Permanently, a redirect to https://there/dwp, which is not followed",
        ),
        ((400, "Bad Request", (), b"400 Bad Request"), "HTTP 400 Bad Request"),
        ((400, "a\x1b[31mb", (), b"c\x1b[0m\x00d\xff"), "HTTP 400 a [31mb: c [0m d\ufffd"),
    ],
)
def test_an_answer_is_one_line(
    answer: tuple[int, str, tuple[tuple[str, str], ...], bytes], line: str
) -> None:
    assert describe_answer(*answer) == line


def test_long_answers_are_cut() -> None:
    assert len(describe_answer(400, "", (), b"x" * 100_000)) < 300


def test_a_token_that_an_answer_repeats_is_hidden() -> None:
    line = describe_answer(400, "", (), b"bad header: Bearer s3cr3t", secrets=("s3cr3t", ""))
    assert line == "HTTP 400 Bad Request: bad header: Bearer …"


@given(st.integers(100, 999), st.text(), st.text(), st.text(), st.binary(max_size=2_000))
def test_any_answer_is_one_printable_line(
    status: int, reason: str, location: str, wait: str, body: bytes
) -> None:
    headers = (("Location", location), ("Retry-After", wait))
    assert describe_answer(status, reason, headers, body).isprintable()
    seconds = retry_after(headers)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("5", 5.0),
        (" 0 ", 0.0),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("1e3", None),
        ("Thu, 01 Jan 2026 00:01:00 GMT", 60.0),
        ("Thu, 01 Jan 2026 00:01:00", 60.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thu, 99 Jan 2026 00:01:00 GMT", None),
        ("Thu, 01 Jan 99999 00:01:00 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    now = datetime(2026, 1, 1, tzinfo=timezone.utc)
    assert retry_after((("X", "9"), ("retry-AFTER", value)), now) == seconds
    assert retry_after(()) is None
