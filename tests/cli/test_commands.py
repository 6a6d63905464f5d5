"""Every command against a server, and with each error: what it prints, and its exit code."""

from __future__ import annotations

import json
import re
import socket
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
import trio
import yaml

from tests.cli.conftest import Run
from trio_dispatch.cli.exits import Exit

NO_JOB = f"job_{0:026}"
NO_RUN = f"wfrun_{0:026}"


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


def test_a_wait_has_a_timeout_and_a_hint_that_no_worker_may_know_the_name(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("waiting", "enqueue"):
        monkeypatch.setattr(f"trio_dispatch.cli.{module}.HINT_SECONDS", 0.05)
    code, out, errors = run("enqueue", "nobody-knows", "--wait", "--timeout", "0.3")
    assert code == Exit.TIMED_OUT
    hint, end = errors.splitlines()
    job_id = out.splitlines()[0]
    assert hint.startswith(f"trio-dispatch: {job_id} is still running after 0.05 s. If no worker")
    assert "'nobody-knows'" in hint
    assert end == f"trio-dispatch: {job_id} has not ended after 0.3 s; it goes on"

    code, _, errors = run("job", "wait", job_id, "--timeout", "0.2")
    assert code == Exit.TIMED_OUT
    assert "still running" in errors
    code, _, errors = run(
        "enqueue", "nobody-knows", "--many", "-", "--wait", "--timeout", "0.3", stdin="{}\n{}\n"
    )
    assert code == Exit.TIMED_OUT
    assert "no job has ended after 0.05 s" in errors
    assert "0 of 2 jobs have ended after 0.3 s" in errors
    code, out, errors = run("workflow", "run", "waits", "--timeout", "0.2")
    assert code == Exit.TIMED_OUT
    assert "workflow.started" in out
    assert "the run has not ended after 0.2 s; it goes on" in errors


@pytest.mark.parametrize(
    ("command", "method"),
    [
        (["job", "list", "--state", "failed", "--limit", "3"], "job.list"),
        (["dlq", "list"], "dlq.list"),
        (["dlq", "replay", NO_JOB], "dlq.replay"),
        (["cron", "list"], "cron.list"),
        (["workflow", "cancel", NO_RUN], "workflow.cancel"),
        (["workflow", "replay", NO_RUN], "workflow.replay"),
    ],
)
def test_what_the_server_does_not_offer_is_said_plainly(
    run: Run, command: list[str], method: str
) -> None:
    code, out, errors = run(*command)
    assert (code, out) == (Exit.FAILED, "")
    expected = f"this server has no {method}: it answered 405 unknown method: {method}"
    assert errors == f"trio-dispatch: {expected}\n"


def test_output_is_for_people_or_for_programs(run: Run) -> None:
    _, out, _ = run("enqueue", "echo", '{"t": "\u0142"}', "--output", "yaml")
    found = yaml.safe_load(out)
    assert out.startswith("---\njob_id: job_")
    _, out, _ = run("job", "get", found["job_id"], "-o", "yaml")
    assert yaml.safe_load(out)["payload"] == {"t": "\u0142"}
    _, out, _ = run("job", "get", found["job_id"], "-o", "json")
    assert json.loads(out)["payload"] == {"t": "\u0142"}
    assert out.isascii()
    _, out, _ = run("job", "get", found["job_id"], "-o", "table", "--json")
    assert out.startswith("job ")
    code, _, errors = run("stats", "--output", "xml")
    assert code == Exit.USAGE
    assert "xml" in errors


def test_a_server_that_offers_lists_gets_them_printed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[object] = [
        {"jobs": [{"state": "failed", "queue": "q", "id": "job_1", "extra": {"a": 1}}]},
        [{"id": "job_1"}, {"id": "job_2"}],
        [],
        {"status": "replayed"},
    ]
    asked: list[tuple[str, object]] = []

    async def request(client: object, method: str, data: object = None, **_: object) -> object:
        asked.append((method, data))
        return answers.pop(0)

    monkeypatch.setattr("trio_dispatch.Client.request", request)
    _, out, _ = run("job", "list", "--state", "failed")
    assert out == 'id     state   queue  extra\njob_1  failed  q      {"a": 1}\n'
    _, out, _ = run("dlq", "list", "--json")
    assert out == '{"id": "job_1"}\n{"id": "job_2"}\n'
    assert run("cron", "list")[1] == "none\n"
    assert run("dlq", "replay", "job_1")[1] == '{"status": "replayed"}\n'
    assert asked == [
        ("job.list", {"state": "failed"}),
        ("dlq.list", {}),
        ("cron.list", {}),
        ("dlq.replay", {"job_id": "job_1"}),
    ]


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
