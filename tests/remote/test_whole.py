"""One program with this package alone: a service, a client, endpoints. Each outcome is asserted."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import timedelta

import pytest
import trio
import trio.testing

from trio_dispatch import remote
from trio_dispatch.remote import Status

CALLS = 300


def make(url: str | None, **options: str) -> remote.Endpoint:
    endpoint = remote.Endpoint(url, **options)  # type: ignore[arg-type]
    tries: dict[object, int] = {}

    @endpoint.function
    async def square(number: int) -> int:
        return number * number

    @endpoint.function
    def in_a_thread(number: int) -> int:
        return -number

    @endpoint.function
    async def third_time(number: int) -> list[int]:
        tries[number] = tries.get(number, 0) + 1
        if tries[number] < 3:
            raise ConnectionError("not yet")
        return [number, tries[number]]

    @endpoint.function
    async def never(number: int) -> None:
        raise remote.FunctionError("try later", Status.THROTTLED)

    @endpoint.function
    async def wrong(number: int) -> None:
        raise ValueError(f"{number} is wrong")

    @endpoint.function
    async def fan_out(number: int) -> int:
        squares = await remote.gather(*(endpoint.call("square", n) for n in range(20)))
        assert all(isinstance(square, int) for square in squares)
        return sum(squares) + number  # type: ignore[arg-type]

    @endpoint.function
    async def goes_on(number: int) -> remote.Call:
        return endpoint.call("square", number + 1)

    return endpoint


async def run(service: remote.Service, client: remote.Client, endpoint: remote.Endpoint) -> None:
    names = ["square", "in_a_thread", "third_time", "wrong", "goes_on"]
    batch = client.batch()
    for number in range(CALLS):
        batch.add(endpoint.call(names[number % len(names)], number))
    ids = await batch.dispatch()
    fan_out = await client.dispatch(endpoint.call("fan_out", 1))

    for number, id in enumerate(ids):
        outcome = await service.wait(id)
        assert (outcome.id, outcome.parent, outcome.root) == (id, None, id)
        match number % len(names):
            case 0:
                assert (outcome.value, outcome.attempts) == (number**2, 1)
            case 1:
                assert (outcome.value, outcome.attempts) == (-number, 1)
            case 2:
                assert (outcome.value, outcome.attempts) == ([number, 3], 3)
            case 3:
                assert (outcome.status, outcome.value) == (Status.INVALID_ARGUMENT, None)
                assert outcome.error is not None
                assert outcome.error.message == f"{number} is wrong"
            case 4:
                assert (outcome.value, outcome.function) == ((number + 1) ** 2, "square")
        assert outcome.ok == (number % len(names) != 3)

    outcome = await service.wait(fan_out)
    assert outcome.value == sum(n * n for n in range(20)) + 1
    assert len(outcome.children) == 20
    for number, id in enumerate(outcome.children):
        child = await service.wait(id)
        assert (child.value, child.parent, child.root) == (number**2, fan_out, fan_out)

    assert len(service.calls()) == CALLS + 1 + 20
    assert {call.state for call in service.calls()} == {"ended"}


async def test_in_memory_under_virtual_time(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        remote.open_service(host=None) as service,
        service.open_client() as client,
    ):
        endpoint = make("https://a.example/x", verification_key=service.verification_key)
        service.add_endpoint(endpoint)
        await run(service, client, endpoint)
        never = endpoint.call("never", 1, expiration=timedelta(seconds=2))
        outcome = await service.wait(await client.dispatch(never))
        assert outcome.status is Status.TIMEOUT
        assert outcome.error is not None
        assert outcome.error.message.startswith(
            "the call expired 2 s after it was made, at attempt "
        )
        assert outcome.error.message.endswith(
            "the last cause was THROTTLED: FunctionError: try later"
        )


async def test_over_sockets_with_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(remote.open_service(min_retry_delay=0.01))
        monkeypatch.setenv("DISPATCH_API_URL", service.url)
        monkeypatch.setenv("DISPATCH_API_KEY", service.api_key)
        monkeypatch.setenv("DISPATCH_VERIFICATION_KEY", service.verification_key)
        endpoint = make(None)
        address = await stack.enter_async_context(endpoint.serve())
        assert endpoint.url == address
        client = await stack.enter_async_context(endpoint.client())
        await run(service, client, endpoint)


async def test_a_signed_endpoint_takes_nothing_from_another_service(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        remote.open_service(host=None) as service,
        remote.open_service(host=None) as other,
        other.open_client() as client,
    ):
        endpoint = make("https://a.example/x", verification_key=service.verification_key)
        other.add_endpoint(endpoint)
        outcome = await other.wait(await client.dispatch(endpoint.call("square", 1)))
        assert outcome.status is Status.PERMISSION_DENIED
        assert outcome.error is not None
        assert "not valid for https://a.example/x" in outcome.error.message
