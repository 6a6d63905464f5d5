"""Against another implementation: its service, its endpoints, and both packages in one process."""

from __future__ import annotations

import importlib.util
import math
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import trio
from google.protobuf import field_mask_pb2

from trio_dispatch import remote
from trio_dispatch.remote import (
    Call,
    Client,
    Endpoint,
    FunctionError,
    KeyRefused,
    Status,
    open_client,
    unmarshal,
)
from trio_dispatch.remote._messages import _message

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("dispatch") is None,
    reason="dispatch-py has wheels for Linux and Pythons 3.11 and 3.12 only",
)

SERVICE = Path(__file__).with_name("service.py")
PROGRAM = Path(__file__).with_name("endpoint_of_dispatch_py.py")

VALUES: list[Any] = [
    None,
    True,
    -(2**63),
    2**63 - 1,
    1.5,
    math.inf,
    "grün",
    b"\x00\xff",
    datetime(2026, 11, 21, 12, 30, 0, 123_000, tzinfo=timezone.utc),
    timedelta(hours=1, microseconds=5),
    [1, "two", None, [True]],
    {"a": {"b": [1.5]}},
]


ONLY_OURS: list[Any] = [2**63, 2**64 - 1, field_mask_pb2.FieldMask(paths=["a.b"])]
"""What the other side's endpoint would answer as a Python pickle."""


class Service(NamedTuple):
    api: str
    endpoint: str
    key: str

    async def wait(self, id: str) -> Any:
        """The result of a call, which this test service tells."""
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {self.key}"}) as http:
            url = f"{self.api}/dispatch.sdk.v1.DispatchService/Wait"
            answer = await http.post(url, content=id.encode(), timeout=20)
        return _message("CallResult").FromString(answer.content)


@asynccontextmanager
async def running_service() -> AsyncGenerator[Service, None]:
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, str(SERVICE)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                check=False,
            )
        )
        line = bytearray()
        with trio.fail_after(30):
            while not line.endswith(b"\n"):
                data = await process.stdout.receive_some()
                assert data, "the service has ended"
                line += data
        try:
            yield Service(*line.decode().split())
        finally:
            process.kill()


async def test_calls_reach_functions_on_either_side_and_results_come_back() -> None:
    async with running_service() as service:
        endpoint = Endpoint("http://127.0.0.1:1", api_key=service.key, api_url=service.api)
        got: list[object] = []

        @endpoint.function()
        async def echo(value: object) -> object:
            got.append(value)
            return value

        @endpoint.function("fails")
        async def _fails(value: object) -> object:
            raise FunctionError("not for you", Status.PERMISSION_DENIED)

        @endpoint.function("breaks")
        async def _breaks(value: object) -> object:
            raise ZeroDivisionError("by zero")

        async with endpoint.serve() as url, open_client(service.key, service.api) as client:
            both = [(url, "echo"), (service.endpoint, "their_echo")]
            # A single call to each side, with each kind of value.
            for value in VALUES + ONLY_OURS:
                for where, name in both if value in VALUES else both[:1]:
                    id = await client.dispatch(Call(where, name, value))
                    result = await service.wait(id)
                    assert unmarshal(result.output) == value, (where, value)
            assert got == VALUES + ONLY_OURS

            # A batch of 100, half to each side; the ids come in the order of the calls.
            batch = client.batch()
            batch.add(*(Call(*both[n % 2], n) for n in range(100)))
            ids = await batch.dispatch()
            assert len(set(ids)) == 100
            for n in range(0, 100, 9):
                assert unmarshal((await service.wait(ids[n])).output) == n

            # Errors, of our functions and of theirs.
            for where, name, kind, message in (
                (url, "fails", "FunctionError", "not for you"),
                (url, "breaks", "ZeroDivisionError", "by zero"),
                (url, "unknown", "LookupError", "no function 'unknown'"),
                (service.endpoint, "their_broken", "ValueError", "broken over there"),
            ):
                result = await service.wait(await client.dispatch(Call(where, name, 1)))
                assert (result.error.type, result.error.message) == (kind, message)

        async with endpoint.client() as own:
            assert isinstance(own, Client)
            await own.dispatch(endpoint.call("echo", 1))
        async with open_client("wrong-key", service.api) as client:
            with pytest.raises(KeyRefused, match="refused the API key 'wro'… given as api_key"):
                await client.dispatch(Call(service.endpoint, "echo"))


@asynccontextmanager
async def program(service: remote.Service, other: str) -> AsyncGenerator[list[str], None]:
    """Run a program of dispatch-py under *service*; gives the ids that it has dispatched."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
    environment = {
        "DISPATCH_API_URL": service.url,
        "DISPATCH_API_KEY": service.api_key,
        "DISPATCH_ENDPOINT_ADDR": address,
        "DISPATCH_ENDPOINT_URL": f"http://{address}",
        "DISPATCH_VERIFICATION_KEY": service.verification_key,
        "OTHER_ENDPOINT": other,
    }
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, str(PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | environment,
                check=False,
            )
        )
        printed = bytearray()
        with trio.fail_after(30):
            while printed.count(b"\n") < 6:
                data = await process.stdout.receive_some()
                assert data, "the program has ended"
                printed += data
        try:
            yield printed.decode().split()
        finally:
            process.kill()


async def test_its_endpoint_and_its_client_work_under_our_service() -> None:
    ours = Endpoint()

    @ours.function
    async def add_one(number: int) -> int:
        return number + 1

    async with (
        ours.serve() as url,
        remote.open_service(min_retry_delay=0.01) as service,
        program(service, url) as ids,
    ):
        square, third_time, fan_out, goes_on, is_wrong, added = [
            await service.wait(remote.DispatchID(id)) for id in ids
        ]
        assert square.value == 49
        assert (third_time.value, third_time.attempts) == (3, 3)
        # A coroutine that gathers; its signature was checked at each step.
        assert fan_out.value == sum(n * n for n in range(20))
        assert len(fan_out.children) == 20
        for number, id in enumerate(fan_out.children):
            child = await service.wait(id)
            assert (child.value, child.root) == (number**2, fan_out.id)
        assert (goes_on.value, goes_on.function) == (25, "square")
        assert is_wrong.status is Status.INVALID_ARGUMENT
        assert is_wrong.error is not None
        assert (is_wrong.error.type, is_wrong.error.message) == ("ValueError", "3 is wrong")
        assert added.value == 42


def test_both_packages_live_in_one_process() -> None:
    for order in ("dispatch, trio_dispatch.remote", "trio_dispatch.remote, dispatch"):
        program = (
            "import warnings; warnings.simplefilter('ignore')\n"
            f"import {order}\n"
            "from dispatch.sdk.v1.call_pb2 import Call as Theirs\n"
            "import trio_dispatch.remote as remote\n"
            "ours = remote.Call('http://a.example', 'f', {'x': 1}).message()\n"
            "theirs = Theirs.FromString(ours.SerializeToString())\n"
            "assert theirs.function == 'f' and theirs.input.value == ours.input.value\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
