"""``trio-dispatch call``: what it prints, and how it ends."""

from __future__ import annotations

import io
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.serving import serving
from tests.remote.support import ApiService, HttpResponse
from trio_dispatch.cli import main
from trio_dispatch.cli.exits import Exit
from trio_dispatch.remote import unmarshal
from trio_dispatch.remote._messages import DispatchRequest


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiService]:
    service = ApiService(accepts=True)
    with serving(service) as url:
        monkeypatch.setenv("DISPATCH_API_KEY", "secret-key")
        monkeypatch.setenv("DISPATCH_API_URL", url)
        yield service


def test_it_prints_the_id(
    service: ApiService, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["call", "http://a.example", "f", '{"a": [1]}', "--expiration", "5"]) == Exit.OK
    assert capsys.readouterr() == ("call_0001\n", "")
    (sent,) = DispatchRequest.FromString(service.requests[0].body).calls
    assert (sent.endpoint, sent.function, sent.expiration.seconds) == ("http://a.example", "f", 5)
    assert unmarshal(sent.input) == {"a": [1]}

    file = tmp_path / "input.json"
    file.write_text('"grün"', encoding="utf-8")
    assert main(["call", "http://a.example", "f", f"@{file}", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"id": "call_0002"}
    (sent,) = DispatchRequest.FromString(service.requests[1].body).calls
    assert unmarshal(sent.input) == "grün"


def test_the_input_may_come_from_standard_input(
    service: ApiService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("[1, 2]"))
    assert main(["call", "http://a.example", "f", "-"]) == Exit.OK
    (sent,) = DispatchRequest.FromString(service.requests[0].body).calls
    assert unmarshal(sent.input) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["nowhere", "f"], "not a URL like"),
        (["http://a.example", ""], "a function's name"),
        (["http://a.example", "f", "text"], "a string needs its quotes"),
        (["http://a.example", "f", "NaN"], "NaN is no value"),
        (["http://a.example", "f", "{"], "INPUT is not JSON"),
        (["http://a.example", "f", "@/no/such/file"], "cannot read /no/such/file"),
        (["http://a.example", "f", "1", "--expiration", "-1"], "positive"),
        (["http://a.example", "f", "1", "--timeout", "0"], "timeout"),
        (["http://a.example"], "FUNCTION"),
    ],
)
def test_wrong_use_is_one_line(
    service: ApiService,
    arguments: list[str],
    complaint: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["call", *arguments]) == Exit.USAGE
    out, errors = capsys.readouterr()
    assert out == ""
    assert complaint in errors
    assert errors.count("\n") == 1
    assert not service.requests


def test_each_error_is_one_line_with_its_exit_code(
    service: ApiService, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(status: int, code: str) -> HttpResponse:
        body = json.dumps({"code": code, "message": "said the service"}).encode()
        return HttpResponse(status, "application/json", body)

    service.script += [answer(401, "unauthenticated"), answer(400, "invalid_argument")]
    command = ["call", "http://a.example", "f"]
    assert main(command) == Exit.REFUSED
    assert main(command) == Exit.FAILED
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert main([*command, "--api-url", f"http://127.0.0.1:{port}"]) == Exit.NO_CONNECTION
    monkeypatch.delenv("DISPATCH_API_KEY")
    assert main(command) == Exit.USAGE
    out, errors = capsys.readouterr()
    assert out == ""
    refused, failed, unreachable, keyless = errors.splitlines()
    assert "'sec'… of DISPATCH_API_KEY" in refused
    assert "invalid_argument" in failed
    assert f"cannot connect to http://127.0.0.1:{port}" in unreachable
    assert "DISPATCH_API_KEY" in keyless
    assert "secret" not in errors
