"""Lines and values: fit for a terminal of any width, and for programs nothing is lost."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from trio_dispatch import Event, StreamGap
from trio_dispatch.cli.lines import event_line, moment
from trio_dispatch.cli.output import as_json, as_yaml, table
from trio_dispatch.cli.text import cut, readable, short_id

AT = datetime(2026, 11, 21, 12, tzinfo=timezone.utc)
JOB = "job_01m89dbqygfwmr4cfy9qbfhrtv"
RUN = "wfrun_01m89embdffyvb2m209w1jccjd"
WIDTHS = range(60, 201)


def step_failed() -> Event:
    data = {"run_id": RUN, "name": "order-pipeline", "step_name": "charge", "error": "no money"}
    return Event(type="workflow.step_failed", ts=AT, topic=f"workflow:{RUN}", data=data)


def job_dead(**data: object) -> Event:
    fields = {"job_id": JOB, "job_name": "send-email", "queue": "email", "error": "no \x1b mailbox"}
    return Event(type="job.dlq", ts=AT, topic=f"job:{JOB}", data={**fields, **data})


@pytest.mark.parametrize("width", WIDTHS)
def test_the_name_the_step_and_the_error_are_seen_at_every_width(width: int) -> None:
    line = event_line(step_failed(), width)
    assert cell_len(line) <= width
    assert "workflow.step_failed  order-pipeline  charge" in line
    assert ("charge: no money" in line) == (width >= 64) or "charge: no" in line
    line = event_line(job_dead(), width)
    assert cell_len(line) <= width
    assert "send-email  no \ufffd mailbox" in line
    assert short_id(JOB) in line or width < 62


def test_without_a_terminal_a_line_has_everything() -> None:
    line = event_line(job_dead(region="north"))
    assert f"job:{JOB}" in line
    assert "queue=email region=north" in line


@given(st.text(), st.text(), st.integers(0, 200))
def test_no_text_breaks_a_line(name: str, error: str, width: int) -> None:
    line = event_line(job_dead(job_name=name, error=error), width)
    assert cell_len(line) <= width
    assert line == readable(line)
    assert "\n" not in line


def test_a_gap_is_a_line() -> None:
    assert "events may be missing here" in event_line(StreamGap(since=AT, until=AT), 80)
    assert "  events of ws://a/ may be missing" in event_line(StreamGap(server="ws://a/"), 80)
    assert cell_len(event_line(StreamGap(), 40)) <= 40


def test_the_first_moment_of_the_calendar_is_a_time() -> None:
    """Go's zero time, which is on no calendar in zones west of Greenwich."""
    for hours in (-12, 0, 12):
        zone = timezone(timedelta(hours=hours))
        assert "-01-01 " in moment(datetime(1, 1, 1, tzinfo=zone))
        assert moment(datetime(9999, 12, 31, 23, tzinfo=zone)).startswith("9999-12-31 ")


def test_text_of_all_scripts_is_readable_and_control_characters_are_not_passed_on() -> None:
    for text in ("żółć", "日本語　です", "\U0001f469\u200d\U0001f52c", "a\u00a0b", "\ue000"):
        assert readable(text) == text
    for char in "\x00\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\ufeff\ud800\n\r\t":
        assert readable(f"a{char}b") == "a\ufffdb"


def test_text_is_cut_by_cells_and_not_by_characters() -> None:
    assert cut("日本語", 6) == "日本語"
    assert cut("日本語", 5) == "日本…"
    assert cut("abc", 0) == ""


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)  # fmt: skip


@given(JSON)
def test_json_is_one_line_of_ascii_and_loses_nothing(value: Any) -> None:
    text = as_json(value)
    assert text.isascii()
    assert text.isprintable()
    assert json.loads(text) == value


@given(JSON)
def test_yaml_is_ascii_and_loses_nothing(value: Any) -> None:
    text = as_yaml(value)
    assert text.isascii()
    assert "\x7f" not in text
    assert yaml.safe_load(text) == value


def test_bytes_and_numbers_that_json_lacks_are_told_apart_from_text() -> None:
    assert json.loads(as_json([b"\x00\xff", b"text", float("nan"), timedelta(seconds=2)])) == [
        {"base64": "AP8="},
        {"base64": "dGV4dA=="},
        "nan",
        2.0,
    ]


def test_a_table_is_aligned_by_cells() -> None:
    assert table(("id", "name"), [("1", "日本"), ("22", "a\x1b")]) == [
        "id  name",
        "1   日本",
        "22  a\ufffd",
    ]
