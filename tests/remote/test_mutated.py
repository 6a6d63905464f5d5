"""Requests that were changed anywhere: each gets an answer, and endpoint and service live on."""

from __future__ import annotations

import contextlib
import gzip
import json
import logging
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.remote.calling import run_request
from tests.shares import EVERYTHING
from trio_dispatch import remote
from trio_dispatch._transport.pipe import pipe
from trio_dispatch.remote import Call, Endpoint, Status, marshal
from trio_dispatch.remote._messages import (
    DISPATCH_PATH,
    RUN_PATH,
    DispatchRequest,
    DispatchResponse,
    RunRequest,
    RunResponse,
)

REQUESTS = 5000 if EVERYTHING else 300
URL = "http://a.example"

Handle = Callable[[trio.abc.Stream], Any]


def make() -> Endpoint:
    endpoint = Endpoint(URL)

    @endpoint.function
    async def echo(value: object) -> object:
        return value

    @endpoint.function
    async def parent(value: object) -> object:
        return await remote.gather(Call(URL, "echo", value), Call(URL, "echo", 2))

    return endpoint


def http(path: str, body: bytes, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: a.example", "content-type: application/proto"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [f"content-length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode() + body


def bodies() -> list[bytes]:
    """Good messages to an endpoint."""
    values: list[object] = [None, "grün", 2**63, {"a": [1, {"b": None}]}, b"\x00" * 50, [[[[]]]]]
    found = [run_request(name, value) for value in values for name in ("echo", "parent", "f.<x>")]
    request = RunRequest(function="parent", dispatch_id="id-2", root_dispatch_id="id-1")
    request.poll_result.coroutine_state = b"\x95\x01\xc4\x01x\x02\xa0\xc4\x00"
    packed = marshal(1)
    result = request.poll_result.results.add(correlation_id=7)
    result.output.type_url, result.output.value = packed.type_url, packed.value
    request.poll_result.results.add(correlation_id=8).error.type = "E"
    request.expiration_time.seconds = 2**33
    return [*found, request.SerializeToString()]


def batches() -> list[bytes]:
    """Good messages to a service."""
    calls: list[Any] = [
        Call(URL, "echo", 1).message(),
        Call("bridge://x", "echo", {"a": 1}).message(),
        Call(URL, "parent", "x", version="v", correlation_id=2**64 - 1).message(),
    ]
    calls[0].expiration.seconds = 10
    return [
        DispatchRequest(calls=some).SerializeToString() for some in (calls, calls[::2], calls[:1])
    ]


def mutate(dice: random.Random, data: bytes) -> bytes:
    """Change *data* in one to four places."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(changed) + 1)
        match dice.randrange(6):
            case 0:
                changed[at : at + 1] = bytes([dice.randrange(256)])
            case 1:
                del changed[at : at + dice.randint(1, 20)]
            case 2:
                changed[at:at] = dice.randbytes(dice.randint(1, 20))
            case 3:
                changed[at:at] = changed[at : at + dice.randint(1, 30)]
            case 4:
                changed[at:at] = dice.choice([b"\xff" * 9 + b"\x01", b"\r\n", b"\x00", b"\xed\xa0"])
            case _:
                del changed[at:]
    return bytes(changed)


def one_of(dice: random.Random, path: str, good: list[bytes], authorization: str) -> bytes:
    """A mutated request: its message, its compression, its headers, or any byte of it."""
    body = dice.choice(good)
    headers = {"authorization": authorization} if authorization else {}
    match dice.randrange(4):
        case 0 | 1:
            return http(path, mutate(dice, body), **headers)
        case 2:
            packed = gzip.compress(body)
            packed = mutate(dice, packed) if dice.random() < 0.7 else packed
            encoding = dice.choice(["gzip", "br", "identity", "GZIP"])
            return http(path, packed, content_encoding=encoding, **headers)
        case _:
            return mutate(dice, http(path, body, **headers))


async def exchange(handle: Handle, data: bytes) -> bytes:
    """What is answered until nothing has come for a while; the connection is left like that."""
    ours, theirs = pipe()
    got = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handle, theirs)
        try:
            await ours.send_all(data)
            with trio.move_on_after(100):
                async for part in ours:
                    got += part
        except trio.BrokenResourceError:
            pass
        await ours.aclose()
    return bytes(got)


def check(answer: bytes, message: Any) -> None:
    """An answer is one of HTTP: a message, or an error that says what is wrong."""
    if not answer:
        return  # what never became a request, and was given up
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    assert lines[0].startswith(("HTTP/1.1 ", "HTTP/1.0 "))
    status = int(lines[0].split(" ")[1])
    assert status != 500, answer
    if status == 200 and b"Content-Encoding" not in head:
        length = next(line for line in lines if line.lower().startswith("content-length"))
        message.FromString(body[: int(length.partition(":")[2])])
    elif "Content-Type: application/json" in lines and not body.startswith(b"HTTP"):
        error = json.loads(body[: body.index(b"}") + 1])
        assert error["code"]
        assert error["message"]


@pytest.mark.parametrize("part", range(3))
async def test_an_endpoint_answers_and_lives_on(
    part: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    dice = random.Random(part)
    endpoint = make()
    good = bodies()
    async with trio.open_nursery() as nursery:
        handle = partial(endpoint.handle, nursery=nursery)
        for _ in range(REQUESTS // 6):
            data = one_of(dice, RUN_PATH, good, "")
            check(await exchange(handle, data), RunResponse)
        answer = await exchange(handle, http(RUN_PATH, run_request("echo", "still there")))
        assert b"still there" in answer
        nursery.cancel_scope.cancel()
    assert not [record for record in caplog.records if record.exc_info], caplog.text


@pytest.mark.parametrize("part", range(3))
async def test_a_service_answers_and_lives_on(
    part: int, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    dice = random.Random(100 + part)
    endpoint = make()
    good = batches()
    async with (
        remote.open_service(host=None, endpoints=[endpoint], expiration=5, seed=1) as service,
        service.open_client() as client,
    ):
        for _ in range(REQUESTS // 6):
            data = one_of(dice, DISPATCH_PATH, good, "Bearer dev")
            check(await exchange(service.handle, data), DispatchResponse)
        outcome = await service.wait(await client.dispatch(Call(URL, "echo", "still there")))
        assert outcome.value == "still there"
        for call in service.calls():
            ended = await service.wait(call.id)
            if ended.error is not None:
                assert ended.error.type != "InternalError"
            else:
                assert ended.status is Status.OK
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def answers() -> list[bytes]:
    """Good answers of an endpoint."""
    value, poll, tail = (RunResponse(status=Status.OK) for _ in range(3))
    packed = marshal({"a": [1]})
    output = value.exit.result.output
    output.type_url, output.value = packed.type_url, packed.value
    poll.poll.coroutine_state = b"state"
    poll.poll.calls.append(Call(URL, "echo", 1).message())
    poll.poll.max_wait.seconds = poll.poll.min_results = poll.poll.max_results = 1
    tail.exit.tail_call.CopyFrom(Call(URL, "echo", 1).message())
    return [message.SerializeToString() for message in (value, poll, tail)]


async def test_a_service_gives_each_call_an_outcome_whatever_is_answered(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    dice = random.Random(1000)
    good = answers()

    class Garbled(Endpoint):
        async def handle(
            self, stream: trio.abc.Stream, *, nursery: trio.Nursery | None = None
        ) -> None:
            async with stream:
                await stream.receive_some()
                body = mutate(dice, dice.choice(good))
                head = f"HTTP/1.1 200 OK\r\ncontent-length: {len(body)}\r\n"
                data = f"{head}content-type: application/proto\r\n\r\n".encode() + body
                if dice.random() < 0.3:
                    data = mutate(dice, data)
                with contextlib.suppress(trio.BrokenResourceError):
                    await stream.send_all(data)

    async with (
        remote.open_service(
            host=None, endpoints=[Garbled(URL)], expiration=3, attempt_timeout=1, seed=1
        ) as service,
        service.open_client() as client,
    ):
        batch = client.batch()
        batch.add(*(Call(URL, "f", n) for n in range(REQUESTS // 5)))
        found = [await service.wait(id) for id in await batch.dispatch()]
        assert {outcome.status for outcome in found} >= {Status.OK, Status.INVALID_RESPONSE}
        for call in service.calls():
            outcome = await service.wait(call.id)
            assert outcome.error is None or outcome.error.type != "InternalError"
    assert not [record for record in caplog.records if record.exc_info], caplog.text
