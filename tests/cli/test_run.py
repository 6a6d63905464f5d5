"""``trio-dispatch run``: what the program gets, what is shown of its calls, and how it all ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from rich.console import Console

from tests.cli.serving import in_terminal
from trio_dispatch.cli import main
from trio_dispatch.cli.exits import Exit
from trio_dispatch.cli.run.calls import KEPT, Calls, line
from trio_dispatch.cli.run.screen import CallsScreen
from trio_dispatch.remote import CallError, CallEvent, CallInfo, DispatchID, Status

PROGRAM = str(Path(__file__).with_name("program.py"))
NOW = datetime(2026, 11, 21, 12, 0, 5, tzinfo=timezone.utc)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def run(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trio_dispatch.cli", "run", *arguments]
    # Unbuffered, a program writes the end of a line apart, and an event may come between.
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    options.setdefault("env", kept)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, **options
    )


def test_without_a_terminal_each_event_is_a_line_and_the_code_is_the_programs() -> None:
    done = run("--", sys.executable, PROGRAM, "7")
    assert done.returncode == 7, done.stderr
    first, *lines, last = done.stdout.splitlines()
    assert re.fullmatch(
        r"service http://127\.0\.0\.1:\d+, for development; endpoint http://127\.0\.0\.1:\d+", first
    )
    assert last == "6 calls: 5 OK, 1 INVALID_ARGUMENT; 2 tried again"
    # What the program prints, in between.
    assert {"serving", "bye"} <= set(lines)
    events = [re.split(r"\s{2,}", text, maxsplit=3)[1:] for text in lines if text[:2].isdigit()]
    of_total = [what for name, _, what in events if name == "total"]
    assert [re.sub(r"http\S+", "…", what) for what in of_total] == [
        "accepted, for …",
        "attempt 1",
        "waits for 4 calls",
        "waits for 1 call",
        "ended after 1 attempt: OK",
    ]
    of_flaky = [what for name, _, what in events if name == "flaky"]
    assert of_flaky[-1] == "ended after 3 attempts: OK"
    assert re.fullmatch(
        r"again in 0\.\d s: ConnectionError: the shop is closed \(TCP_ERROR\)", of_flaky[2]
    )
    (wrong,) = [what for name, _, what in events if name == "wrong" and "ended" in what]
    # The error's escape sequence does not reach the terminal.
    error = "ValueError: no such thing: \N{REPLACEMENT CHARACTER}[31mred (INVALID_ARGUMENT)"
    assert wrong == f"ended after 1 attempt: {error}"


def test_json_is_all_of_standard_output() -> None:
    done = run("--json", "--", sys.executable, PROGRAM, "0")
    assert done.returncode == 0
    events = [json.loads(text) for text in done.stdout.splitlines()]
    assert {event["type"] for event in events} >= {"accepted", "started", "suspended", "ended"}
    (root,) = {event["root"] for event in events}
    ended = {event["id"]: event for event in events if event["type"] == "ended"}
    assert len(ended) == 6
    assert ended[root]["status"] == "OK"
    assert len(ended[root]["children"]) == 5
    assert ended[root]["input"] == 3
    (wrong,) = [event for event in ended.values() if event["function"] == "wrong"]
    assert wrong["error"] == {"type": "ValueError", "message": "no such thing: \x1b[31mred"}
    assert "serving" in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pseudo-terminal")
@pytest.mark.parametrize("size", [(80, 24), (160, 40)])
def test_in_a_terminal_the_calls_are_a_table_below_the_output(size: tuple[int, int]) -> None:
    code, output = in_terminal(["run", "--", sys.executable, PROGRAM, "7"], size)
    assert code == 7, output
    text = ESCAPES.sub("", output)
    lines = [shown.rstrip("\r") for part in text.split("\n") for shown in part.split("\r")]
    assert "serving" in lines
    # What the program prints may be longer, and is wrapped by the terminal.
    assert all(len(shown) <= size[0] for shown in lines if shown[:1] in "╭│╰")
    table = text[text.rindex("trio-dispatch run") :]
    wide = size[0] >= 120
    for words in (
        r"trio-dispatch run  http://127\.0\.0\.1:\d+, for development",
        r"function .*state +tries +seconds",
        r"total .*ended +1 +\d+\.\d\d +OK",
        r"  square .*ended +1 ",
        r"  flaky .*ended +3 ",
        r"  wrong .*ended +1 .*ValueError: no such thing",
        r"6 calls: 5 OK, 1 INVALID_ARGUMENT; 2 tried again",
    ):
        assert re.search(words, table), (words, table)
    assert ("call_" in table) == wide


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_program_whose_code_counts(number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch.cli", "run", "--", sys.executable, PROGRAM, "signal"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        for shown in process.stdout:
            if shown == "ready\n":
                process.send_signal(number)
                break
        rest = process.stdout.read()
        assert f"got {number.name}" in rest
        assert process.wait(30) == 5


def test_a_program_that_a_signal_has_ended_counts_as_in_a_shell() -> None:
    text = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    assert run("--", sys.executable, "-c", text).returncode == 128 + 9


def test_the_program_finds_everything_in_its_environment() -> None:
    text = "import os; print(*sorted(k for k in os.environ if k.startswith('DISPATCH_')))"
    kept = {name: found for name, found in os.environ.items() if not name.startswith("DISPATCH_")}
    done = run("--endpoint", "127.0.0.1:9", "--", sys.executable, "-c", text, env=kept)
    assert done.returncode == 0
    assert "endpoint http://127.0.0.1:9" in done.stdout
    assert done.stdout.splitlines()[1].split() == [
        "DISPATCH_API_KEY",
        "DISPATCH_API_URL",
        "DISPATCH_ENDPOINT_ADDR",
        "DISPATCH_ENDPOINT_URL",
        "DISPATCH_VERIFICATION_KEY",
    ]
    assert done.stdout.splitlines()[-1] == "0 calls: none; 0 tried again"


def test_when_the_reader_leaves_the_program_ends() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch.cli", "run", "--", sys.executable, "-c",
         "import time; time.sleep(60)"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    with process:
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(30) == Exit.READER_GONE


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "name the program: trio-dispatch run -- python app.py"),
        (["--", "/no/such/program"], "cannot run /no/such/program: No such file"),
        (["--port", "99999", "--", "true"], "--port is 0 to 65535"),
        (["--expiration", "0", "--", "true"], "--expiration"),
        (["--api-key", "two words", "--", "true"], "characters that no header can carry"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], complaint: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *arguments]) == Exit.USAGE
    errors = capfd.readouterr().err
    assert complaint in errors
    assert errors.count("\n") == 1


def test_a_port_that_is_taken_is_named(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = held.getsockname()[1]
        assert main(["run", "--port", str(port), "--", "true"]) == Exit.USAGE
    assert f"cannot listen on port {port}: Address already in use" in capfd.readouterr().err


# What is shown


def info(number: int, **changes: Any) -> CallInfo:
    fields: dict[str, Any] = {
        "id": DispatchID(f"call_{number:06}"),
        "endpoint": "http://a.example",
        "function": f"f{number}",
        "state": "running",
        "attempts": 1,
        "status": None,
        "error": None,
        "parent": None,
        "root": DispatchID("call_000000"),
        "children": (),
        "created": NOW - timedelta(seconds=3),
        "expires": NOW,
        "ended": None,
        "input": any_pb2.Any(),
    }
    return CallInfo(**(fields | changes))


def event(type: Any, call: CallInfo, delay: float | None = None) -> CallEvent:
    return CallEvent(type=type, time=NOW, call=call, delay=delay)


def drawn(calls: Calls, width: int, height: int) -> str:
    console = Console(width=width, height=height, file=io.StringIO(), record=True)
    console.print(CallsScreen(console, calls, "here").render(NOW))
    return console.export_text()


def test_the_table_shows_what_is_under_way_first_and_children_below_their_parents() -> None:
    calls = Calls()
    for number in range(20):
        calls.add(event("accepted", info(number, state="waiting")))
        if number < 15:
            calls.add(event("ended", info(number, state="ended", status=Status.OK, ended=NOW)))
    parent, child = DispatchID("call_000018"), DispatchID("call_000030")
    calls.add(event("accepted", info(30, parent=parent, state="waiting")))
    calls.add(event("suspended", info(18, children=(child,), state="suspended")))
    error = CallError("TIMEOUT", "nobody is there")
    calls.add(event("retrying", info(16, state="retrying", status=Status.TIMEOUT, error=error), 2))
    text = drawn(calls, 80, 24)
    rows = [shown[2:-2].rstrip() for shown in text.splitlines()[2:-1]]
    assert [re.split(" {2,}", row.strip())[0] for row in rows] == [
        "f13", "f14", "f15", "f16", "f17", "f18", "f30", "f19",
    ]  # fmt: skip
    assert rows[3].endswith("again in 2.0 s: TIMEOUT: nobod…")
    assert rows[5].endswith("waits for 1 call")
    assert rows[6].startswith("  f30")
    assert rows[0].split() == ["f13", "ended", "1", "3.00", "OK"]
    assert "21 calls: 15 OK, 6 not ended; 1 tried again" in text
    for width, height in ((20, 5), (80, 24), (160, 40), (300, 100)):
        shown = drawn(calls, width, height).splitlines()
        assert max(map(len, shown)) <= width
        assert len(shown) <= max(height // 2, 6)


def test_only_so_many_calls_are_kept_and_the_figures_stay_right() -> None:
    calls = Calls()
    for number in range(KEPT + 500):
        calls.add(event("accepted", info(number, state="waiting")))
        if number % 2:
            calls.add(event("ended", info(number, state="ended", status=Status.OK, ended=NOW)))
    assert len(calls.rows(10_000)) == KEPT
    assert calls.summary() == "1500 calls: 750 OK, 750 not ended; 0 tried again"


@pytest.mark.parametrize(
    ("type", "changes", "words"),
    [
        ("accepted", {"state": "waiting"}, "accepted, for http://a.example"),
        ("started", {"attempts": 2}, "attempt 2"),
        ("suspended", {"state": "suspended"}, "waits for 0 calls"),
        ("tail_call", {"state": "waiting"}, "goes on as f1"),
        ("refused", {"state": "suspended"}, "made calls that cannot be accepted"),
        (
            "ended",
            {"state": "ended", "status": Status.NOT_FOUND, "error": CallError("NOT_FOUND", "no")},
            "ended after 1 attempt: NOT_FOUND: no",
        ),
    ],
)
def test_each_event_is_a_sentence(type: Any, changes: Any, words: str) -> None:
    found = line(event(type, info(1, **changes)), Calls())
    assert found[14:] == f"f1  000001  {words}"
