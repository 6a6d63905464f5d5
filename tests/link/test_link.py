"""The generic link: it stays connected, correlates, and hands everything else to a handler."""

from __future__ import annotations

import logging
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from tests.link.peers import linked, open_frame_server
from trio_dispatch import (
    AuthError,
    ClientClosed,
    Connected,
    ConnectFailed,
    ConnectionLost,
    Disconnected,
    Frame,
    Link,
    RequestError,
    open_link,
    run_link,
)


async def test_a_request_gets_the_frame_that_answers_it(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        answers: dict[str, Frame] = {}
        async with trio.open_nursery() as nursery:

            async def ask(id: str) -> None:
                answers[id] = await link.request(Frame(id=id, type="request", data={"n": id}))

            for id in ("a", "b", "c"):
                nursery.start_soon(ask, id)
            asked = {(await peer.receive()).id for _ in range(3)}
            assert asked == {"a", "b", "c"}
            for id in ("c", "a", "b"):  # in whatever order they come
                await peer.send(id=f"s{id}", type="response", correl_id=id, data=[id])
        assert {id: frame.data for id, frame in answers.items()} == {
            "a": ["a"],
            "b": ["b"],
            "c": ["c"],
        }


async def test_an_error_frame_raises(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(RequestError, match="405 no such thing"):
                    await link.request(Frame(id="1", method="x"))

            await peer.receive()
            await peer.ws.send_message(
                '{"type":"error","correl_id":"1","error":{"code":405,"message":"no such thing"}}'
            )


async def test_a_request_without_an_id_gets_one_and_messages_must_be_sendable(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(link.request, Frame(method="x"))
            ids = {(await peer.receive()).id for _ in range(2)}
            assert len(ids) == 2
            for id in ids:
                await peer.send(correl_id=id)
        with pytest.raises(TypeError):
            await link.send(Frame(id="1", data=object()))
        with pytest.raises(ValueError, match="max_message_size"):
            await link.send(Frame(id="1", data="x" * 17_000_000))


async def test_two_requests_of_one_id_are_refused(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(link.request, Frame(id="1"))
            await peer.receive()
            with pytest.raises(ValueError, match="'1' is still unanswered"):
                await link.request(Frame(id="1"))
            await peer.send(correl_id="1")


async def test_send_waits_for_a_connection_and_returns_when_written(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        server.refusing = 3
        async with linked(server) as link:
            assert not link.connected
            await link.send(Frame(id="1", type="event", data="hello"))
            assert len(server.dials) == 4
            peer = await server.accept()
            assert (await peer.receive()).data == "hello"
            await trio.sleep(60)  # it has lasted, so the next delay is short
            with trio.move_on_after(5):  # what is withdrawn before it is written is never sent
                await peer.vanish()
                await trio.testing.wait_all_tasks_blocked()
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await link.send(Frame(id="2"))
                await link.send(Frame(id="3"))
            peer = await server.accept()
            assert (await peer.receive()).id == "3"


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_handler_gets_what_answers_nothing(autojump_clock: object, kind: str) -> None:
    got: list[Frame] = []

    async def handle_async(frame: Frame) -> None:
        await trio.sleep(0.1)
        got.append(frame)

    handler: Any = got.append if kind == "sync" else handle_async
    async with open_frame_server() as server, linked(server, handler=handler) as link:
        peer = await server.accept()
        await peer.send(type="event", id="e1", data={"x": 1})
        await peer.send(type="response", correl_id="never-asked")
        await peer.send(type="request", id="r1", method="do.this")
        await trio.sleep(1)
        assert [frame.id or frame.correl_id for frame in got] == ["e1", "never-asked", "r1"]
        assert got[0].data == {"x": 1}
        assert link.statistics().strays == 1


async def test_a_handler_that_fails_or_hangs_harms_nothing_else(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def handler(frame: Frame) -> None:
        if frame.id == "bad":
            raise ValueError("boom")
        await trio.sleep_forever()

    async with (
        open_frame_server() as server,
        linked(server, handler=handler, on_full="drop") as link,
    ):
        peer = await server.accept()
        await peer.send(type="event", id="bad")
        for n in range(1_100):
            await peer.send(type="event", id=f"e{n}")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.echo)
            assert (await link.request(Frame(id="1", data=2))).data == 2
            nursery.cancel_scope.cancel()
        assert "the handler failed" in caplog.text
        assert link.statistics().handler_dropped == 1_100 - 1_024 - 1
        assert "the handler is too slow" in caplog.text


@pytest.mark.parametrize("late", ["handler", "drop"])
async def test_the_late_answer_to_a_cancelled_request_goes_where_it_should(
    autojump_clock: object, late: str
) -> None:
    got: list[Frame] = []
    async with open_frame_server() as server, linked(server, handler=got.append, late=late) as link:
        peer = await server.accept()
        with trio.move_on_after(1):
            await link.request(Frame(id="1"))
        await peer.receive()
        await peer.send(type="response", correl_id="1")
        await peer.send(type="error", correl_id="1")  # a second one is a stray
        await trio.sleep(1)
        assert [frame.type for frame in got] == ["response", "error"][late == "drop" :]


async def test_requests_that_are_given_up_unanswered_do_not_fill_the_window(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        for n in range(300):
            with trio.move_on_after(0.1):
                await link.request(Frame(id=f"never-{n}"))
            await peer.receive()
        assert link.statistics().in_flight == 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.echo)
            assert (await link.request(Frame(id="1", data=2))).data == 2
            nursery.cancel_scope.cancel()


async def test_a_request_under_which_the_connection_drops_may_have_been_delivered(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                with pytest.raises(ConnectionLost, match="may have been carried out") as caught:
                    await link.request(Frame(id="1", method="x"))
                assert caught.value.maybe_delivered

            await peer.receive()
            await peer.vanish()


async def test_every_listener_gets_every_event_and_none_stalls_another(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server, linked(server) as link:
        async with link.events() as idle, link.events() as busy:
            assert await busy.receive() == Disconnected()
            for _ in range(3):
                peer = await server.accept()
                assert await busy.receive() == Connected("ws://localhost/connect")
                await trio.sleep(2)  # the connection lasts, so the delay begins anew
                await peer.vanish()
                event = await busy.receive()
                assert isinstance(event, Disconnected)
                assert isinstance(event.reason, ConnectionLost)
                assert event.retry_in is not None
                assert 1 <= event.retry_in <= 2
            assert idle.dropped == 0
            assert [(await idle.receive()).connected for _ in range(7)] == [False, True] * 3 + [
                False
            ]
        async with link.events() as late:
            assert (await late.receive()).connected is False


async def test_listeners_that_read_nothing_lose_the_oldest_events(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server) as link:
        async with link.events() as events:
            for _ in range(600):
                await (await server.accept()).vanish()
            # The first, then two for each connection, of which the last may still be to come.
            assert 1 + 2 * 599 - 1_024 <= events.dropped <= 1 + 2 * 600 - 1_024


async def test_the_token_is_a_bearer_header_on_the_upgrade(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server, auth_token="s3cret") as link:
        peer = await server.accept()
        assert peer.headers["authorization"] == "Bearer s3cret"
        assert "s3cret" not in repr(link) + repr(link._supervisor._settings)
    async with open_frame_server() as server, linked(server):
        assert "authorization" not in (await server.accept()).headers


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_the_provider_is_asked_before_every_dial(autojump_clock: object, kind: str) -> None:
    tokens = iter(["one", "two", "three"])

    async def provide_async() -> str:
        await trio.sleep(0.5)
        return next(tokens)

    provider: Any = (lambda: next(tokens)) if kind == "sync" else provide_async
    async with (
        open_frame_server() as server,
        linked(server, auth_token="fallback", token_provider=provider),
    ):
        for token in ("one", "two", "three"):
            peer = await server.accept()
            assert peer.headers["authorization"] == f"Bearer {token}"
            await peer.vanish()


async def test_a_provider_that_fails_leaves_the_fallback(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    def provider() -> str:
        raise LookupError("keyfile is gone")

    async with (
        open_frame_server() as server,
        linked(server, auth_token="fallback", token_provider=provider),
    ):
        peer = await server.accept()
        assert peer.headers["authorization"] == "Bearer fallback"
    assert "the token provider failed" in caplog.text


async def test_without_fail_first_connect_it_dials_until_it_succeeds(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        server.refusing = 20
        async with linked(server) as link:
            await link.wait_connected()
            assert len(server.dials) == 21
        pauses = [b - a for a, b in zip(server.dials, server.dials[1:], strict=False)]
        assert all(1 <= pause <= 60 for pause in pauses)
        assert pauses[0] <= 4
        assert min(pauses[8:]) >= 30
        assert len(set(pauses)) == 20  # jitter


async def test_the_delay_begins_anew_after_a_connection_that_worked(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        server.refusing = 10
        async with linked(server) as link:
            peer = await server.accept()
            await trio.sleep(60)
            await peer.vanish()
            before = trio.current_time()
            await server.accept()
            assert trio.current_time() - before <= 2
            await link.wait_connected()
            assert link.statistics().connections == 2


async def test_fail_first_connect_raises_the_error_of_the_first_dial(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        server.refusing = 1
        with pytest.raises(ConnectFailed, match="connection refused"):
            async with linked(server, fail_first_connect=True):
                pytest.fail("entered")
        async with linked(server, fail_first_connect=True) as link:
            assert link.connected
            peer = await server.accept()
            server.refusing = 3  # later failures are tried again
            await peer.vanish()
            await server.accept()


@pytest.mark.parametrize("status", [404, 500, 426])
async def test_a_refused_upgrade_is_a_failed_dial(autojump_clock: object, status: int) -> None:
    async with open_frame_server() as server:
        server.statuses = [status]
        with pytest.raises(ConnectFailed, match=f"HTTP {status}"):
            async with linked(server, fail_first_connect=True):
                pytest.fail("entered")


async def test_a_refused_token_ends_the_link(autojump_clock: object) -> None:
    async with open_frame_server() as server:
        server.statuses = [401]
        with pytest.raises(AuthError):
            async with linked(server, auth_token="old") as link:
                with pytest.raises(AuthError):
                    await link.send(Frame(id="1"))
                await trio.sleep_forever()
        assert len(server.dials) == 1


async def test_a_provider_may_bring_a_better_token_but_not_for_ever(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        async with linked(server, token_provider=lambda: "t") as link:
            peer = await server.accept()
            await link.wait_connected()
            server.statuses = [401] * 4
            await peer.vanish()
            await server.accept()
            await link.wait_connected()
            assert len(server.dials) == 6
        server.dials.clear()
        with pytest.raises(AuthError):
            async with linked(server, token_provider=lambda: "t") as link:
                peer = await server.accept()
                await link.wait_connected()
                server.statuses = [401] * 5
                await peer.vanish()
                await trio.sleep_forever()
        assert len(server.dials) == 6


async def test_run_link_runs_until_it_is_cancelled(autojump_clock: object) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await listener.aclose()
    with pytest.raises(ConnectFailed):
        await run_link("ws://127.0.0.1:1/", fail_first_connect=True)
    link: Link[Any] | None = None
    with trio.move_on_after(100) as scope:
        async with trio.open_nursery() as nursery:
            link = await nursery.start(partial(run_link, "ws://127.0.0.1:1/"))
            assert link is not None
            assert not link.connected
    assert scope.cancelled_caught
    assert link is not None
    assert link.closed
    with pytest.raises(ClientClosed):
        await link.send({"id": "1"})
    async with open_link("ws://127.0.0.1:1/") as link:
        await link.aclose()


async def test_closing_waits_until_nothing_is_left(autojump_clock: object) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        await link.wait_connected()
        await link.aclose()
        assert link.closed
        assert peer.ws.closed is not None
        assert peer.ws.closed.code == 1000
        with pytest.raises(ClientClosed):
            await link.request(Frame(id="1"))


async def test_a_peer_that_never_answers_the_close_frame_is_left_after_two_seconds(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server, linked(server) as link:
        peer = await server.accept()
        await link.wait_connected()
        for _ in range(3):  # its reader is stuck behind messages that nobody takes
            await link.send(Frame(id="1"))
        await trio.testing.wait_all_tasks_blocked()
        before = trio.current_time()
        await link.aclose()
        assert trio.current_time() - before == pytest.approx(2)
        assert peer.ws.closed is None or peer.ws.closed.code == 1006


async def test_it_logs_what_a_user_wants_to_know(
    autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("mine")
    async with (
        open_frame_server() as server,
        linked(server, auth_token="s3cret", logger=logger) as link,
    ):
        await (await server.accept()).vanish()
        await server.accept()
        await link.wait_connected()
    text = "\n".join(r.getMessage() for r in caplog.records if r.name == "mine")
    assert "connected to ws://localhost/connect" in text
    assert "was lost" in text
    assert "back after" in text
    assert "s3cret" not in caplog.text


async def test_retry_after_of_a_refused_upgrade_is_shown_and_obeyed(
    autojump_clock: object,
) -> None:
    async with open_frame_server() as server:
        server.statuses, server.retry_after = [503], "20"
        async with linked(server) as link, link.events() as events:
            assert await events.receive() == Disconnected()
            event = await events.receive()
            assert isinstance(event, Disconnected)
            assert "HTTP 503 Service Unavailable (Retry-After: 20)" in str(event.reason)
            assert event.retry_in == 20
            await server.accept()
            assert server.dials[1] - server.dials[0] == pytest.approx(20)


async def test_a_provider_may_bring_a_better_token_than_the_first(autojump_clock: object) -> None:
    tokens = iter(["old", "older", "good"])
    async with open_frame_server() as server:
        server.statuses = [401, 401]
        async with linked(server, token_provider=lambda: next(tokens)) as link:
            peer = await server.accept()
            assert peer.headers["authorization"] == "Bearer good"
            await link.wait_connected()
        server.statuses = [401] * 100
        with pytest.raises(AuthError):
            async with linked(server, token_provider=lambda: "bad"):
                await trio.sleep_forever()
        assert len(server.statuses) == 95


async def test_without_a_token_nothing_is_dialled(autojump_clock: object) -> None:
    away = True

    def provide() -> str:
        if away:
            raise OSError("the token service is away")
        return "good"

    async with open_frame_server() as server:
        with pytest.raises(ConnectFailed, match="the token service is away") as caught:
            async with linked(server, token_provider=provide, fail_first_connect=True):
                pytest.fail("entered")
        assert isinstance(caught.value.__cause__, OSError)
        async with linked(server, token_provider=provide) as link:
            await trio.sleep(60)
            assert server.dials == []
            away = False
            await link.wait_connected()


@pytest.mark.parametrize("bad", ["s3cret\n", "s3cret \u20ac", "\ufeffs3cret", "s3 cret"])
async def test_a_token_that_cannot_stand_in_a_header_is_refused_and_not_shown(
    bad: str, autojump_clock: object, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_frame_server() as server:
        with pytest.raises(ConnectFailed, match=r"cannot hold U\+") as caught:
            async with linked(server, token_provider=lambda: bad, fail_first_connect=True):
                pytest.fail("entered")
        assert "s3" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"
        assert server.dials == []
