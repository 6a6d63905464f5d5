"""dispatch-py's test service and an endpoint of its, as a program: prints their URLs."""

from __future__ import annotations

import asyncio
import warnings

warnings.simplefilter("ignore")

import dispatch.test
from dispatch.function import default_registry
from dispatch.http import Dispatch
from dispatch.proto import Error, Input, Output
from dispatch.test import Server, Service

registry = default_registry()


@registry.primitive_function
async def their_echo(input: Input) -> Output:
    return Output.value(input.input)


@registry.primitive_function
async def their_broken(input: Input) -> Output:
    return Output.error(Error.from_exception(ValueError("broken over there")))


async def main() -> None:
    service = Service()
    async with Server(service) as api, Server(Dispatch(registry)) as endpoint:
        print(api.url, endpoint.url, dispatch.test.DISPATCH_API_KEY, flush=True)
        await asyncio.get_running_loop().run_in_executor(None, input)
    await service.close()


asyncio.run(main())
