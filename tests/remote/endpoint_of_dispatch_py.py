"""A program of dispatch-py, as its users write them: functions, and calls of them.

It is told by the environment where it listens and where the service is. It prints the id of each
call that it has dispatched, and ends when its input does.
"""

# What it imports is not there on every Python.
# mypy: ignore-errors
# pyright: reportMissingImports=false
# ruff: noqa: E402

from __future__ import annotations

import asyncio
import os
import warnings

warnings.simplefilter("ignore")

import dispatch

tries: dict[int, int] = {}


@dispatch.function
async def square(number: int) -> int:
    return number * number


@dispatch.function
async def third_time(number: int) -> int:
    tries[number] = tries.get(number, 0) + 1
    if tries[number] < 3:
        raise ConnectionError("not yet")
    return tries[number]


@dispatch.function
async def fan_out(number: int) -> int:
    return sum(await dispatch.gather(*(square(n) for n in range(number))))


@dispatch.function
async def goes_on(number: int) -> int:
    raise dispatch.Reset(square, number)


@dispatch.function
async def is_wrong(number: int) -> int:
    raise ValueError(f"{number} is wrong")


async def main() -> None:
    for function, number in (
        (square, 7),
        (third_time, 1),
        (fan_out, 20),
        (goes_on, 5),
        (is_wrong, 3),
    ):
        print(await function.dispatch(number), flush=True)
    # A function of somebody else's, by its name.
    client = dispatch.Client()
    theirs = dispatch.Call(function="add_one", endpoint=os.environ["OTHER_ENDPOINT"], input=41)
    print(*await client.dispatch([theirs]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, input)


dispatch.run(main())
