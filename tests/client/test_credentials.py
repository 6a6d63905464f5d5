"""Tokens, headers and passwords: what goes out over each wire, and what is refused."""

from __future__ import annotations

import traceback
from typing import Any

import h11
import pytest
import trio
import trio.testing

import trio_dispatch
from tests.client import support
from tests.client.support import make_server, memory_client, through
from trio_dispatch import AuthError, ConnectFailed, DispatchError
from trio_dispatch._client.opening import running

SECRET = "s3cr3t-token"


class Recorder(trio.abc.Stream):
    """Remembers what a client sends."""

    def __init__(self, stream: trio.abc.Stream, sent: bytearray) -> None:
        self._stream = stream
        self._sent = sent

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._sent += data
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


async def headers_sent(wire: str, url: str, **options: Any) -> list[tuple[str, str]]:
    """Connect a client, and return the headers of its first request."""
    server = make_server()
    sent = bytearray()

    async def reach(address: object) -> trio.abc.Stream:
        return Recorder(await server.open_stream(), sent)

    arguments = {**support.WIRES[wire], "url": url}
    client = through(memory_client(server, "demo-token", **arguments, **options), reach)
    async with server.run(), running(client):
        await client.stats()
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(bytes(sent))
    request = connection.next_event()
    assert isinstance(request, h11.Request)
    return [(name.decode(), value.decode()) for name, value in request.headers]


def values(headers: list[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in headers if key.lower() == name]


async def test_each_header_goes_out_once(autojump_clock: object, wire: str) -> None:
    scheme = "http" if wire == "http" else "ws"
    plain = await headers_sent(wire, f"{scheme}://localhost/dwp")
    assert values(plain, "host") == ["localhost"]
    assert values(plain, "user-agent") == [f"trio-dispatch/{trio_dispatch.__version__}"]
    assert values(plain, "authorization") == ([] if wire == "http" else ["Bearer demo-token"])

    extra = {"Host": "other", "User-Agent": "me", "Authorization": "Basic eA==", "X-Team": "a b"}
    changed = await headers_sent(wire, f"{scheme}://localhost/dwp", headers=extra)
    for name, value in extra.items():
        assert values(changed, name.lower()) == [value]

    in_url = await headers_sent(wire, f"{scheme}://user:p%40ss@localhost/dwp")
    assert values(in_url, "host") == ["localhost"]
    assert values(in_url, "authorization") == ["Basic dXNlcjpwQHNz"]


@pytest.mark.parametrize(
    "token",
    [SECRET + "\n", SECRET + "\u20ac", "\ufeff" + SECRET, SECRET + "\x00", SECRET + " x", ""],
)
async def test_a_token_that_cannot_be_sent_is_refused_at_once_or_a_failed_attempt(
    autojump_clock: object, wire: str, token: str
) -> None:
    options = dict(support.WIRES[wire])
    url = options.pop("url", support.URL)
    with pytest.raises(ValueError, match="token") as refused:
        trio_dispatch.open_client(url, token=token, **options)
    assert SECRET not in "".join(traceback.format_exception(refused.value))
    server, dials = make_server(), 0

    async def reach(address: object) -> trio.abc.Stream:
        nonlocal dials
        dials += 1
        return await server.open_stream()

    client = memory_client(server, None, url=url, token_provider=lambda: token, **options)
    with pytest.raises(ConnectFailed, match="token provider failed") as failed:
        async with running(through(client, reach)):
            pytest.fail("entered")
    assert dials == 0
    assert isinstance(failed.value.__cause__, ValueError)
    assert SECRET not in "".join(traceback.format_exception(failed.value))


@pytest.mark.parametrize("kind", ["raises", "none", "group", "hangs", "bytes", "bad", "late"])
async def test_a_provider_that_is_away_for_a_while_ends_nothing(
    autojump_clock: object, wire: str, kind: str
) -> None:
    """The server is there all the time, and sees no attempt without a good token."""
    server, away, asked, dials = make_server(), False, 0, 0

    async def provider() -> Any:
        nonlocal asked
        if not away:
            return "demo-token"
        asked += 1
        if kind == "raises":
            raise OSError("temporary failure in name resolution")
        if kind == "group":
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep, -1)
        if kind in ("hangs", "late"):
            await trio.sleep(3_600 if kind == "hangs" else 11)
        return {"none": None, "bytes": b"x", "bad": "a\nb"}.get(kind, "demo-token")

    async def reach(address: object) -> trio.abc.Stream:
        nonlocal dials
        dials += 1
        return await server.open_stream()

    client = through(
        memory_client(server, None, token_provider=provider, **support.WIRES[wire]), reach
    )
    async with server.run(), running(client):
        await client.stats()
        away, dials = True, 0
        server.drop_connections()
        if wire == "http":
            client._link._connection.close()  # type: ignore[union-attr]
        await trio.sleep(60)
        assert asked > 2
        assert dials == 0
        away = False
        await client.wait_connected()
        await client.stats()


async def test_a_refused_fallback_is_the_providers_failure(
    autojump_clock: object, wire: str
) -> None:
    server, away = make_server(), False

    def provider() -> str:
        if away:
            raise OSError("auth.example is away")
        return "demo-token"

    client = memory_client(server, "stale", token_provider=provider, **support.WIRES[wire])
    async with server.run(), running(client):
        away = True
        async with client.connection_events() as changes:
            server.drop_connections()
            if wire == "http":
                client._link._connection.close()  # type: ignore[union-attr]
            reasons: list[str] = []
            with trio.move_on_after(600):
                async for change in changes:
                    if not change.connected:
                        reasons.append(str(getattr(change, "reason", "")))
        assert any("401" in reason and "auth.example is away" in reason for reason in reasons)
        away = False
        await client.wait_connected()
        await client.stats()


async def test_a_provider_that_hangs_leaves_time_for_the_fallback(
    autojump_clock: object, wire: str
) -> None:
    server = make_server()
    options: dict[str, Any] = {**support.WIRES[wire], "token_provider": trio.sleep_forever}
    async with server.run(), running(memory_client(server, "demo-token", **options)) as client:
        assert trio.current_time() == pytest.approx(5)
        await client.stats()


async def test_no_token_where_one_is_needed_says_so(autojump_clock: object, wire: str) -> None:
    server = make_server()
    with pytest.raises(AuthError, match="no token was given"):
        async with server.run(), running(memory_client(server, None, **support.WIRES[wire])):
            pytest.fail("entered")
    with pytest.raises(AuthError) as caught:
        async with server.run(), running(memory_client(server, "bad", **support.WIRES[wire])):
            pytest.fail("entered")
    assert "no token" not in str(caught.value)


async def test_a_missing_path_is_guessed_at(autojump_clock: object, wire: str) -> None:
    scheme = "http" if wire == "http" else "ws"
    server = make_server()
    options = {**support.WIRES[wire], "url": f"{scheme}://localhost"}
    with pytest.raises(DispatchError, match=f"did you mean {scheme}://localhost/dwp"):
        async with server.run(), running(memory_client(server, **options)):
            pytest.fail("entered")


@pytest.mark.filterwarnings("error::trio_dispatch.InsecureTokenWarning")
async def test_a_password_in_the_clear_is_warned_of() -> None:
    with pytest.raises(trio_dispatch.InsecureTokenWarning, match="a password goes unencrypted"):
        trio_dispatch.open_client("ws://user:secret@example.com/dwp")
    with pytest.raises(ValueError, match="where the token goes"):
        async with trio_dispatch.open_link("ws://user:s@localhost/dwp", auth_token="x"):
            pytest.fail("entered")


async def test_an_answer_that_repeats_a_secret_does_not_show_it(
    autojump_clock: object, wire: str
) -> None:
    """As proxies and debugging servers do with what they were sent."""

    async def echo(address: object) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        said = f"you sent {SECRET}, user:p4ssw0rd, and dXNlcjpwNHNzdzByZA=="
        await far.send_all(b"HTTP/1.1 400 Bad\r\nConnection: close\r\n\r\n" + said.encode())
        await far.send_eof()
        return near

    scheme = "http" if wire == "http" else "ws"
    options = {**support.WIRES[wire], "url": f"{scheme}://user:p4ssw0rd@localhost/dwp"}
    for token in (SECRET, None):
        client = through(memory_client(make_server(), token, **options), echo)
        with pytest.raises(ConnectFailed, match=r"HTTP 400 Bad.*: you sent") as caught:
            async with running(client):
                pytest.fail("entered")
        shown = "".join(traceback.format_exception(caught.value))
        assert "p4ssw0rd" not in shown
        assert "dXNlcjpwNHNzdzByZA" not in shown
        assert token is None or SECRET not in shown
