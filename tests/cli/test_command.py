"""The command as users run it: over loopback, with its exit codes, and one line for each error."""

from __future__ import annotations

import io
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import trio

from tests.cli.demonstrating import foreign_server
from tests.cli.serving import in_terminal, serving
from tests.shares import EVERYTHING
from trio_dispatch import __version__
from trio_dispatch.cli import main
from trio_dispatch.cli.demo.plan import EMAIL
from trio_dispatch.cli.exits import Exit

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "trio_dispatch.cli"]
FAST = ["--speed", "20"]


@pytest.fixture(autouse=True)
def _no_server_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPATCH_URL", "DISPATCH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_the_demo_without_a_terminal_prints_lines_and_a_summary() -> None:
    done = subprocess.run(
        [*COMMAND, "demo", *FAST], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stderr == ""
    assert done.returncode == Exit.OK
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"trio-dispatch demo, embedded server, ws://127\.0\.0\.1:\d+/dwp", lines[0])
    assert "\x1b" not in done.stdout
    assert sum(line.endswith("retrying: attempt 1 failed") for line in lines) == 9
    assert any("waiting for the event demo-approval-" in line for line in lines)
    total = next(line.split() for line in lines if line.startswith("  total"))
    assert total == ["total", "37", "34", "3", "18"]
    assert lines[-1].startswith("Everything ended as it should.")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("size", [(80, 24), (160, 48)][: 2 if EVERYTHING else 1])
def test_the_demo_in_a_terminal_is_a_live_screen_and_leaves_a_summary(
    size: tuple[int, int],
) -> None:
    code, text = in_terminal(["demo", "--speed", "10"], size)
    assert code == Exit.OK
    before, live = text.split("\x1b[?1049h")
    live, after = live.split("\x1b[?1049l")
    assert not before.strip()
    assert "last events" in live
    assert "\x1b[?25h" in after or "\x1b[?25h" in live  # the cursor is back
    assert "Everything ended as it should." in after


def test_ctrl_c_is_clean() -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert errors == "trio-dispatch: interrupted\n"
    assert process.returncode == Exit.INTERRUPTED


def test_a_reader_that_leaves_early_gets_no_traceback() -> None:
    process = subprocess.Popen(
        [*COMMAND, "demo", *FAST], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == ""
    process.stderr.close()
    assert process.wait(20) == Exit.READER_GONE


@pytest.mark.parametrize("missing", ["rich", "cyclopts", "websockets"])
def test_without_the_extra_the_command_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None\nfrom trio_dispatch.cli import main\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit(main(['demo']))"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == (
        f"trio-dispatch: the command needs {missing}; "
        "install it with: pip install 'trio-dispatch[cli]'\n"
    )
    assert done.returncode == Exit.USAGE


def test_url_and_token_run_it_on_another_server(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(foreign_server(jobs=[EMAIL], workflow=True)) as url:
        arguments = ["demo", *FAST, "--deadline", "2", "--yes", "--url", url]
        assert main([*arguments, "--token", "token"]) == Exit.OK
        out, errors = capsys.readouterr()
        assert errors == ""
        assert out.startswith(f"trio-dispatch demo, {url}\n")
        assert "skipped: demo-charge-card: no worker finished a job of this name in 1 s" in out

        assert main([*arguments, "--token", "wrong"]) == Exit.REFUSED
        assert main(arguments) == Exit.REFUSED
        out, errors = capsys.readouterr()
        assert out == ""
        refused = (
            "the server refused the token (authentication failed); see --token and DISPATCH_TOKEN"
        )
        assert errors == 2 * f"trio-dispatch: {refused}\n"

        monkeypatch.setenv("DISPATCH_TOKEN", "token")
        prefixed = ["demo", *FAST, "--deadline", "0.2", "--prefix", "nobody-knows-", "--url", url]
        assert main([*prefixed, "-y"]) == Exit.FAILED
        out, errors = capsys.readouterr()
        assert errors == ""
        assert "Everything was skipped" in out.splitlines()[-1]


@pytest.mark.parametrize(
    ("answer", "code"), [("n\n", Exit.FAILED), ("", Exit.FAILED), ("y\n", Exit.NO_CONNECTION)]
)
def test_the_demo_asks_before_it_leaves_anything_on_a_server_that_is_not_its_own(
    answer: str,
    code: Exit,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    arguments = ["demo", "--url", "ws://127.0.0.1:1/dwp", "--token", "token"]
    assert main(arguments) == Exit.USAGE  # there is no terminal, so nobody can be asked
    errors = capsys.readouterr().err
    assert errors.startswith("trio-dispatch: The demo enqueues up to 37 jobs (demo-send-email, …)")
    assert errors.endswith("nobody can delete them. Say --yes if that is all right\n")

    stdin = io.StringIO(answer)
    for stream in (stdin, sys.stderr):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    monkeypatch.setattr("sys.stdin", stdin)
    assert main(arguments) == code
    errors = capsys.readouterr().err
    assert "starts a run of demo-order-pipeline on ws://127.0.0.1:1/dwp." in errors
    assert "Go on? [y/N] " in errors
    assert ("nothing was done" in errors) == (code is Exit.FAILED)


def test_ctrl_c_leaves_no_job_running_on_another_server() -> None:
    server = foreign_server()  # which knows none of the names
    with serving(server) as url:
        arguments = ["demo", "--yes", "--url", url, "--token", "token"]
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        # It asks for each of its five jobs again and again, so by then it knows them all.
        deadline = time.monotonic() + 20
        while server.statistics().frames < 40 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == Exit.INTERRUPTED
    assert errors == (
        "trio-dispatch: 5 jobs that had not ended were cancelled\ntrio-dispatch: interrupted\n"
    )
    assert [job.state for job in server.jobs()] == ["cancelled"] * 5


def test_the_demo_needs_no_server_and_obeys_no_variable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISPATCH_URL", "ws://127.0.0.1:1/dwp")
    monkeypatch.setenv("DISPATCH_PROFILE", "no-such-profile")
    assert main(["demo", "--speed", "50"]) == Exit.OK
    assert capsys.readouterr().out.startswith("trio-dispatch demo, embedded server, ws://127")


def test_nobody_listening_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        url = f"ws://127.0.0.1:{port}/dwp?token=secret"
        assert main(["demo", "-y", "--url", url, "--token", "secret"]) == Exit.NO_CONNECTION
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith(f"trio-dispatch: cannot connect to ws://127.0.0.1:{port}/dwp: ")
    assert errors.count("\n") == 1
    assert "secret" not in errors


def test_a_server_that_goes_away_is_one_line_and_one_for_what_is_left(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = foreign_server()
    gone = threading.Event()

    @server.job("demo-send-email")
    async def leave(payload: object) -> None:
        gone.set()
        await trio.sleep_forever()

    with serving(server) as url:
        code: list[int] = []
        arguments = ["demo", "--yes", "--url", url, "--token", "token"]
        thread = threading.Thread(target=lambda: code.append(main(arguments)))
        thread.start()
        assert gone.wait(10)
    thread.join(10)
    assert code == [Exit.NO_CONNECTION]
    _, errors = capsys.readouterr()
    # Which it is depends on what was under way.
    lost = r"(the connection to \S+ was lost|cannot connect to \S+): "
    first, second = errors.splitlines()
    assert first.startswith("trio-dispatch: what the demo left on ws://")
    assert re.fullmatch(rf"trio-dispatch: .*{lost}.*", second)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["demo", "--url", "http://127.0.0.1:1/dwp"], "--url: not a URL like"),
        (["demo", "--url", "nonsense"], "--url: not a URL like"),
        (["demo", "--bogus"], "Unknown option"),
        (["demo", "more"], "Unused Tokens"),
        (["demo", "--speed", "fast"], "Invalid value for"),
        (["demo", "--speed", "nan"], "--speed is a number above 0, not nan"),
        (["demo", "--deadline", "0"], "--deadline is a number above 0, not 0.0"),
        (["dance"], "Unknown command"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == Exit.USAGE
    out, errors = capsys.readouterr()
    assert out == ""
    assert errors.startswith("trio-dispatch: ")
    assert complaint in errors
    assert errors.count("\n") == 1


def test_a_token_that_goes_unencrypted_to_another_machine_is_warned_about(
    capsys: pytest.CaptureFixture[str],
) -> None:
    # The name is no machine's, so nothing goes anywhere.
    url = "ws://nowhere.invalid:1/dwp"
    assert main(["demo", "-y", "--url", url, "--token", "secret"]) == Exit.NO_CONNECTION
    _, errors = capsys.readouterr()
    first, second = errors.splitlines()
    assert first.startswith(f"trio-dispatch: warning: a token goes unencrypted to {url}")
    assert second.startswith(f"trio-dispatch: cannot connect to {url}")
    assert "secret" not in errors


def test_help_names_what_another_server_needs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["demo", "--help"]) == Exit.OK
    text, _ = capsys.readouterr()
    words = " ".join(text.split())
    for name in (
        *("demo-send-email", "demo-process-image", "demo-build-report", "demo-sync-stock"),
        *("demo-charge-card", "demo-order-pipeline", "DISPATCH_URL", "DISPATCH_TOKEN", "130:"),
    ):
        assert name in words
    assert max(map(len, text.splitlines())) <= 80
    assert main(["--version"]) == Exit.OK
    assert capsys.readouterr().out.strip() == __version__
    assert main([]) == Exit.OK
    assert "demo" in capsys.readouterr().out
