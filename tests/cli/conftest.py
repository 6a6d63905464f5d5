"""A server for commands, and a way to run them in this process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
import trio

from tests.cli.demonstrating import QUIET
from tests.cli.serving import serving
from trio_dispatch.cli import main
from trio_dispatch.server import Identity, Server, Workflow

Run: TypeAlias = Callable[..., tuple[int, str, str]]


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
