"""DevTools of a real Node.js, where it is installed."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, Literal

import pytest
import trio

from trio_dispatch import JsonRpc, RequestError, open_link

NODE = shutil.which("node")

pytestmark = pytest.mark.skipif(NODE is None, reason="needs Node.js")


@pytest.mark.parametrize("transport", ["trio-websocket", "websockets"])
async def test_a_program_can_be_inspected(
    transport: Literal["trio-websocket", "websockets"],
) -> None:
    assert NODE is not None
    created = trio.Event()

    def note(message: Any) -> None:
        if message["method"] == "Runtime.executionContextCreated":
            created.set()

    program = [NODE, "--inspect=127.0.0.1:0", "-e", "setInterval(() => {}, 1000)"]
    process = await trio.lowlevel.open_process(program, stderr=subprocess.PIPE)
    try:
        with trio.fail_after(60):
            assert process.stderr is not None
            told = b""
            while b"ws://" not in told or not told.endswith(b"\n"):
                told += await process.stderr.receive_some()
            url = told[told.index(b"ws://") :].split()[0].decode()
            async with open_link(
                url, dialect=JsonRpc(None), handler=note, transport=transport
            ) as link:
                question = {"method": "Runtime.evaluate", "params": {"expression": "6 * 7"}}
                assert (await link.request(question))["result"]["result"]["value"] == 42
                with pytest.raises(RequestError, match="wasn't found"):
                    await link.request({"method": "No.such"})
                await link.request({"method": "Runtime.enable"})
                await created.wait()
    finally:
        process.kill()
        await process.wait()
