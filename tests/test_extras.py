"""What is missing or misspelt is named: the extra to install, the function that was called."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import trio

import trio_dispatch
from trio_dispatch._transport.extras import require
from trio_dispatch.server import Server

NEEDED = [
    ("trio_dispatch.server", "server", ["h11", "websockets"]),
    (
        "trio_dispatch.remote",
        "remote",
        ["cryptography", "google.protobuf", "h11", "http_message_signatures", "httpx"],
    ),
    ("trio_dispatch.opentelemetry", "opentelemetry", ["opentelemetry"]),
]


def test_a_module_whose_extra_is_missing_names_it() -> None:
    code = "import importlib, sys\n"
    for module, extra, packages in NEEDED:
        for package in packages:
            code += f"""
for name in [name for name in sys.modules if name.startswith({module!r})]:
    del sys.modules[name]
sys.modules[{package!r}] = None
try:
    importlib.import_module({module!r})
except ModuleNotFoundError as exc:
    expected = "{module} needs {package}: pip install 'trio-dispatch[{extra}]'"
    assert str(exc) == expected, (str(exc), expected)
else:
    raise AssertionError({module!r}, {package!r})
del sys.modules[{package!r}]
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_package_inside_one_that_is_missing_is_missing_too() -> None:
    with pytest.raises(ModuleNotFoundError, match=r"x needs no_such\.part: pip install") as caught:
        require("x", "remote", "no_such.part")
    assert caught.value.name == "no_such.part"
    require("x", "remote", "trio")


async def test_a_misspelt_option_names_the_function_and_the_right_one() -> None:
    wrong: dict[str, Any] = {"tokn": "secret"}
    with pytest.raises(TypeError) as caught:
        trio_dispatch.open_client("ws://localhost/", **wrong)
    assert str(caught.value) == (
        "open_client() got an unexpected keyword argument 'tokn'; did you mean 'token'?"
    )
    server = Server({})
    with pytest.raises(
        TypeError, match=r"^open_client\(\) got an unexpected keyword argument 'tokn'"
    ):
        async with server.open_client(token="a", **wrong):
            pass
    async with trio.open_nursery() as nursery:
        with pytest.raises(TypeError, match=r"^connect_client\(\) got an unexpected keyword .*'"):
            await trio_dispatch.connect_client(nursery, "ws://localhost/", **wrong)
        wrong = {}
        with pytest.raises(TypeError, match=r"^connect_client\(\) missing a required argument: 'u"):
            await trio_dispatch.connect_client(nursery, **wrong)
