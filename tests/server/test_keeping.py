"""What a server remembers, and for how long."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from tests.server.peer import TOKENS, running
from trio_dispatch.server import Server, Workflow, current_job


def make_server(**options: Any) -> Server:
    server = Server(TOKENS, seed=1, **options)

    @server.job("noop")
    async def noop(payload: Any) -> None: ...

    @server.workflow("noop")
    async def noop_run(workflow: Workflow, input: Any) -> None: ...

    @server.workflow("approval")
    async def approval(workflow: Workflow, input: Any) -> None:
        await workflow.wait_for_event("approved")

    return server


async def test_what_is_over_is_remembered_up_to_a_number_of_each(
    autojump_clock: MockClock,
) -> None:
    server = make_server(keep=3)
    async with running(server, peers=2) as (peer, other):
        await other.send(id="1", method="workflow.start", data={"name": "approval"})
        await peer.call("job.enqueue", {"name": "nobody"})
        for n in range(10):
            await peer.call("job.enqueue", {"name": "noop", "payload": n})
            await peer.call("workflow.start", {"name": "noop", "input": n})
            await peer.call("workflow.event", {"name": "e", "payload": n})
            await trio.sleep(0.1)
        # What has not ended stays, however much has come since.
        assert [(job.name, job.payload) for job in server.jobs()] == [
            ("nobody", None),
            *(("noop", n) for n in (7, 8, 9)),
        ]
        assert [(run.name, run.input) for run in server.runs()] == [
            ("approval", None),
            *(("noop", n) for n in (7, 8, 9)),
        ]
        assert len(server.events) == 3
        assert server.statistics().events_waiting == 3
        answer = await peer.request("job.get", {"job_id": f"job_{'0' * 26}"})
        assert answer["error"]["code"] == 404


async def test_nothing_that_is_over_may_be_remembered(autojump_clock: MockClock) -> None:
    server = make_server(keep=0)
    async with running(server) as peer:
        await peer.call("job.enqueue", {"name": "noop"})
        await peer.call("workflow.start", {"name": "noop"})
        await trio.sleep(1)
        assert (server.jobs(), server.runs(), server.events) == ([], [], [])
    with pytest.raises(ValueError, match="keep"):
        Server(TOKENS, keep=-1)


async def test_a_job_that_ends_twice_counts_once(autojump_clock: MockClock) -> None:
    server = make_server(keep=2)
    async with running(server) as peer:
        for _ in range(2):
            job_id = (await peer.call("job.enqueue", {"name": "noop"}))["job_id"]
            await trio.sleep(0.1)
            for _ in range(3):
                await peer.call("job.cancel", {"job_id": job_id})
    assert [job.state for job in server.jobs()] == ["cancelled", "cancelled"]


async def test_a_server_can_forget_what_is_over(autojump_clock: MockClock) -> None:
    server = make_server()
    async with running(server, peers=2) as (peer, other):
        await other.send(id="1", method="workflow.start", data={"name": "approval"})
        for name in ("noop", "nobody"):
            await peer.call("job.enqueue", {"name": name})
        await peer.call("job.enqueue", {"name": "noop", "queue": "q"})
        await peer.call("workflow.start", {"name": "noop"})
        await peer.call("workflow.event", {"name": "e"})
        await trio.sleep(1)
        server.forget()
        assert (server.jobs(), server.events) == ([], [])
        assert [run.name for run in server.runs()] == ["approval"]
        assert server.statistics().events_waiting == 0
        server.forget()
        await trio.sleep(1_000)  # a stray that was forgotten is not started again
        assert server.jobs() == []
        await peer.call("workflow.event", {"name": "approved"})
        await server.idle()
        assert [run.state for run in server.runs()] == ["completed"]


async def test_after_a_job_that_was_run_by_hand_there_is_no_current_job(
    autojump_clock: MockClock,
) -> None:
    server = Server(TOKENS, queues=())
    seen: list[str] = []

    @server.job("j")
    async def j(payload: Any) -> None:
        seen.append(current_job().job_id)

    async with running(server) as peer:
        job_id = (await peer.call("job.enqueue", {"name": "j"}))["job_id"]
        await server.run_job(job_id)
    assert seen == [job_id]
    with pytest.raises(LookupError):
        current_job()


@pytest.mark.parametrize(
    "tokens", [{"x": "y"}, {"secret": {"scopes": ["*"]}}, {1: None}, ["x"], "x", None]
)
def test_tokens_that_stand_for_nothing_are_refused_and_not_shown(tokens: Any) -> None:
    with pytest.raises(TypeError, match="token") as caught:
        Server(tokens)
    assert "secret" not in str(caught.value)
