"""Through proxies, over each wire: names are theirs to resolve, passwords are shown nowhere."""

from __future__ import annotations

import logging
import ssl
import sys
import traceback
from typing import Any

import pytest
import trio
import trustme

import trio_dispatch
from tests.client import support
from tests.client.proxying import NAME, HttpProxy, SmallProxy, Socks5Proxy, running_proxy
from tests.client.support import make_server
from trio_dispatch import ConnectFailed

KINDS: list[Any] = [HttpProxy, Socks5Proxy]
SECRET = "s3cr3t-word"


def options_of(wire: str) -> dict[str, Any]:
    return {name: value for name, value in support.WIRES[wire].items() if name != "url"}


def to_proxied_name(url: str, wire: str, *, tls: bool = False) -> str:
    """The URL of a server on loopback, by the name that the proxies know."""
    port = url.split(":")[2]
    scheme = ("http" if wire == "http" else "ws") + ("s" if tls else "")
    return f"{scheme}://{NAME}:{port}"


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.filterwarnings("ignore::trio_dispatch.InsecureTokenWarning")
@pytest.mark.parametrize("kind", KINDS)
async def test_a_client_goes_through_a_proxy_with_a_password(
    kind: type[SmallProxy],
    wire: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("httpx", "httpcore", "python_socks"):
        caplog.set_level(logging.DEBUG, logger=name)
    server = make_server()
    with trio.fail_after(20):
        async with server.serve() as url, running_proxy(kind, f"us@r:{SECRET}") as proxy:
            monkeypatch.setenv(
                "ALL_PROXY", f"{kind.scheme}://us%40r:{SECRET}@127.0.0.1:{proxy.port}"
            )
            target = to_proxied_name(url, wire)
            async with trio_dispatch.open_client(
                target, token="demo-token", **options_of(wire)
            ) as client:
                async with client.subscribe("jobs") as events:
                    job = await client.enqueue("noop")
                    assert (await events.receive()).job_id == job.job_id
                    assert (await job.wait()).state == "completed"
                run = await client.run_workflow(
                    "order-pipeline", {"items": [1]}, cancel_with_scope=True
                )
                assert run.state == "completed"
                if wire != "http":
                    await client.run_workflow("order-pipeline", {"items": [1]})
            assert len(proxy.asked) >= 2
            assert set(proxy.asked) == {target.split("/")[2]}
    for record in caplog.records:
        assert SECRET not in record.getMessage() + repr(record.args) + str(record.exc_text)


@pytest.mark.parametrize("kind", KINDS)
async def test_tls_goes_through_the_proxy_to_the_server_itself(
    kind: type[SmallProxy], wire: str
) -> None:
    authority = trustme.CA()
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(serving)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    server = make_server()

    async def secured(stream: trio.SocketStream) -> None:
        try:
            async with trio.SSLStream(
                stream, serving, server_side=True, https_compatible=True
            ) as tls:
                async with await server.open_stream() as inner:
                    await _both_ways(tls, inner)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    with trio.fail_after(20):
        async with server.run(), running_proxy(kind) as proxy, trio.open_nursery() as nursery:

            async def listen(task_status: Any) -> None:
                await trio.serve_tcp(secured, 0, host="127.0.0.1", task_status=task_status)

            listeners: Any = await nursery.start(listen)
            port = listeners[0].socket.getsockname()[1]
            target = to_proxied_name(f"ws://h:{port}/dwp", wire, tls=True)
            async with trio_dispatch.open_client(
                target,
                token="demo-token",
                ssl_context=trusting,
                proxy=f"{kind.scheme}://localhost:{proxy.port}",
                **options_of(wire),
            ) as client:
                await client.stats()
            assert proxy.asked[0] == f"{NAME}:{port}"
            nursery.cancel_scope.cancel()


async def _both_ways(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    async def carry(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
        async for data in source:
            await target.send_all(data)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(carry, one, other)
        nursery.start_soon(carry, other, one)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("trouble", ["refuses", "password", "away", "garbage", "silence"])
async def test_a_proxy_that_fails_is_named_and_its_password_is_not(
    kind: type[SmallProxy], wire: str, trouble: str
) -> None:
    class Odd(SmallProxy):
        scheme = kind.scheme

        async def serve(self, client: trio.SocketStream) -> None:
            await client.receive_some()
            if trouble == "silence":
                await trio.sleep_forever()
            await client.send_all(b"\x00garbage\xff\r\n\r\n" * 5)

    what = Odd if trouble in ("garbage", "silence") else kind
    wanted = f"user:{SECRET}" + ("x" if trouble == "password" else "")
    with trio.fail_after(20):
        async with running_proxy(what, wanted) as proxy:
            proxy.refuses = trouble == "refuses"
            port = 1 if trouble == "away" else proxy.port
            with pytest.raises(ConnectFailed) as caught:
                async with trio_dispatch.open_client(
                    to_proxied_name("ws://h:5/dwp", wire, tls=True),
                    token="demo-token",
                    proxy=f"{kind.scheme}://user:{SECRET}@127.0.0.1:{port}",
                    connect_timeout=0.3 if trouble == "silence" else 10,
                    **options_of(wire),
                ):
                    pytest.fail("entered")
    text = str(caught.value)
    assert text.isprintable()
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    if trouble != "silence":
        assert f"the proxy {kind.scheme}://127.0.0.1:{port} (proxy=)" in text
    if trouble == "away":
        assert "nothing listens there" in text


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"])
async def test_a_variable_that_makes_no_sense_is_named_at_once(
    wire: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if variable == "NO_PROXY":
        monkeypatch.setenv("ALL_PROXY", "http://p")
    monkeypatch.setenv(variable, "10.0.0.0/99" if variable == "NO_PROXY" else "socks://[::1]:1080")
    url = f"{'https' if wire == 'http' else 'wss'}://h/dwp"
    with pytest.raises(ValueError, match=variable):
        trio_dispatch.open_client(url, token="demo-token", **options_of(wire))
    trio_dispatch.open_client(url, token="demo-token", proxy=None, **options_of(wire))
    with pytest.raises(TypeError, match="proxy is 'env', None"):
        trio_dispatch.open_client(url, proxy=5, **options_of(wire))  # type: ignore[arg-type]


async def test_what_is_in_no_proxy_is_reached_directly(
    wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "localhost, 127.0.0.0/8, [::1]")
    server = make_server()
    async with server.serve() as url:
        where = url.replace("ws", "http", 1) if wire == "http" else url
        async with trio_dispatch.open_client(
            where, token="demo-token", **options_of(wire)
        ) as client:
            await client.stats()


async def test_the_embedded_server_in_memory_needs_no_proxy(
    monkeypatch: pytest.MonkeyPatch, wire: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://nonsense")
    server = make_server()
    async with (
        server.run(),
        server.open_client(token="demo-token", **support.WIRES[wire]) as client,
    ):
        await client.stats()


async def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "python_socks", None)
    monkeypatch.setitem(sys.modules, "python_socks.async_.trio", None)
    with pytest.raises(
        ModuleNotFoundError, match=r"HTTPS_PROXY.*trio-dispatch\[proxy\].*proxy=None"
    ):
        monkeypatch.setenv("HTTPS_PROXY", "http://p:3128")
        trio_dispatch.open_client("wss://h/dwp")


def test_a_proxy_behind_tls_is_for_http_only() -> None:
    with pytest.raises(ValueError, match="reached by TLS"):
        trio_dispatch.open_client("wss://h/dwp", proxy="https://p")
    trio_dispatch.open_client("https://h/dwp", proxy="https://p")


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
async def test_certificates_that_cannot_be_read_are_named(
    name: str, wire: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "/nowhere/at-all")
    scheme = "https" if wire == "http" else "wss"
    with pytest.raises(ValueError, match=f"{name} is '/nowhere/at-all'"):
        async with trio_dispatch.open_client(f"{scheme}://127.0.0.1:1/dwp", **options_of(wire)):
            pytest.fail("entered")
