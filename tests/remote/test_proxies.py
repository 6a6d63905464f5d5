"""The client of the Dispatch API through a proxy, and with certificates that cannot be read."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from tests.client.proxying import NAME, HttpProxy, SmallProxy, Socks5Proxy, running_proxy
from tests.remote.support import ApiService, ids
from trio_dispatch import ConnectFailed
from trio_dispatch.remote import Call, open_client
from trio_dispatch.remote import _client as module

CALL = Call("http://a.example", "f", 1)
KINDS: list[Any] = [HttpProxy, Socks5Proxy]


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_DELAY", 0.001)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_go_through_the_proxy(
    kind: type[SmallProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = ApiService([ids("id-1")])
    with trio.fail_after(20):
        async with service.serve() as url, running_proxy(kind, "user:s3cr3t") as proxy:
            variable = f"{kind.scheme}://user:s3cr3t@127.0.0.1:{proxy.port}"
            monkeypatch.setenv("ALL_PROXY", variable)
            port = url.rpartition(":")[2]
            async with open_client("key", f"http://{NAME}:{port}") as client:
                assert await client.dispatch(CALL) == "id-1"
            assert proxy.asked == [f"{NAME}:{port}"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_proxy_that_is_away_is_a_failed_connection(
    kind: type[SmallProxy], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", f"{kind.scheme}://user:s3cr3t@127.0.0.1:1")
    with trio.fail_after(20):
        async with open_client("key", f"http://{NAME}:5") as client:
            with pytest.raises(ConnectFailed, match="nothing listens there") as caught:
                await client.dispatch(CALL)
    assert "s3cr3t" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [("ALL_PROXY", "socks://[::1]"), ("SSL_CERT_FILE", "/nowhere"), ("SSL_CERT_DIR", "/nowhere")],
)
async def test_a_variable_that_makes_no_sense_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=name):
        async with open_client("key", "https://api.example"):
            pytest.fail("entered")
