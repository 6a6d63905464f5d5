"""Several servers on one store: what they share, what they do not, and how they fail."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

import trio_dispatch
from tests.server.peer import TOKENS, Dropped, HttpPeer, Peer
from trio_dispatch.server import Cluster, ClusterNode, Workflow

MISSING = f"job_{'0' * 26}"


def make_cluster(**options: Any) -> Cluster:
    cluster = Cluster(TOKENS, **{"seed": 1, **options})

    @cluster.job
    async def noop(payload: Any) -> None: ...

    @cluster.job
    async def slow(payload: Any) -> None:
        await trio.sleep(5)

    @cluster.workflow
    async def approval(workflow: Workflow, input: Any) -> Any:
        await workflow.step("first", trio.lowlevel.checkpoint)
        event = await workflow.wait_for_event("approved", timeout=600)
        await workflow.step("second", trio.lowlevel.checkpoint)
        return event and event.payload

    return cluster


async def connect(cluster: Cluster, node: int | None = None, token: str = "demo-token") -> Peer:
    reach = cluster.open_stream if node is None else cluster.nodes[node].open_stream
    peer = Peer(await reach())
    await peer.upgrade()
    await peer.authenticate(token)
    return peer


async def enqueue(peer: Peer, name: str) -> str:
    job_id = (await peer.call("job.enqueue", {"name": name, "payload": {}}))["job_id"]
    assert isinstance(job_id, str)
    return job_id


async def state(peer: Peer, job_id: str) -> Any:
    return (await peer.call("job.get", {"job_id": job_id}))["state"]


def worker_of(cluster: Cluster, job_id: str) -> ClusterNode:
    """The server that started a job last."""
    started = [
        (event.ts, node)
        for node in cluster.nodes
        for event in node.events
        if event.type == "job.started" and event.data["job_id"] == job_id
    ]
    return max(started, key=lambda pair: pair[0])[1]


# What is shared


async def test_jobs_are_shared_and_each_server_hears_what_it_publishes(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peers = [await connect(cluster, node) for node in range(3)]
        for peer in peers:
            await peer.call("subscribe", {"channel": "jobs"})
        ids = [await enqueue(peers[0], "noop") for _ in range(60)]
        await trio.sleep(1)
        for peer in peers:
            assert await state(peer, ids[0]) == "completed"
            await peer.settle()
        kinds = [[event["data"]["type"] for event in peer.events] for peer in peers]
        enqueued = [part.count("job.enqueued") for part in kinds]
        assert enqueued == [60, 0, 0]
        started = [part.count("job.started") for part in kinds]
        assert sum(started) == 60
        assert all(10 < count < 35 for count in started)
        assert started == [part.count("job.completed") for part in kinds]
        stats = [(await peer.call("stats"))["broker"]["total_published"] for peer in peers]
        assert stats == [len(part) for part in kinds]


async def test_the_same_seed_shares_jobs_out_alike(autojump_clock: MockClock) -> None:
    async def shares() -> list[int]:
        cluster = make_cluster(seed=7)
        async with cluster.run():
            peer = await connect(cluster)
            for _ in range(20):
                await enqueue(peer, "noop")
            await cluster.idle()
        return [len(node.events) for node in cluster.nodes]

    assert await shares() == await shares()


async def test_an_event_on_one_server_releases_a_run_on_another(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        runner, listener = await connect(cluster, 0), await connect(cluster, 1)
        await listener.call("subscribe", {"channel": "workflows"})
        await runner.send(id="1", method="workflow.start", data={"name": "approval"})
        await trio.sleep(1)
        (run,) = cluster.runs()
        row = await listener.call("workflow.get", {"run_id": run.id})
        assert row["state"] == "running"
        assert "version" not in row
        await listener.call("workflow.event", {"name": "approved", "payload": 1})
        before = trio.current_time()
        assert (await runner.answer())["data"]["state"] == "completed"
        assert trio.current_time() - before <= 0.05
        steps = await listener.call("workflow.timeline", {"run_id": run.id})
        assert [step["step_name"] for step in steps] == ["first", "wait:approved", "second"]
        await listener.settle()
        assert listener.events == []


async def test_jobs_without_payload_are_refused_as_postgres_does(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peer = await connect(cluster)
        error = (await peer.request("job.enqueue", {"name": "noop"}))["error"]
        assert error["code"] == 500
        assert "not-null constraint" in error["message"]
        await peer.call("job.enqueue", {"name": "noop", "payload": None})


async def test_what_is_steered_for_the_cluster_counts_for_every_server(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster(nodes=2)
    async with cluster.run():
        peers = [await connect(cluster, 0), await connect(cluster, 1)]
        cluster.refuse("stats", 503, times=2)
        cluster.nodes[1].delay("job.get", 3)
        for peer in peers:
            assert (await peer.request("stats"))["error"]["code"] == 503
        for peer in peers:
            await peer.call("stats")
        before = trio.current_time()
        for peer in peers:
            await peer.request("job.get", {"job_id": MISSING})
        assert trio.current_time() - before == pytest.approx(3)
        cluster.revoke("ro")
        for node in range(2):
            with pytest.raises(AssertionError):
                await connect(cluster, node, "ro")
        cluster.publish("job.exploded", "job:x", {})
        assert [node.events[-1].type for node in cluster.nodes] == ["job.exploded"] * 2
        assert cluster.drop_connections() >= 2
        cluster.forget()
        assert cluster.nodes[0].events == []


# Servers that fail


async def test_jobs_of_a_server_that_crashed_are_taken_over_after_30_seconds(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peer = await connect(cluster, 0)
        ids = [await enqueue(peer, "slow") for _ in range(30)]
        await trio.sleep(1)
        victim = cluster.nodes[1]
        lost = [id for id in ids if worker_of(cluster, id) is victim]
        assert lost
        victim.kill()
        victim.kill()
        assert not victim.running
        await trio.sleep(20)
        assert {await state(peer, id) for id in lost} == {"running"}
        assert {await state(peer, id) for id in ids if id not in lost} == {"completed"}
        await trio.sleep(25)
        assert {await state(peer, id) for id in lost} == {"completed"}
        assert all(worker_of(cluster, id) is not victim for id in lost)


async def test_a_server_that_is_stopped_lets_its_jobs_end_and_drops_its_connections(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peer, dropped = await connect(cluster, 0), await connect(cluster, 1)
        ids = [await enqueue(peer, "slow") for _ in range(30)]
        await trio.sleep(1)
        before = trio.current_time()
        await cluster.nodes[1].stop()
        assert trio.current_time() - before == pytest.approx(4, abs=0.1)
        with pytest.raises(Dropped):
            await dropped.receive()
        with pytest.raises(ConnectionRefusedError):
            await cluster.nodes[1].open_stream()
        await trio.sleep(1)
        assert {await state(peer, id) for id in ids} == {"completed"}
        assert {job.retry_count for job in cluster.jobs()} == {0}
        await cluster.nodes[1].stop()
        await cluster.nodes[1].start()
        await cluster.nodes[1].start()
        again = await connect(cluster, 1)
        await again.call("stats")


async def test_a_server_that_is_stopped_puts_back_what_takes_too_long(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster(nodes=2)
    async with cluster.run():
        peer = await connect(cluster, 0)
        job_id = await enqueue(peer, "slow")
        await trio.sleep(1)
        worker = worker_of(cluster, job_id)
        await worker.stop(grace=1)
        await trio.sleep(0.1)
        assert worker_of(cluster, job_id) is not worker
        await cluster.idle()
        assert [(job.state, job.retry_count) for job in cluster.jobs()] == [("completed", 0)]


async def test_a_server_that_starts_resumes_all_runs_live_ones_included(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peers = [await connect(cluster, node) for node in range(2)]
        for number, peer in enumerate(peers):
            await peer.send(id=str(number), method="workflow.start", data={"name": "approval"})
        await trio.sleep(1)
        cluster.nodes[0].kill()
        await trio.sleep(60)
        assert [run.state for run in cluster.runs()] == ["running", "running"]
        await cluster.nodes[2].stop()
        await cluster.nodes[2].start()
        await trio.sleep(1)
        other = await connect(cluster, 2)
        for _ in range(2):
            await other.call("workflow.event", {"name": "approved"})
        await trio.sleep(1)
        assert len([run for run in cluster.runs() if run.state == "completed"]) >= 1
        for run in cluster.runs(state="completed"):
            names = [step.step_name for step in run.steps]
            assert names == ["first", "wait:approved", "second"]
        # Node 2 executes both, and node 1 still its own.
        resumed = [e for e in cluster.nodes[2].events if e.data.get("step_name") == "second"]
        assert resumed or cluster.nodes[1].events[-1].type == "workflow.completed"


async def test_a_frozen_server_answers_nothing_and_others_take_its_jobs_over(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster(nodes=2)
    async with cluster.run():
        peer = await connect(cluster, 0)
        job_id = await enqueue(peer, "slow")
        await trio.sleep(1)
        worker = worker_of(cluster, job_id)
        other = cluster.nodes[1 - worker.index]
        asking, frozen = await connect(cluster, other.index), await connect(cluster, worker.index)
        with worker.freeze():
            assert worker.frozen
            with trio.move_on_after(20) as scope:
                await frozen.call("stats")
            assert scope.cancelled_caught
            assert await state(asking, job_id) == "running"
            await trio.sleep(20)
            assert await state(asking, job_id) == "completed"
            assert worker_of(cluster, job_id) is other
        await trio.sleep(1)
        assert (await frozen.answer())["data"]["connections"] == 0


async def test_a_server_that_thaws_in_time_keeps_its_jobs(autojump_clock: MockClock) -> None:
    cluster = make_cluster(nodes=2)
    async with cluster.run():
        peer = await connect(cluster, 0)
        job_id = await enqueue(peer, "slow")
        await trio.sleep(1)
        worker = worker_of(cluster, job_id)
        worker.freeze()
        await trio.sleep(20)
        worker.thaw()
        worker.thaw()
        await cluster.idle()
        started = [e for node in cluster.nodes for e in node.events if e.type == "job.started"]
        assert len(started) == 1
        assert cluster.jobs()[0].state == "completed"


# The store


async def test_while_the_store_is_away_reading_is_404_and_writing_500(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peer = await connect(cluster)
        job_id = await enqueue(peer, "noop")
        await peer.call("workflow.event", {"name": "e"})
        with cluster.store_away():
            error = (await peer.request("job.get", {"job_id": job_id}))["error"]
            text = "job not found: dispatch/bun: get job: unexpected EOF"
            assert error == {"code": 404, "message": text}
            requests = {
                "job.get": {"job_id": job_id},
                "workflow.get": {"run_id": f"wfrun_{'0' * 26}"},
                "job.cancel": {"job_id": job_id},
                "job.enqueue": {"name": "noop", "payload": {}},
                "workflow.timeline": {"run_id": f"wfrun_{'0' * 26}"},
                "workflow.event": {"name": "e"},
                "workflow.start": {"name": "approval"},
            }
            codes = [
                (await peer.request(method, data))["error"]["code"]
                for method, data in requests.items()
            ]
            assert codes == [404, 404, 404, 500, 500, 500, 500]
            await peer.call("stats")
            await peer.call("subscribe", {"channel": "jobs"})
        assert await state(peer, job_id) == "completed"


async def test_what_ends_while_the_store_is_away_is_lost_and_made_again(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        peer, runner = await connect(cluster, 0), await connect(cluster, 1)
        job_id = await enqueue(peer, "slow")
        await runner.send(id="1", method="workflow.start", data={"name": "approval"})
        await trio.sleep(1)
        cluster.store_away()
        await trio.sleep(10)
        cluster.store_back()
        assert await state(peer, job_id) == "running"
        # The run failed on its server, as its wait asks the store; the store does not know.
        assert (await runner.answer())["data"]["state"] == "failed"
        assert cluster.runs()[0].state == "running"
        await trio.sleep(60)
        assert await state(peer, job_id) == "completed"
        await cluster.nodes[2].stop()
        await cluster.nodes[2].start()
        await peer.call("workflow.event", {"name": "approved"})
        await cluster.idle()
        assert cluster.runs()[0].state == "completed"


async def test_a_run_that_fails_for_want_of_the_store_never_fails_in_the_store(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        runner = await connect(cluster, 0)
        await runner.send(id="1", method="workflow.start", data={"name": "approval"})
        await trio.sleep(1)
        # The outage is over when the run notices it.
        with cluster.store_away():
            pass
        assert (await runner.answer())["data"]["state"] == "failed"
        assert cluster.runs()[0].state == "running"


# The balancer


async def test_the_balancer_goes_round_and_past_servers_that_are_down(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.run():
        for _ in range(6):
            await connect(cluster)
        assert [len(node.connections) for node in cluster.nodes] == [2, 2, 2]
        assert cluster.balancer.connections == 6
        cluster.nodes[1].kill()
        for _ in range(4):
            await connect(cluster)
        assert [len(node.connections) for node in cluster.nodes] == [4, 0, 4]
        for node in cluster.nodes:
            node.kill()
        peer = HttpPeer(await cluster.open_stream())
        await peer.send("GET", "/dwp")
        response = await peer.receive()
        assert response.status == 503
        assert b"<h1>503 Service Unavailable</h1>" in response.body


async def test_the_balancer_cuts_idle_connections(autojump_clock: MockClock) -> None:
    cluster = make_cluster()
    cluster.balancer.idle_timeout = 50
    async with cluster.run():
        busy, idle = await connect(cluster), await connect(cluster)
        before = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def ask() -> None:
                for _ in range(10):
                    await trio.sleep(30)
                    await busy.call("stats")

            with pytest.raises(Dropped):
                await idle.receive()
            assert trio.current_time() - before == pytest.approx(50)


async def test_the_balancer_refuses_on_request(autojump_clock: MockClock) -> None:
    cluster = make_cluster()
    async with cluster.run():
        with cluster.balancer.refuse(502, times=1, retry_after=7) as refusal:
            peer = HttpPeer(await cluster.open_stream())
            await peer.send("GET", "/dwp")
            response = await peer.receive()
            assert (response.status, response.headers["retry-after"]) == (502, "7")
            assert response.headers["content-type"] == "text/html"
            assert (refusal.applied, refusal.remaining) == (1, 0)
            await connect(cluster)
        with cluster.balancer.refuse():
            peer = HttpPeer(await cluster.open_stream())
            await peer.send("GET", "/dwp")
            assert (await peer.receive()).status == 503
        await connect(cluster)
        with pytest.raises(ValueError, match="status"):
            cluster.balancer.refuse(500)
        with pytest.raises(ValueError, match="times"):
            cluster.balancer.refuse(times=0)


async def test_a_reload_of_the_balancer_cuts_all_connections(autojump_clock: MockClock) -> None:
    cluster = make_cluster()
    async with cluster.open_client() as client:
        async with client.subscribe("jobs") as events:
            assert cluster.balancer.reload() == 1
            assert (await events.receive()).type == "stream.gap"
        direct = await connect(cluster, 0)
        cluster.balancer.reload()
        await direct.call("stats")


# Clients and ports


async def test_a_client_reaches_single_servers_by_their_urls(autojump_clock: MockClock) -> None:
    cluster = make_cluster()
    async with cluster.open_client(url=cluster.urls) as client:
        await client.stats()
        assert [len(node.connections) for node in cluster.nodes] == [1, 0, 0]
        cluster.nodes[0].kill()
        await client.stats()
        assert [len(node.connections) for node in cluster.nodes] == [0, 1, 0]
    async with cluster.run(), cluster.nodes[2].open_client() as client:
        await client.stats()
        assert len(cluster.nodes[2].connections) == 1


async def test_a_client_over_http_goes_through_the_balancer_too(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()
    async with cluster.open_client(url="http://localhost/dwp") as client:
        job = await client.enqueue("noop", {})
        assert (await job.wait()).state == "completed"


async def test_every_server_has_a_port_that_is_its_own_again_after_a_restart() -> None:
    cluster = make_cluster(nodes=2)
    async with cluster.serve() as urls, cluster.balancer.serve() as balanced:
        assert len(set(urls)) == 2
        async with trio_dispatch.open_client(urls[0], token="demo-token") as client:
            assert len(cluster.nodes[0].connections) == 1
            job = await client.enqueue("noop", {})
            assert (await job.wait()).state == "completed"
        await cluster.nodes[0].stop()
        with pytest.raises(trio_dispatch.ConnectFailed):
            async with trio_dispatch.open_client(urls[0], token="demo-token"):
                pytest.fail("entered")
        async with trio_dispatch.open_client(balanced, token="demo-token") as client:
            assert (await client.get_job(job.job_id)).state == "completed"
        await cluster.nodes[0].start()
        cluster.nodes[0].kill()
        await cluster.nodes[0].start()
        async with trio_dispatch.open_client(urls[0], token="demo-token") as client:
            await client.stats()
            assert len(cluster.nodes[0].connections) == 1


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
async def test_what_a_block_raises_comes_out_alone(error: type[BaseException]) -> None:
    cluster = make_cluster(nodes=1)
    with pytest.raises(error) as caught:
        async with cluster.serve(), cluster.balancer.serve():
            raise error
    assert type(caught.value) is error


async def test_the_end_of_one_block_leaves_another_clusters_user_alone(
    autojump_clock: MockClock,
) -> None:
    cluster = make_cluster()

    async def first(task_status: trio.TaskStatus[None]) -> None:
        async with cluster.open_client():
            task_status.started()
            await trio.sleep(3)

    async with trio.open_nursery() as nursery:
        await nursery.start(first)
        async with cluster.open_client() as client:
            job = await client.enqueue("slow", {})
            assert (await job.wait()).state == "completed"
            assert client.statistics().link.connections == 1
    with pytest.raises(RuntimeError, match="not running"):
        await cluster.nodes[0].start()


def test_a_cluster_has_at_least_one_server() -> None:
    with pytest.raises(ValueError, match="nodes"):
        Cluster(TOKENS, nodes=0)
    assert "stopped" in repr(Cluster(TOKENS, nodes=1).nodes[0])
