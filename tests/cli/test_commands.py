"""Every command against a server, and with each error: what it prints, and its exit code."""

from __future__ import annotations

import io
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from rich.cells import cell_len

from tests.cli.demonstrating import QUIET
from tests.cli.serving import in_terminal, serving
from trio_dispatch.cli import main
from trio_dispatch.cli.exits import Exit
from trio_dispatch.server import Identity, Server, Workflow

Run = Callable[..., tuple[int, str, str]]
NO_JOB = f"job_{0:026}"
NO_RUN = f"wfrun_{0:026}"


def make_server() -> Server:
    server = Server(
        tokens={
            "token": Identity(subject="all", scopes={"*"}),
            "weak": Identity(subject="weak", scopes={"job:read"}),
        },
        retry_delay=0.01,
        logger=QUIET,
    )

    @server.job("echo", max_retries=0)
    async def echo(payload: object) -> None: ...

    @server.job("broken", max_retries=0)
    async def broken(payload: object) -> None:
        raise ValueError("no such customer")

    @server.job("slow", max_retries=0)
    async def slow(payload: object) -> None:
        await trio.sleep_forever()

    @server.workflow("order")
    async def order(wf: Workflow, input: object) -> None:
        async def check() -> dict[str, int]:
            return {"stock": 3}

        await wf.step("check", check)

    @server.workflow("fails")
    async def fails(wf: Workflow, input: object) -> None:
        raise ValueError("out of stock")

    @server.workflow("waits")
    async def waits(wf: Workflow, input: object) -> None:
        await wf.wait_for_event("approval", timeout=20)

    return server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(make_server()) as url:
        yield url


@pytest.fixture
def run(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.setenv("DISPATCH_URL", url)
    monkeypatch.setenv("DISPATCH_TOKEN", "token")

    def run(*arguments: str, stdin: str = "", token: str = "token") -> tuple[int, str, str]:
        monkeypatch.setenv("DISPATCH_TOKEN", token)
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = main(arguments)
        out, errors = capsys.readouterr()
        assert "Traceback" not in errors
        return code, out, errors

    return run


def test_a_job_is_enqueued_looked_at_and_cancelled(run: Run) -> None:
    code, out, _ = run("enqueue", "slow", '{"a": [1, "ü"]}', "--queue", "email", "--priority", "3")
    assert code == Exit.OK
    job_id = out.strip()
    assert job_id.startswith("job_")

    code, out, _ = run("job", "get", job_id)
    assert code == Exit.OK
    shown = dict(line.split("  ", 1) for line in out.splitlines())
    assert shown["job"].strip() == job_id
    assert shown["queue"].strip() == "email"
    assert json.loads(shown["payload"]) == {"a": [1, "ü"]}
    code, out, _ = run("job", "get", job_id, "--json")
    found = json.loads(out)
    assert (found["id"], found["payload"], found["priority"]) == (job_id, {"a": [1, "ü"]}, 3)

    assert run("job", "cancel", job_id)[:2] == (Exit.OK, f"{job_id} is cancelled\n")
    code, out, _ = run("job", "wait", job_id)
    assert code == Exit.FAILED
    assert re.search(r"state +cancelled", out)


def test_enqueue_waits_and_tells_the_states(run: Run) -> None:
    code, out, _ = run("enqueue", "echo", "1", "--wait")
    assert code == Exit.OK
    told = re.findall(r"^\d\d:\d\d:\d\d\.\d{3}  (\S+)", out, re.MULTILINE)
    assert told == ["job.enqueued", "job.started", "job.completed"]
    assert re.search(r"state +completed", out)

    code, out, _ = run("enqueue", "broken", "--wait")
    assert code == Exit.FAILED
    assert "job.dlq: no such customer" in out
    code, out, _ = run("enqueue", "broken", "--wait", "--json")
    assert code == Exit.FAILED
    assert json.loads(out)["last_error"] == "no such customer"


def test_the_payload_comes_from_a_file_or_from_standard_input(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "payload.json"
    file.write_text('{"from": "a file"}', encoding="utf-8")
    for argument, payload in ((f"@{file}", {"from": "a file"}), ("-", [1]), ("-5", -5)):
        _, out, _ = run("enqueue", "echo", argument, "--json", stdin="[1]")
        _, out, _ = run("job", "get", json.loads(out)["job_id"], "--json")
        assert json.loads(out)["payload"] == payload


def test_many_jobs_come_from_lines(run: Run, tmp_path: Path) -> None:
    lines = '{"payload": 1}\n\n{"name": "broken", "queue": "email"}\n{"priority": 2}\n'
    code, out, _ = run("enqueue", "echo", "--many", "-", stdin=lines)
    assert code == Exit.OK
    ids = out.split()
    assert len(ids) == 3
    _, out, _ = run("job", "get", ids[1], "--json")
    assert (json.loads(out)["name"], json.loads(out)["queue"]) == ("broken", "email")

    file = tmp_path / "jobs.jsonl"
    file.write_text(lines, encoding="utf-8")
    code, out, _ = run("enqueue", "echo", "--many", str(file), "--wait", "--json")
    assert code == Exit.FAILED  # one of them
    states = sorted(json.loads(line)["state"] for line in out.splitlines())
    assert states == ["completed", "completed", "failed"]


def test_a_workflow_runs_before_ones_eyes(run: Run) -> None:
    code, out, _ = run("workflow", "run", "order", '{"id": 7}')
    assert code == Exit.OK
    assert "workflow.step_completed" in out
    assert re.search(r"state +completed", out)
    run_id = re.search(r"^run +(\S+)$", out, re.MULTILINE)
    assert run_id is not None
    code, out, _ = run("workflow", "timeline", run_id[1])
    assert code == Exit.OK
    assert re.fullmatch(r'\d\d:\d\d:\d\d\.\d{3}  check  \{"stock": 3\}\n', out)
    code, out, _ = run("workflow", "timeline", run_id[1], "--json")
    assert json.loads(out)["step_name"] == "check"
    code, out, _ = run("workflow", "get", run_id[1], "--json")
    assert json.loads(out)["input"] == {"id": 7}

    code, out, _ = run("workflow", "run", "fails", "--json")
    assert code == Exit.FAILED
    *events, ended = map(json.loads, out.splitlines())
    assert events[-1]["type"] == "workflow.failed"
    assert "out of stock" in ended["error"]


def test_a_workflow_is_started_and_an_event_released(run: Run) -> None:
    code, out, _ = run("workflow", "start", "waits")
    assert code == Exit.OK
    run_id = out.strip()
    assert run("workflow", "get", run_id)[0] == Exit.OK
    code, out, _ = run("event", "publish", "approval", '{"by": "me"}')
    assert code == Exit.OK
    assert out.startswith("evt_")
    code, out, _ = run("event", "publish", "nobody-waits", "--json")
    assert json.loads(out)["name"] == "nobody-waits"
    code, out, _ = run("workflow", "start", "order", "--json")
    assert json.loads(out)["run_id"].startswith("wfrun_")


def test_watch_prints_events_one_on_each_line(run: Run, url: str) -> None:
    async def enqueue_some() -> None:
        from trio_dispatch import open_client

        async with open_client(url, token="token") as client:
            for _ in range(50):
                await client.enqueue("echo")
                await trio.sleep(0.02)

    for options in ([], ["--json"]):
        thread = threading.Thread(target=trio.run, args=(enqueue_some,))
        thread.start()
        code, out, errors = run("watch", "jobs", "queue:email", "--count", "4", *options)
        thread.join(20)
        assert (code, errors) == (Exit.OK, "")
        assert len(out.splitlines()) == 4
        if options:
            assert json.loads(out.splitlines()[0])["type"].startswith("job.")
        else:
            assert all("job:job_" in line for line in out.splitlines())


def test_stats_and_top_without_a_terminal(run: Run) -> None:
    code, out, _ = run("stats")
    assert code == Exit.OK
    assert re.search(r"^deliveries +\d+$", out, re.MULTILINE)
    code, out, _ = run("stats", "--json")
    assert json.loads(out)["broker"]["subscriber_count"] >= 1
    code, out, _ = run("top", "--count", "2", "--interval", "0.05")
    assert code == Exit.OK
    assert len(re.findall(r"^connected  [\d.]+ events/s  failed 0 ", out, re.MULTILINE)) == 2
    code, out, _ = run("top", "--count", "1", "--interval", "0.05", "--json")
    assert json.loads(out)["connected"] is True


def test_the_doctor_says_what_works_and_what_the_token_lacks(run: Run) -> None:
    code, out, errors = run("doctor")
    assert (code, errors) == (Exit.OK, "")
    assert out.count("ok       scope: ") == 6
    assert "connected in" in out
    assert "for a round trip" in out
    assert "ok       msgpack: works" in out
    assert "ok       HTTP: works" in out
    assert "note     quirk: the timeline of a run that does not exist is empty" in out

    code, out, _ = run("doctor", "--json", token="weak")
    assert code == Exit.OK
    found = json.loads(out)
    missing = [one["text"].split()[0] for one in found if one["verdict"] == "missing"]
    assert missing == ["job:write", "workflow:read", "workflow:write", "subscribe", "stats:read"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["enqueue"], "name the job"),
        (["enqueue", "echo", "text"], "a string needs its quotes"),
        (["enqueue", "echo", "1", "--many", "-"], "exclude each other"),
        (["enqueue", "echo", "--many", "/no/such"], "cannot read /no/such"),
        (["enqueue", "echo", "--many", "-"], "holds no job"),
        (["enqueue", "", "1"], "a job's name"),
        (["enqueue", "echo", "--priority", str(2**70)], "64 bits"),
        (["job", "get", " "], "not empty"),
        (["job", "get"], "JOB_ID"),
        (["workflow", "start", "", "1"], "name"),
        (["workflow", "run", "order", "{"], "INPUT is not JSON"),
        (["event", "publish", ""], "an event's name"),
        (["event", "publish", "a", "Infinity"], "Infinity is no value"),
        (["watch", "nonsense"], "no server has a channel"),
        (["watch", "jobs", "--count", "0"], "--count"),
        (["top", "--interval", "0"], "--interval"),
        (["top", "--count", "0"], "--count"),
        (["stats", "--url", "nonsense"], "--url"),
        (["stats", "--token-file", "/no/such"], "cannot read /no/such"),
        (["serve", "nonsense"], "MODULE:SERVER"),
        (["serve", "no_such_module:server"], "there is no module 'no_such_module'"),
        (["serve", "json:nothing"], "json has no 'nothing'"),
        (["serve", "json:loads"], "json:loads is no server"),
        (["serve", "a:b", "--port", "70000"], "--port"),
        (["job", "dance"], "dance"),
    ],
)
def test_wrong_use_is_one_line(run: Run, arguments: list[str], complaint: str) -> None:
    code, out, errors = run(*arguments)
    assert (code, out) == (Exit.USAGE, "")
    assert complaint in errors
    assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["enqueue", "echo"],
        ["enqueue", "echo", "--wait"],
        ["job", "get", NO_JOB],
        ["job", "cancel", NO_JOB],
        ["job", "wait", NO_JOB],
        ["workflow", "start", "order"],
        ["workflow", "run", "order"],
        ["workflow", "get", NO_RUN],
        ["workflow", "timeline", NO_RUN],
        ["event", "publish", "a"],
        ["watch", "jobs"],
        ["stats"],
        ["top", "--count", "1"],
        ["doctor"],
    ],
    ids=" ".join,
)
def test_no_server_wrong_token_and_missing_scope(run: Run, command: list[str]) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        nobody = f"ws://127.0.0.1:{unused.getsockname()[1]}/dwp"
        code, out, errors = run(*command, "--url", nobody)
    assert (code, out) == (Exit.NO_CONNECTION, "")
    assert errors.startswith("trio-dispatch: cannot connect to ")
    assert errors.count("\n") == 1

    code, out, errors = run(*command, token="wrong")
    assert (code, out) == (Exit.REFUSED, "")
    assert "the server refused the token" in errors
    assert errors.count("\n") == 1

    if command[0] != "doctor" and command[:2] not in (["job", "get"], ["job", "wait"]):
        code, _, errors = run(*command, token="weak")
        assert code == Exit.REFUSED
        assert "the token may not do that" in errors
        assert errors.count("\n") == 1


@pytest.mark.parametrize(
    "command",
    [
        ["job", "get", NO_JOB],
        ["job", "cancel", NO_JOB],
        ["job", "wait", NO_JOB],
        ["workflow", "get", NO_RUN],
        ["workflow", "timeline", NO_RUN],
        ["workflow", "start", "unknown"],
        ["workflow", "run", "unknown"],
    ],
    ids=" ".join,
)
def test_what_does_not_exist_is_one_line(run: Run, command: list[str]) -> None:
    code, out, errors = run(*command)
    assert (code, out) == (Exit.FAILED, "")
    assert "no" in errors
    assert errors.count("\n") == 1


def test_tokens_come_from_a_file_from_a_prompt_or_from_a_keyring(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("token\n", encoding="utf-8")
    assert run("stats", "--token-file", str(file), token="wrong")[0] == Exit.OK
    file.write_text(" \n", encoding="utf-8")
    assert "is empty" in run("stats", "--token-file", str(file))[2]

    asked: list[str] = []

    def answer(prompt: str) -> str:
        asked.append(prompt)
        return "token"

    monkeypatch.setattr("getpass.getpass", answer)
    assert run("stats", "--ask-token", token="wrong")[0] == Exit.OK
    assert len(asked) == 1

    kept: dict[tuple[str, str], str] = {}
    ring: Any = types.ModuleType("keyring")
    ring.get_password = lambda *key: kept.get(key)
    ring.set_password = lambda service, name, secret: kept.update({(service, name): secret})
    monkeypatch.setitem(sys.modules, "keyring", ring)
    for _ in range(2):
        assert run("stats", "--keyring", token="wrong")[0] == Exit.OK
    assert len(asked) == 2
    assert list(kept.values()) == ["token"]
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert "pip install keyring" in run("stats", "--keyring")[2]
    monkeypatch.setattr("getpass.getpass", lambda prompt: "")
    assert "no token was given" in run("stats", "--ask-token")[2]


def test_help_of_every_command_fits_a_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for command in (
        [], ["serve"], ["enqueue"], ["job"], ["job", "get"], ["workflow"], ["workflow", "run"],
        ["event", "publish"], ["watch"], ["stats"], ["top"], ["call"], ["doctor"],
    ):  # fmt: skip
        code, out, _ = run(*command, "--help")
        assert code == Exit.OK
        assert max(map(len, out.splitlines())) <= 80


APP = """
from trio_dispatch.server import Identity, Server

server = Server(tokens={"token": Identity(subject="demo", scopes={"*"})})


def make():
    return server
"""


@pytest.mark.parametrize("target", ["app:server", "app:make"])
def test_serve_serves_until_ctrl_c(tmp_path: Path, target: str) -> None:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    with serve(tmp_path, target, "--port", "0") as process:
        line = read_line(process)
        found = re.fullmatch(
            r"Serving at (ws://127\.0\.0\.1:\d+/dwp), for development: nothing is kept. "
            r"Ctrl-C ends it\.\n",
            line,
        )
        assert found is not None
        assert main(["stats", "--url", found[1], "--token", "token"]) == Exit.OK
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
        assert errors == "trio-dispatch: interrupted\n"
        assert process.returncode == Exit.INTERRUPTED


def test_serve_starts_again_when_a_file_changes(tmp_path: Path) -> None:
    app = tmp_path / "app.py"
    app.write_text(APP, encoding="utf-8")
    with serve(tmp_path, "app:server", "--port", "0", "--reload") as process:
        assert read_line(process).startswith("Serving at ")
        app.write_text(APP.replace('"token"', '"another"'), encoding="utf-8")
        assert read_line(process) == "app.py has changed; starting again.\n"
        url = read_line(process).split()[2].rstrip(",")
        assert main(["stats", "--url", url, "--token", "another"]) == Exit.OK
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)


def test_a_port_that_is_taken_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "app_taken.py").write_text(APP, encoding="utf-8")
    (tmp_path / "app_broken.py").write_text("1 / 0", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        port = str(held.getsockname()[1])
        assert main(["serve", "app_taken:server", "--port", port]) == Exit.USAGE
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err
    assert main(["serve", "app_broken:server"]) == Exit.USAGE
    assert "cannot be imported: ZeroDivisionError" in capsys.readouterr().err


@contextmanager
def serve(directory: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "trio_dispatch.cli", "serve", *arguments],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def read_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], 20)
    assert ready, "nothing was printed"
    return process.stdout.readline()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("size", [(80, 24), (160, 48)])
@pytest.mark.parametrize(
    "command",
    [
        ["watch", "firehose", "--count", "3"],
        ["workflow", "run", "order", '{"id": "' + "x" * 200 + '"}'],
        ["doctor"],
        ["top", "--count", "1", "--interval", "0.6"],
    ],
    ids=lambda command: command[0],
)
def test_in_a_terminal_nothing_is_wider_than_it(
    url: str, command: list[str], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    environ = {"DISPATCH_URL": url, "DISPATCH_TOKEN": "token"}
    done = threading.Event()

    async def keep_it_busy() -> None:
        from trio_dispatch import open_client

        async with open_client(url, token="token") as client:
            while not done.is_set():
                await client.enqueue("echo", "x" * 300, queue="a-queue-of-a-long-name-" + "y" * 60)
                await trio.sleep(0.03)

    thread = threading.Thread(target=trio.run, args=(keep_it_busy,))
    thread.start()
    try:
        code, text = in_terminal(command, size, environ)
    finally:
        done.set()
        thread.join(10)
    assert code == Exit.OK, text
    frames = text.replace("\x1b[H", "\n")
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", frames)
    shown = [line for line in plain.replace("\r", "").split("\n") if not line.startswith("input ")]
    assert max(map(cell_len, shown)) <= size[0]
    if command[0] == "top":
        assert "\x1b[?1049h" in text
        assert "\x1b[?1049l" in text
    else:
        assert len(plain.splitlines()) >= 3
