"""A program with an endpoint, as a user writes it, to be run under ``trio-dispatch run``.

Its argument says how it ends: with a number, or when a signal comes.
"""

from __future__ import annotations

import signal
import sys

import trio

from trio_dispatch import remote

endpoint = remote.Endpoint()
done = trio.Event()
tries = 0


@endpoint.function
async def square(number: int) -> int:
    return number * number


@endpoint.function
async def flaky() -> int:
    global tries  # noqa: PLW0603
    tries += 1
    if tries < 3:
        raise ConnectionError("the shop is closed")
    return tries


@endpoint.function
async def wrong(text: str) -> None:
    raise ValueError(f"no such thing: {text}")


@endpoint.function
async def total(number: int) -> object:
    calls = [endpoint.call("square", n) for n in range(number)]
    results = await remote.gather(*calls, endpoint.call("flaky"))
    try:
        await remote.call(endpoint.call("wrong", "\x1b[31mred"))
    except remote.FunctionFailed:
        done.set()
    return results


async def main(ending: str) -> None:
    async with endpoint.serve(grace=10) as url, endpoint.client() as client:
        assert url == endpoint.url
        print("serving", flush=True)
        await client.dispatch(endpoint.call("total", 3))
        await done.wait()
        if ending == "signal":
            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                print("ready", flush=True)
                async for number in signals:
                    print("got", signal.Signals(number).name, flush=True)
                    sys.exit(5)
    print("bye", flush=True)
    sys.exit(int(ending))


trio.run(main, sys.argv[1])
