"""Sessions: what arrives belongs to somebody, once; what goes out is in order; nothing else.

The transition table comes first, row by row, then the rules of the module's docstring, then real
servers' conversations, and at last a session that random callers and a model server drive.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any
from unittest import mock

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.recorded import SCENARIOS, lines
from tests.strategies import frames, json_values, texts
from trio_dispatch._wire import dispatch_session as _session
from trio_dispatch._wire.codecs import JSON, MSGPACK, Codec, thaw
from trio_dispatch._wire.dispatch_session import EARLY_PINGS, FULL_CREDITS, DispatchSession
from trio_dispatch._wire.errors import InternalError, ProtocolError
from trio_dispatch._wire.frames import ErrorBody, Frame
from trio_dispatch._wire.session import (
    LATE_ANSWERS,
    UNSENT_PONG_BYTES,
    UNSENT_PONGS,
    Answer,
    Failure,
    FrameSession,
    Outcome,
    Pong,
    Push,
    Ready,
    Refused,
    State,
    Stray,
)

CODECS = pytest.mark.parametrize("codec", [JSON, MSGPACK], ids=lambda codec: codec.name)


def arrive(session: FrameSession, codec: Codec = JSON, **fields: Any) -> list[Outcome]:
    """A frame with *fields* arrives."""
    return session.receive(codec.encode(Frame(**fields)))


def sent(session: FrameSession, codec: Codec = JSON) -> list[Frame]:
    """Take what the session wants to write, and read it as the server does."""
    found: list[Frame] = []
    for payload in session.data_to_send():
        assert payload.binary is codec.binary
        found.append(thaw(codec.decode(payload.data)))
    return found


def has_urgent_data(session: FrameSession) -> bool:
    """Whether the session itself wants to say something."""
    return session.has_urgent_data


def ready(*codecs: Codec) -> DispatchSession:
    """An established session that has nothing to say."""
    session = DispatchSession(*codecs)
    session.start("secret")
    arrive(session, type="response", data={"session_id": "ws_1"})
    session.data_to_send()
    return session


def linked() -> FrameSession:
    """A session with a server that has no ``auth``."""
    session = FrameSession()
    session.start(None)
    return session


# The table: what a frame of a type means while authenticating.


@CODECS
def test_authenticating_begins_with_auth_as_json_text(codec: Codec) -> None:
    session = DispatchSession(codec)
    session.start("secret")
    assert session.state is State.AUTHENTICATING
    (auth,) = sent(session, JSON)
    assert auth.id
    assert auth.type == "request"
    assert auth.method == "auth"
    assert auth.data == {"token": "secret", "format": codec.name}


def test_no_token_is_an_empty_one() -> None:
    session = DispatchSession()
    session.start(None)
    assert sent(session)[0].data == {"token": "", "format": "json"}


def test_authenticating_a_response_makes_the_session_ready_and_grants_credits() -> None:
    session = DispatchSession()
    session.start("secret")
    session.data_to_send()
    at = datetime(2026, 11, 21, tzinfo=timezone.utc)
    data = {"format": "json", "session_id": "ws_1"}
    outcomes = arrive(session, type="response", correl_id="t1", data=data, ts=at)
    assert outcomes == [Ready("ws_1", "json", at)]
    assert session.state is State.READY
    (grant,) = sent(session)
    assert (grant.credits, grant.method) == (FULL_CREDITS, "")


@pytest.mark.parametrize("data", [None, msgspec.Raw(b"null"), {}, {"format": None}])
def test_authenticating_a_response_may_say_nothing_at_all(data: object) -> None:
    session = DispatchSession()
    session.start("secret")
    assert arrive(session, type="response", data=data) == [Ready(None, "json", None)]


@pytest.mark.parametrize("data", [[], "json", {"format": 7}, {"session_id": []}])
def test_authenticating_a_response_that_cannot_be_read_is_a_breach(data: object) -> None:
    session = DispatchSession()
    session.start("secret")
    with pytest.raises(ProtocolError, match="answer to auth"):
        arrive(session, type="response", data=data)


@CODECS
def test_authenticating_an_error_refuses_the_session_and_closes_it(codec: Codec) -> None:
    session = DispatchSession(codec)
    session.start("wrong")
    error = ErrorBody(401, "authentication failed")
    # The refusal comes as JSON, whatever format was wished for (protocol, "msgpack").
    assert arrive(session, type="error", correl_id="t1", error=error) == [Refused(error)]
    assert session.state is State.CLOSED
    assert arrive(session, type="event") == []


def test_authenticating_an_error_may_lack_its_body() -> None:
    session = DispatchSession()
    session.start("wrong")
    assert arrive(session, type="error") == [Refused(ErrorBody())]


@pytest.mark.parametrize("codecs", [(JSON,), (MSGPACK,), (MSGPACK, JSON)])
def test_authenticating_a_ping_is_answered_when_the_format_is_settled(
    codecs: tuple[Codec, ...],
) -> None:
    session = DispatchSession(*codecs)
    session.start("secret")
    assert arrive(session, type="ping", id="p1") == []
    # Before the answer nothing but auth may go out, and always first.
    assert [frame.method for frame in sent(session)] == ["auth"]
    agreed = codecs[-1]
    arrive(session, codec=agreed, type="response", data={"format": agreed.name})
    grant, pong = sent(session, agreed)
    assert grant.credits
    assert (pong.type, pong.correl_id) == ("pong", "p1")


@pytest.mark.parametrize("type", ["event", "pong", "request", "", "other"])
def test_authenticating_anything_else_is_a_breach(type: str) -> None:
    session = DispatchSession()
    session.start("secret")
    with pytest.raises(ProtocolError, match="while authenticating"):
        arrive(session, type=type)


# The table: ready.


def test_ready_a_response_answers_the_request_that_it_names() -> None:
    session = ready()
    first = session.request(Frame(type="request", method="stats"))
    second = session.request(Frame(type="request", method="stats"))
    (outcome,) = arrive(session, type="response", correl_id=second, data={"a": 1})
    assert isinstance(outcome, Answer)
    assert outcome.id == second
    assert bytes(outcome.frame.data) == b'{"a":1}'
    assert [o.id for o in arrive(session, type="response", correl_id=first)] == [first]  # type: ignore[union-attr]


def test_ready_an_error_fails_the_request_that_it_names() -> None:
    session = ready()
    session.request(Frame(method="stats"))
    id = session.request(Frame(method="stats"))
    error = ErrorBody(404, "job not found", {"id": 1})
    assert arrive(session, type="error", correl_id=id, error=error) == [Failure(id, error)]
    assert session.in_flight == 1


def test_ready_an_error_may_lack_its_body_and_an_error_body_its_type() -> None:
    session = ready()
    one, two = session.request(Frame()), session.request(Frame())
    assert arrive(session, type="error", correl_id=one) == [Failure(one, ErrorBody())]
    body = ErrorBody(500, "boom")
    assert arrive(session, type="response", correl_id=two, error=body) == [Failure(two, body)]


def test_ready_a_pong_answers_a_ping() -> None:
    session = ready()
    id = session.ping()
    (ping,) = sent(session)
    assert (ping.type, ping.id) == ("ping", id)
    assert session.in_flight == 1
    assert arrive(session, type="pong", correl_id=id) == [Pong(id)]
    assert session.in_flight == 0


def test_ready_an_event_is_pushed() -> None:
    session = ready()
    (outcome,) = arrive(session, type="event", channel="job:1", data={"topic": "job:1"})
    assert isinstance(outcome, Push)
    assert outcome.frame.channel == "job:1"


@CODECS
def test_ready_a_ping_is_answered_ahead_of_all_requests(codec: Codec) -> None:
    session = ready(codec)
    session.request(Frame(method="stats"))
    at = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc)
    assert arrive(session, codec=codec, type="ping", id="p1", ts=at) == []
    pong, request = sent(session, codec)
    assert (pong.type, pong.correl_id, pong.ts) == ("pong", "p1", at)
    assert request.method == "stats"
    # No answer is due; the one that today's server gives (recording "frames") is nobody's.
    assert session.in_flight == 1
    error = ErrorBody(405, "unknown method: ")
    assert arrive(session, codec=codec, type="error", correl_id=pong.id, error=error) == []


@pytest.mark.parametrize("ts", ["2026-01-02T03:04:05", "0001-01-01T00:00:00+14:00"])
@CODECS
def test_ready_a_ping_with_an_odd_time_is_answered_all_the_same(codec: Codec, ts: str) -> None:
    session = ready(codec)
    assert session.receive(json.dumps({"type": "ping", "id": "p1", "ts": ts})) == []
    assert [frame.correl_id for frame in sent(session, codec)] == ["p1"]


@pytest.mark.parametrize("type", ["request", "", "subscribe"])
def test_ready_an_unknown_type_answers_what_it_names_and_is_stray_else(type: str) -> None:
    session = ready()
    id = session.request(Frame(method="stats"))
    (stray,) = arrive(session, type=type, id="x")
    assert isinstance(stray, Stray)
    assert stray.frame.id == "x"
    (answer,) = arrive(session, type=type, correl_id=id)
    assert isinstance(answer, Answer)


@pytest.mark.parametrize("type", ["response", "error", "pong", "other"])
def test_ready_an_answer_to_what_was_never_asked_is_stray(type: str) -> None:
    session = ready()
    session.request(Frame())
    (outcome,) = arrive(session, type=type, correl_id="nobody's")
    assert isinstance(outcome, Stray)
    assert session.in_flight == 1


# The table: new and closed.


@pytest.mark.parametrize("type", ["response", "error", "event", "ping", "pong", "request", "other"])
def test_new_whatever_arrives_is_a_breach(type: str) -> None:
    with pytest.raises(ProtocolError, match="while new"):
        arrive(DispatchSession(), type=type)


def test_closed_whatever_arrives_is_ignored() -> None:
    session = ready()
    session.request(Frame(method="stats"))
    session.ping()
    session.lost()
    assert session.state is State.CLOSED
    assert session.receive(b"\xff garbage") == []
    assert arrive(session, type="event") == []
    assert session.data_to_send() == []


def test_our_own_mistakes_are_internal_errors() -> None:
    session = DispatchSession()
    for wrong in (
        lambda: session.request(Frame()),
        lambda: session.send(Frame()),
        session.ping,
        lambda: session.grant(1),
    ):
        with pytest.raises(InternalError, match="new, not ready"):
            wrong()
    session.start("secret")
    with pytest.raises(InternalError, match="authenticating, not new"):
        session.start("secret")
    session.lost()
    with pytest.raises(InternalError, match="closed, not ready"):
        session.request(Frame())


# Rule 1: a request is owed one answer.


def test_an_answer_comes_once() -> None:
    session = ready()
    id = session.request(Frame())
    assert isinstance(arrive(session, type="response", correl_id=id)[0], Answer)
    assert isinstance(arrive(session, type="response", correl_id=id)[0], Stray)


@pytest.mark.parametrize("type", ["response", "error"])
def test_a_forgotten_request_stays_in_flight_until_its_answer_is_dropped(type: str) -> None:
    session = ready()
    id = session.request(Frame())
    session.forget(id)
    assert session.in_flight == 1
    assert arrive(session, type=type, correl_id=id) == []
    assert session.in_flight == 0
    assert isinstance(arrive(session, type=type, correl_id=id)[0], Stray)


def test_forgetting_what_is_answered_or_unknown_does_nothing() -> None:
    for session in (ready(), linked()):
        id = session.request(Frame())
        arrive(session, type="response", correl_id=id)
        session.forget(id)
        session.forget("unknown")
        assert session.in_flight == 0
        assert isinstance(arrive(session, type="response", correl_id="unknown")[0], Stray)


def test_a_request_may_bring_an_id_of_its_own_but_not_one_that_is_unanswered() -> None:
    session = ready()
    assert session.request(Frame(id="mine")) == "mine"
    for again in (session.request, session.send):
        with pytest.raises(ValueError, match="'mine' is still unanswered"):
            again(Frame(id="mine"))
    session.forget("mine")
    with pytest.raises(ValueError, match="unanswered"):
        session.request(Frame(id="mine"))
    assert len(sent(session)) == 1
    arrive(session, type="response", correl_id="mine")
    assert session.request(Frame(id="mine")) == "mine"


def test_ids_of_the_sessions_own_evade_those_of_callers() -> None:
    session = ready()
    taken = [session.request(Frame(id=f"t{n}")) for n in range(1, 9)]
    given = [session.request(Frame()), session.ping(), session.request(Frame())]
    assert len({*taken, *given}) == 11


def test_what_cannot_be_encoded_is_not_in_flight() -> None:
    session = ready()
    for data, error in ((object(), TypeError), (float("nan"), ValueError)):
        with pytest.raises(error):
            session.request(Frame(data=data))
        with pytest.raises(error):
            session.send(Frame(data=data))
    assert session.in_flight == 0
    assert session.data_to_send() == []


def test_lost_names_the_requests_whose_callers_still_wait() -> None:
    session = ready()
    waiting, forgotten, answered = (session.request(Frame()) for _ in range(3))
    session.send(Frame())
    session.ping()
    session.forget(forgotten)
    arrive(session, type="response", correl_id=answered)
    also = session.request(Frame())
    assert session.lost() == [waiting, also]
    assert session.in_flight == 0
    assert session.lost() == []


# Rule 2: Dispatch answers everything, in the order of arrival.


def test_an_error_that_names_nothing_fails_the_oldest_unanswered_request() -> None:
    session = ready()
    ids = [session.request(Frame()) for _ in range(3)]
    arrive(session, type="response", correl_id=ids[0])
    error = ErrorBody(400, "invalid frame: …")
    assert arrive(session, type="error", error=error) == [Failure(ids[1], error)]
    assert arrive(session, type="error", error=error) == [Failure(ids[2], error)]
    (stray,) = arrive(session, type="error", error=error)
    assert isinstance(stray, Stray)


def test_an_error_that_names_nothing_is_quiet_when_the_oldest_is_forgotten() -> None:
    session = ready()
    old, new = session.request(Frame()), session.request(Frame())
    session.forget(old)
    assert arrive(session, type="error") == []
    assert session.in_flight == 1
    assert arrive(session, type="error") == [Failure(new, ErrorBody())]


def test_an_error_that_names_nothing_may_be_for_a_frame_whose_answer_nobody_awaits() -> None:
    session = ready()
    session.send(Frame(method="odd"))
    id = session.request(Frame())
    assert isinstance(arrive(session, type="error")[0], Stray)
    assert arrive(session, type="error") == [Failure(id, ErrorBody())]


@pytest.mark.parametrize("type", ["response", "pong"])
def test_only_errors_may_name_nothing(type: str) -> None:
    session = ready()
    session.request(Frame())
    assert isinstance(arrive(session, type=type)[0], Stray)
    assert session.in_flight == 1


def test_the_answer_to_what_was_sent_without_asking_is_stray() -> None:
    session = ready()
    session.send(Frame(id="mine", method="stats"))
    assert session.in_flight == 1
    (stray,) = arrive(session, type="response", correl_id="mine")
    assert isinstance(stray, Stray)
    assert session.in_flight == 0


def test_a_frame_of_credits_has_no_answer_and_is_not_remembered() -> None:
    session = ready()
    id = session.request(Frame(method="stats"))
    session.send(Frame(credits=5))
    session.send(Frame(id="mine", credits=5, method="stats"))
    assert session.in_flight == 1
    # A refusal of one would name it, so it cannot be taken for the answer to something older.
    _, unnamed, named = sent(session)
    assert unnamed.id not in ("", id)
    assert (unnamed.credits, named.id) == (5, "mine")
    assert isinstance(arrive(session, type="error", correl_id=unnamed.id)[0], Stray)
    assert session.in_flight == 1


def test_a_frame_of_credits_is_no_request_but_a_ping_with_credits_is() -> None:
    session = ready()
    with pytest.raises(ValueError, match="servers never answer"):
        session.request(Frame(credits=1))
    session.send(Frame(type="ping", id="p", credits=1))
    assert session.in_flight == 1
    assert session.request(Frame(type="ping", credits=1))
    assert session.in_flight == 2


# Rule 4: what the session itself has to say goes first.


def test_pings_pongs_and_credits_go_ahead_of_requests_each_in_order() -> None:
    session = ready()
    requests = [session.request(Frame(method="stats")) for _ in range(3)]
    session.send(Frame(id="sent", method="stats"))
    assert not has_urgent_data(session)
    size = session.bytes_to_send
    session.grant(7)
    arrive(session, type="ping", id="theirs")
    arrive(session, type="ping", id="theirs again")
    ping = session.ping()
    assert has_urgent_data(session)
    assert session.bytes_to_send == size  # urgent data does not count: it never waits
    frames = sent(session)
    assert [frame.credits for frame in frames] == [7, 0, 0, 0, 0, 0, 0, 0]
    assert [frame.correl_id for frame in frames[2:4]] == ["theirs", "theirs again"]
    assert [frame.id for frame in frames[1:] if not frame.correl_id] == [ping, *requests, "sent"]
    assert not has_urgent_data(session)
    assert session.bytes_to_send == 0
    assert session.data_to_send() == []


@pytest.mark.parametrize("make", [FrameSession, DispatchSession])
def test_a_peer_that_pings_and_does_not_read_gets_the_last_pongs_only(
    make: Callable[[], FrameSession],
) -> None:
    session = make()
    session.start(None)
    if isinstance(session, DispatchSession):
        for n in range(1000):
            arrive(session, type="ping", id=f"early {n}")
        arrive(session, type="response", correl_id="t1", data={})
        assert len(sent(session)) <= 2 + EARLY_PINGS
    for n in range(10_000):
        arrive(session, type="ping", id=str(n))
    pongs = [frame.correl_id for frame in sent(session)]
    assert pongs == [str(n) for n in range(10_000 - UNSENT_PONGS, 10_000)]
    for n in range(100):
        arrive(session, type="ping", id=f"{n} " + "x" * 20_000)
    assert sum(len(message.data) for message in session.data_to_send()) < UNSENT_PONG_BYTES
    arrive(session, type="ping", id="x" * 200_000)
    assert len(sent(session)) == 1  # however large, the last one is answered
    arrive(session, type="ping", id="again")
    assert [frame.correl_id for frame in sent(session)] == ["again"]


def test_an_id_is_not_used_again_while_its_first_answer_may_still_come() -> None:
    session = FrameSession()
    session.start(None)
    session.request(Frame(id="a", method="one"))
    session.forget("a")
    with pytest.raises(ValueError, match="'a' is still unanswered"):
        session.request(Frame(id="a", method="two"))
    assert arrive(session, type="response", correl_id="a", data="one") == []
    session.request(Frame(id="a", method="two"))
    (answer,) = arrive(session, type="response", correl_id="a", data="two")
    assert isinstance(answer, Answer)
    assert bytes(answer.frame.data) == b'"two"'


def test_bytes_to_send_is_the_size_of_the_requests() -> None:
    session = ready()
    session.request(Frame(data="x" * 1000))
    session.send(Frame(data="y" * 1000))
    size = session.bytes_to_send
    assert size == sum(len(payload.data) for payload in session.data_to_send())


def test_credits_are_topped_up_at_half(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "FULL_CREDITS", 10)
    session = ready()
    session.request(Frame(method="stats"))
    for _ in range(4):
        arrive(session, type="event")
    assert not has_urgent_data(session)
    arrive(session, type="event")
    grant, request = sent(session)
    assert grant.credits == 5
    assert request.method == "stats"
    for _ in range(4):
        arrive(session, type="event")
    assert not has_urgent_data(session)


def test_a_grant_of_the_callers_own_delays_the_next_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_session, "FULL_CREDITS", 10)
    session = ready()
    session.grant(5)
    assert [frame.credits for frame in sent(session)] == [5]
    for _ in range(9):
        arrive(session, type="event")
    assert not has_urgent_data(session)
    arrive(session, type="event")
    assert [frame.credits for frame in sent(session)] == [5]


# Rule 5: a breach of the protocol ends the session.


@pytest.mark.parametrize(
    "message", [b"", b"garbage", b"[]", b"null", b'{"id":7}', b"\xff\xfe", b"[" * 100_000, "\ud800"]
)
@CODECS
def test_what_is_no_frame_is_a_breach_that_ends_the_session(
    codec: Codec, message: bytes | str
) -> None:
    session = ready(codec)
    id = session.request(Frame())
    with pytest.raises(ProtocolError, match="not a frame"):
        session.receive(message)
    assert session.state is State.CLOSED
    assert arrive(session, codec=codec, type="response", correl_id=id) == []
    assert session.lost() == [id]


def test_a_frame_out_of_place_ends_the_session() -> None:
    session = DispatchSession()
    session.start("secret")
    with pytest.raises(ProtocolError):
        arrive(session, type="event")
    assert session.state is State.CLOSED


def test_an_answer_to_auth_that_nests_deeply_is_a_breach_or_an_answer() -> None:
    # Inside msgpack the data is JSON text that nobody has looked at.
    session = DispatchSession(MSGPACK)
    session.start("secret")
    data = b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    # From Python 3.15 on there is room for that many levels; then it is an answer without a format.
    try:
        (outcome,) = session.receive(msgpack.packb({"type": "response", "data": data}) or b"")
    except ProtocolError as exc:
        assert "answer to auth" in str(exc)
    else:
        assert isinstance(outcome, Ready)


# Formats.


@CODECS
def test_after_auth_everything_is_in_the_agreed_format(codec: Codec) -> None:
    session = DispatchSession(codec)
    session.start("secret")
    session.data_to_send()
    (outcome,) = arrive(session, codec=codec, type="response", data={"format": codec.name})
    assert outcome == Ready(None, codec.name, None)
    id = session.request(Frame(method="stats"))
    assert [frame.id for frame in sent(session, codec)][1:] == [id]
    (answer,) = arrive(session, codec=codec, type="response", correl_id=id)
    assert isinstance(answer, Answer)


def test_a_server_may_fall_back_to_another_format_that_was_offered() -> None:
    session = DispatchSession(MSGPACK, JSON)
    session.start("secret")
    assert sent(session)[0].data == {"token": "secret", "format": "msgpack"}
    assert arrive(session, type="response", data={"format": "json"}) == [Ready(None, "json", None)]
    assert sent(session, JSON)[0].credits == FULL_CREDITS


@pytest.mark.parametrize("codecs", [(JSON,), (MSGPACK,)])
def test_a_format_that_was_not_offered_is_a_breach(codecs: tuple[Codec, ...]) -> None:
    session = DispatchSession(*codecs)
    session.start("secret")
    with pytest.raises(ProtocolError, match="not offered: 'yaml'"):
        arrive(session, type="response", data={"format": "yaml"})


# The server's clock.


def test_last_ts_is_what_the_servers_clock_said_last() -> None:
    session = ready()
    assert session.last_ts is None
    first, second = (datetime(2026, 1, 2, 3, 4, n, tzinfo=timezone.utc) for n in (1, 2))
    arrive(session, type="event", ts=first)
    assert session.last_ts == first
    arrive(session, type="event")
    assert session.last_ts == first
    arrive(session, type="response", ts=second)
    assert session.last_ts == second


def test_a_pong_does_not_tell_the_time() -> None:
    session = ready()
    # It returns the ping's, or the zero time (protocol, "Frame").
    arrive(session, type="pong", ts=datetime(1, 1, 1, tzinfo=timezone.utc))
    assert session.last_ts is None


# A server that has no `auth`, and promises nothing about the order of its answers.


def test_without_auth_the_session_is_ready_at_once_and_says_nothing() -> None:
    session = linked()
    assert session.state is State.READY
    assert session.data_to_send() == []


def test_without_auth_answers_find_their_requests() -> None:
    session = linked()
    one, two = session.request(Frame(id="1")), session.request(Frame(id="2"))
    (outcome,) = arrive(session, type="whatever", correl_id=two)
    assert isinstance(outcome, Answer)
    assert arrive(session, type="error", correl_id=one) == [Failure("1", ErrorBody())]


def test_without_auth_nothing_is_expected_of_a_frame_that_was_sent() -> None:
    session = linked()
    session.send(Frame(id="mine"))
    assert session.in_flight == 0
    assert isinstance(arrive(session, type="response", correl_id="mine")[0], Stray)


def test_without_auth_events_pings_and_the_rest() -> None:
    session = linked()
    assert isinstance(arrive(session, type="event")[0], Push)
    assert isinstance(arrive(session, type="response")[0], Stray)
    assert arrive(session, type="ping", id="p") == []
    assert [frame.correl_id for frame in sent(session)] == ["p"]
    id = session.ping()
    assert arrive(session, type="pong", correl_id=id) == [Pong(id)]


def test_without_auth_an_error_that_names_nothing_is_for_the_oldest_request_and_no_ping() -> None:
    session = linked()
    session.ping()
    assert isinstance(arrive(session, type="error")[0], Stray)
    id = session.request(Frame())
    assert arrive(session, type="error") == [Failure(id, ErrorBody())]


def test_without_auth_a_forgotten_request_is_not_in_flight_and_its_answer_is_dropped() -> None:
    session = linked()
    id = session.request(Frame())
    session.forget(id)
    assert session.in_flight == 0  # nothing promises that it will ever be answered
    assert arrive(session, type="response", correl_id=id) == []
    assert isinstance(arrive(session, type="response", correl_id=id)[0], Stray)


def test_without_auth_only_the_latest_forgotten_requests_are_remembered() -> None:
    session = linked()
    ids = [session.request(Frame()) for _ in range(LATE_ANSWERS + 1)]
    for id in ids:
        session.forget(id)
    assert isinstance(arrive(session, type="response", correl_id=ids[0])[0], Stray)
    assert arrive(session, type="response", correl_id=ids[1]) == []


# Recorded conversations, as a client would have had them.


def conversations() -> Iterator[Any]:
    """Every connection of every recording that speaks JSON."""
    for scenario in SCENARIOS:
        found: dict[str, list[dict[str, Any]]] = {}
        for line in lines(scenario):
            if "connection" in line:
                found.setdefault(line["connection"], []).append(line)
        for connection, spoken in found.items():
            if not any("hex" in line for line in spoken):
                yield pytest.param(spoken, id=f"{scenario}-{connection}")


class Conversation:
    """What one recorded connection means, worked out from the recording alone."""

    def __init__(self) -> None:
        self.unanswered: deque[str] = deque()
        self.odd: list[str] = []
        """Answers to frames that this client never sends."""

    def said(self, text: str) -> Frame | None:
        """What a session would have sent for a recorded frame of the client."""
        try:
            fields: Any = json.loads(text)
        except ValueError:
            fields = None
        if not isinstance(fields, dict) or not isinstance(fields.get("id", ""), str):
            fields = {"id": f"unreadable-{len(self.odd)}"}
            self.odd.append(text)
        id = fields.get("id", "")
        if not id:
            return None
        known = set(Frame.__struct_fields__) - {"ts"}
        frame = Frame(**{name: value for name, value in fields.items() if name in known})
        if not frame.credits:
            self.unanswered.append(id)
        return frame

    def meaning(self, text: str) -> Outcome | None:
        """What a recorded frame of the server means."""
        frame = JSON.decode(text)
        plain = json.loads(text)
        if plain["type"] == "event":
            return Push(frame)
        id = plain.get("correl_id") or (self.unanswered[0] if self._may_be_owed(plain) else None)
        if id is None:
            return Stray(frame)
        self.unanswered.remove(id)
        if plain["type"] == "error":
            body = plain["error"]
            return Failure(id, ErrorBody(body["code"], body["message"], body.get("details")))
        return Answer(id, frame)

    def _may_be_owed(self, plain: dict[str, Any]) -> bool:
        return plain["type"] == "error" and bool(self.unanswered)


@pytest.mark.parametrize("spoken", list(conversations()))
def test_a_recorded_conversation_is_understood(spoken: list[dict[str, Any]]) -> None:
    session, conversation = DispatchSession(), Conversation()
    session.start("demo-token")
    client, answer, *rest = [line for line in spoken if "text" in line]
    assert client["sender"] == "client"
    assert answer["sender"] == "server"
    (first,) = session.receive(answer["text"])
    plain = json.loads(answer["text"])
    if plain["type"] == "error":
        assert first == Refused(ErrorBody(plain["error"]["code"], plain["error"]["message"]))
        assert session.state is State.CLOSED
        assert not rest
        return
    assert isinstance(first, Ready)
    assert first.session_id == plain["data"]["session_id"]
    events = 0
    for line in rest:
        if line["sender"] == "client":
            frame = conversation.said(line["text"])
            if frame is not None:
                (session.send if frame.credits else session.request)(frame)
            continue
        expected = conversation.meaning(line["text"])
        assert session.receive(line["text"]) == [expected]
        events += isinstance(expected, Push)
        assert session.in_flight == len(conversation.unanswered)
    assert session.lost() == list(conversation.unanswered)


def test_the_recordings_hold_conversations() -> None:
    assert len(list(conversations())) > 20


# Whatever arrives.


def sessions() -> Iterator[tuple[FrameSession, Codec]]:
    """A session of each kind in each state, with something in flight where that can be."""
    for codec in (JSON, MSGPACK):
        yield DispatchSession(codec), codec
        started = DispatchSession(codec)
        started.start("secret")
        yield started, codec
        busy = ready(codec)
        busy.request(Frame(id="a"))
        busy.send(Frame(id="b"))
        busy.ping()
        yield busy, codec
    link = linked()
    link.request(Frame(id="a"))
    yield link, JSON


def check_that_only_breaches_come_out(message: bytes, session: FrameSession) -> None:
    before = session.in_flight
    try:
        outcomes = session.receive(message)
    except ProtocolError:
        assert session.state is State.CLOSED
    else:
        assert len(outcomes) <= 1
        assert session.in_flight in (before, before - 1)
    session.data_to_send()


@given(st.binary(max_size=100))
@settings(max_examples=100)
def test_any_bytes_are_understood_or_a_breach(message: bytes) -> None:
    for session, _ in sessions():
        check_that_only_breaches_come_out(message, session)


FIELD_VALUES = st.one_of(
    json_values,
    st.sampled_from(["a", "b", "t1", "error", "ping", "pong", "event", "response", "0001-01-01"]),
    st.datetimes().map(datetime.isoformat),
    st.sampled_from([{"format": "json"}, {"format": "yaml"}, {"code": 1}]),
)


@given(st.dictionaries(st.sampled_from(Frame.__struct_fields__), FIELD_VALUES, max_size=6))
@settings(max_examples=200)
def test_any_fields_are_understood_or_a_breach(fields: dict[str, object]) -> None:
    message = json.dumps(fields).encode()
    for session, _ in sessions():
        check_that_only_breaches_come_out(message, session)


@given(frames, st.sampled_from(["", "a", "b", "t1"]), st.data())
@settings(max_examples=100)
def test_a_damaged_frame_is_understood_or_a_breach(
    frame: Frame, correl_id: str, data: st.DataObject
) -> None:
    types = st.sampled_from(["response", "error", "event", "ping", "pong", frame.type])
    frame = msgspec.structs.replace(frame, correl_id=correl_id, type=data.draw(types))
    for session, codec in sessions():
        message = bytearray(codec.encode(frame))
        for place, byte in data.draw(
            st.lists(st.tuples(st.integers(0, len(message) - 1), st.integers(0, 255)), max_size=3)
        ):
            message[place] = byte
        check_that_only_breaches_come_out(bytes(message), session)


# A model: callers who do anything at any time, and a server that keeps to the protocol.


class Callers(RuleBasedStateMachine):
    """Random callers on one session, whose server answers everything in the order of arrival."""

    FULL = 12

    def __init__(self) -> None:
        super().__init__()
        self.patch = mock.patch.object(_session, "FULL_CREDITS", self.FULL)
        self.patch.start()
        self.session = DispatchSession()
        self.waiting: list[str] = []
        """Whose callers wait for an answer."""
        self.owed: dict[str, str] = {}
        """All that is unanswered, by id, with what its answer will be called."""
        self.unwritten: list[str] = []
        self.arrived: deque[Frame] = deque()
        """What the server has not answered yet."""
        self.credits = 0
        self.events = 0

    def teardown(self) -> None:
        self.patch.stop()
        assert self.session.lost() == self.waiting
        assert self.session.receive(b"\xff") == []

    @initialize()
    def connect(self) -> None:
        self.session.start("secret")
        assert [frame.method for frame in sent(self.session)] == ["auth"]
        assert isinstance(arrive(self.session, type="response", data={})[0], Ready)

    # Callers.

    @rule(id=st.just("") | texts)
    def request(self, id: str) -> None:
        if id in self.owed:
            with pytest.raises(ValueError, match="unanswered"):
                self.session.request(Frame(id=id, method="stats"))
            return
        id = self.session.request(Frame(id=id, method="stats"))
        assert id not in self.owed
        self.owed[id] = "answer"
        self.waiting.append(id)
        self.unwritten.append(id)

    @rule(data=st.data())
    @precondition(lambda self: self.waiting)
    def forget(self, data: st.DataObject) -> None:
        id = data.draw(st.sampled_from(self.waiting))
        self.session.forget(id)
        self.waiting.remove(id)
        self.owed[id] = "nothing"

    @rule()
    def send(self) -> None:
        id = f"sent-{len(self.owed)}-{len(self.arrived)}-{self.events}"
        if id not in self.owed:
            self.session.send(Frame(id=id, method="stats"))
            self.owed[id] = "stray"
            self.unwritten.append(id)

    @rule()
    def ping(self) -> None:
        id = self.session.ping()
        assert id not in self.owed
        self.owed[id] = "pong"

    # The wire.

    @rule()
    def write(self) -> None:
        frames = sent(self.session)
        urgent = [bool(f.credits) or f.type in ("ping", "pong") for f in frames]
        assert urgent == sorted(urgent, reverse=True)
        assert [f.id for f, first in zip(frames, urgent, strict=True) if not first] == (
            self.unwritten
        )
        self.unwritten.clear()
        for frame in frames:
            self.credits += frame.credits
            if not frame.credits:
                self.arrived.append(frame)
        assert self.FULL // 2 < self.credits <= self.FULL

    # The server.

    @rule(fails=st.booleans(), named=st.booleans())
    @precondition(lambda self: self.arrived)
    def answer(self, fails: bool, named: bool) -> None:
        frame = self.arrived.popleft()
        if frame.type == "ping":
            outcome = arrive(self.session, type="pong", correl_id=frame.id)
        elif frame.type == "pong":
            error = ErrorBody(405, "unknown method: ")
            outcome = arrive(self.session, type="error", correl_id=frame.id, error=error)
            assert outcome == []
            return
        elif fails:
            outcome = arrive(
                self.session,
                type="error",
                correl_id=frame.id if named else "",
                error=ErrorBody(400),
            )
        else:
            outcome = arrive(self.session, type="response", correl_id=frame.id, data=frame.id)
        meant = self.owed.pop(frame.id)
        if meant == "nothing":
            assert outcome == []
        elif meant == "pong":
            assert outcome == [Pong(frame.id)]
        elif meant == "stray":
            assert isinstance(outcome[0], Stray)
        else:
            self.waiting.remove(frame.id)
            if fails:
                assert outcome == [Failure(frame.id, ErrorBody(400))]
            else:
                assert isinstance(outcome[0], Answer)
                assert outcome[0].id == frame.id
                assert msgspec.json.decode(outcome[0].frame.data) == frame.id

    @rule(count=st.integers(1, 6))
    @precondition(lambda self: self.credits > 0)
    def publish(self, count: int) -> None:
        for _ in range(min(count, self.credits)):
            self.credits -= 1
            self.events += 1
            (outcome,) = arrive(self.session, type="event", data=self.events)
            assert isinstance(outcome, Push)
            assert bytes(outcome.frame.data) == str(self.events).encode()

    @rule()
    def ask_for_life(self) -> None:
        assert arrive(self.session, type="ping", id="theirs") == []
        assert has_urgent_data(self.session)

    @rule(type=st.sampled_from(["response", "request", "pong", "new"]), named=st.booleans())
    def stray(self, type: str, named: bool) -> None:
        correl_id = "nobody's" if named else ""
        if correl_id not in self.owed:
            (outcome,) = arrive(self.session, type=type, correl_id=correl_id)
            assert isinstance(outcome, Stray)

    @invariant()
    def what_is_in_flight_is_what_is_unanswered(self) -> None:
        assert self.session.in_flight == len(self.owed)
        assert bool(self.session.bytes_to_send) == bool(self.unwritten)


def test_every_answer_goes_to_its_owner_whatever_callers_do() -> None:
    run_state_machine_as_test(
        Callers, settings=settings(max_examples=80, stateful_step_count=50, deadline=None)
    )


def test_a_request_whose_text_is_known_is_not_encoded_again() -> None:
    session = FrameSession()
    session.start(None)
    frame = Frame(type="request", method="stats")
    id = session.request(frame, b'{"type":"request","method":"as it stands"}')
    (payload,) = session.data_to_send()
    assert payload.data == b'{"id":"%b","type":"request","method":"as it stands"}' % id.encode()
    # With an id of its own, it is.
    session.request(Frame(id="mine", method="stats"), b"{}")
    (payload,) = session.data_to_send()
    assert JSON.decode(payload.data).method == "stats"
