"""One function, one caller, one byte from anybody: none of them ends an endpoint for the others."""

from __future__ import annotations

import logging
import socket
import ssl
import struct
import sys
from typing import Any

import httpx
import pytest
import trio

from tests.remote.calling import calling, make, run_request
from trio_dispatch.remote import FunctionError, Status, register_status, unmarshal
from trio_dispatch.remote import _statuses as statuses

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Untidy(FunctionError):
    def __init__(self) -> None:
        self.status = Status.OK


class Mine(Exception):
    pass


class Ours(Mine):
    pass


SURROGATES = "\udcff.txt"

RAISED: list[tuple[BaseException, Status, str]] = [
    (OSError(SURROGATES), Status.TEMPORARY_ERROR, "\\udcff.txt"),
    (Odd(), Status.PERMANENT_ERROR, "its text cannot be had: RuntimeError"),
    (FunctionError(404), Status.TEMPORARY_ERROR, "404"),
    (FunctionError(SURROGATES, Status.THROTTLED), Status.THROTTLED, "\\udcff.txt"),
    (Untidy(), Status.PERMANENT_ERROR, "its text cannot be had: AttributeError"),
    (BaseExceptionGroup("g", [GeneratorExit()]), Status.PERMANENT_ERROR, "g (1 sub-exception)"),
    (GeneratorExit(), Status.PERMANENT_ERROR, ""),
    (ValueError("x" * 10**6), Status.INVALID_ARGUMENT, "x" * 16384 + "…"),
    # What exceptions mean.
    (TimeoutError("late"), Status.TIMEOUT, "late"),
    (trio.TooSlowError(), Status.TIMEOUT, ""),
    (httpx.ReadTimeout("late"), Status.TIMEOUT, "late"),
    (ConnectionRefusedError("no"), Status.TCP_ERROR, "no"),
    (httpx.ConnectError("no"), Status.TCP_ERROR, "no"),
    (trio.BrokenResourceError("no"), Status.TCP_ERROR, "no"),
    (socket.gaierror("who?"), Status.DNS_ERROR, "who?"),
    (ssl.SSLError("no"), Status.TLS_ERROR, "('no',)"),
    (httpx.RemoteProtocolError("what?"), Status.HTTP_ERROR, "what?"),
    (PermissionError("no"), Status.PERMISSION_DENIED, "no"),
    (FileNotFoundError("no"), Status.NOT_FOUND, "no"),
    (BlockingIOError("no"), Status.TEMPORARY_ERROR, "no"),
    (TypeError("no"), Status.INVALID_ARGUMENT, "no"),
    (UnicodeDecodeError("utf-8", b"", 0, 1, "no"), Status.INVALID_ARGUMENT, "…"),
    (KeyError("k"), Status.PERMANENT_ERROR, "'k'"),
    (ExceptionGroup("g", [TimeoutError(), TimeoutError()]), Status.TIMEOUT, "g (2 sub-exceptions)"),
    (ExceptionGroup("g", [TimeoutError(), KeyError()]), Status.PERMANENT_ERROR, "…"),
]


@pytest.mark.parametrize(("raised", "status", "message"), RAISED, ids=lambda v: type(v).__name__)
async def test_whatever_a_function_raises_is_answered_and_the_endpoint_lives_on(
    raised: BaseException, status: Status, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    endpoint = make()

    @endpoint.function()
    async def fails(value: object) -> None:
        raise raised

    async with calling(endpoint) as caller:
        response = await caller.run("fails")
        assert response.status == status
        error = response.exit.result.error
        assert error.type == type(raised).__name__
        if message != "…":
            assert error.message == message
        assert unmarshal((await caller.run("double", 2)).exit.result.output) == 4


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_interrupts_from_a_function_come_out(kind: type[BaseException]) -> None:
    endpoint = make()

    @endpoint.function()
    async def interrupts(value: object) -> None:
        raise kind

    async def main() -> None:
        async with calling(endpoint) as caller:
            await caller.run("interrupts")

    with pytest.raises(kind):
        trio.run(main)


async def test_head_garbage_and_resets_cost_one_connection_each() -> None:
    endpoint = make()
    async with calling(endpoint) as caller:
        host, port = caller.url[7:].split(":")

        async def connect() -> trio.SocketStream:
            return await trio.open_tcp_stream(host, int(port))

        async with await connect() as stream:
            await stream.send_all(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = bytes(await stream.receive_some())
            assert answer.startswith(b"HTTP/1.1 404 ")
            assert b"\r\n\r\n" in answer
        for data in (b"garbage\r\n\r\n", b"POST / HTTP/1.1\r\n", b"\x16\x03\x01"):
            stream = await connect()
            # Closing it resets the connection while the answer is on its way.
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await stream.send_all(data)
            await stream.aclose()
        assert unmarshal((await caller.run("double", 2)).exit.result.output) == 4


async def test_a_bug_of_ours_costs_one_request(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint = make()

    async def broken(*args: object) -> object:
        raise AssertionError("a bug")

    async with calling(endpoint) as caller:
        with monkeypatch.context() as patch:
            patch.setattr(endpoint, "_run", broken)
            answer = await caller.post(run_request("double", 2))
            assert answer.status_code == 500
        assert "AssertionError: a bug" in caplog.text
        assert unmarshal((await caller.run("double", 2)).exit.result.output) == 4


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statuses, "_table", dict(statuses._table))


def test_users_tell_what_their_exceptions_mean(
    table: None, caplog: pytest.LogCaptureFixture
) -> None:
    def status(exc: BaseException) -> Status:
        return statuses.failure_of(exc).status

    assert status(Ours()) == Status.PERMANENT_ERROR
    register_status(Mine, Status.THROTTLED)
    assert status(Ours()) == Status.THROTTLED
    register_status(Ours, lambda exc: Status.NOT_FOUND if exc.args else Status.TIMEOUT)
    assert (status(Ours("x")), status(Ours()), status(Mine())) == (
        Status.NOT_FOUND,
        Status.TIMEOUT,
        Status.THROTTLED,
    )
    register_status(TimeoutError, Status.PERMANENT_ERROR)
    assert status(TimeoutError()) == Status.PERMANENT_ERROR
    # What the user's function raises, or returns wrongly, is no reason to fail.
    register_status(Ours, lambda exc: 1 / 0)  # type: ignore[arg-type, return-value]
    assert status(Ours()) == Status.PERMANENT_ERROR
    register_status(Ours, lambda exc: Status.OK)
    assert status(Ours()) == Status.PERMANENT_ERROR
    assert "no status can be had for a Ours" in caplog.text


@pytest.mark.parametrize(
    ("kind", "status", "error"),
    [
        (Mine, Status.OK, ValueError),
        (Mine, Status.UNSPECIFIED, ValueError),
        (Mine, 6, TypeError),
        (Mine(), Status.TIMEOUT, TypeError),
        (int, Status.TIMEOUT, TypeError),
    ],
)
def test_what_is_no_error_cannot_be_registered(kind: Any, status: Any, error: Any) -> None:
    with pytest.raises(error):
        register_status(kind, status)


def test_ok_is_not_an_error() -> None:
    for status in (Status.OK, Status.UNSPECIFIED):
        with pytest.raises(ValueError, match=status.name):
            FunctionError("x", status)
    with pytest.raises(TypeError):
        FunctionError("x", 404)  # type: ignore[arg-type]
