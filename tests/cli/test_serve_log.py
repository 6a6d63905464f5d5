"""What ``serve`` prints while it serves: jobs, runs, changes and refusals, a line each."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from trio_dispatch import AuthError, JobFailed, NotFound
from trio_dispatch.cli.serve_log import ActivityLog
from trio_dispatch.server import Identity, PublishedEvent, RequestRecord, Server


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("tests.cli.serve_log")
    yield logger
    for one in (logger, logger.getChild("activity")):
        one.handlers.clear()
        one.setLevel(logging.NOTSET)
        one.propagate = True


def make_server(logger: logging.Logger) -> Server:
    server = Server(
        tokens={"s3cret": Identity(subject="ann\x1b", scopes={"*"})},
        retry_delay=0.01,
        logger=logger,
    )

    @server.job("fail")
    async def fail(payload: object) -> None:
        raise ValueError("no such\x1b[2J customer")

    @server.workflow("order")
    async def order(workflow: object, input: object) -> None: ...

    return server


async def do_all_kinds_of_things(server: Server) -> None:
    async with server.open_client() as client:
        job = await client.enqueue("fail", {})
        with pytest.raises(JobFailed):
            await job.wait()
        await client.cancel_job(job)
        await client.run_workflow("order")
        await client.publish_event("approved\nby nobody")
        with pytest.raises(NotFound):
            await client.get_job(f"job_{0:026}")
        with pytest.raises(AuthError):
            async with server.open_client(token="s3cret-not"):
                pass


async def test_it_prints_what_one_wants_to_see(
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    logger: logging.Logger,
) -> None:
    server = make_server(logger)
    ActivityLog(verbose=False).attach(server)
    await do_all_kinds_of_things(server)
    out, errors = capsys.readouterr()
    assert errors == ""
    assert "s3cret" not in out
    assert all(char.isprintable() or char == "\n" for char in out)
    lines = [line.split("  ")[1].strip() for line in out.splitlines() if line[:2].isdigit()]
    assert [line for line in lines if line.startswith("job.")] == [
        *("job.enqueued", "job.started", "job.retrying", "job.started", "job.retrying"),
        *("job.started", "job.retrying", "job.started", "job.failed", "job.dlq"),
        *("job.cancel", "job.get"),  # the question that was refused
    ]
    assert {"workflow.started", "workflow.completed", "workflow.event", "auth"} <= set(lines)
    assert "404 job not found" in out
    assert "approved\ufffdby nobody  by ann\ufffd" in out
    assert "    ValueError: no such\ufffd[2J customer\n" in out
    assert "subscribe" not in out


async def test_verbose_it_prints_every_request(
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
    logger: logging.Logger,
) -> None:
    server = make_server(logger)
    ActivityLog(verbose=True).attach(server)
    async with server.open_client() as client:
        await client.stats()
        async with client.subscribe("jobs"):
            await client.enqueue("fail", {})
    out = capsys.readouterr().out
    for method in ("stats", "subscribe      jobs", "job.enqueue    fail"):
        assert f"  {method}" in out


async def test_the_log_is_there_for_all_who_use_logging(
    autojump_clock: trio.testing.MockClock,
    caplog: pytest.LogCaptureFixture,
    logger: logging.Logger,
) -> None:
    server = make_server(logger)
    await do_all_kinds_of_things(server)
    assert not [r for r in caplog.records if r.name.endswith(".activity")]  # nobody wanted it
    server.activity.setLevel(logging.INFO)
    await do_all_kinds_of_things(server)
    found = [r for r in caplog.records if r.name.endswith(".activity")]
    kinds = {type(getattr(record, "activity")) for record in found}  # noqa: B009
    assert kinds == {RequestRecord, PublishedEvent}
    texts = [record.getMessage() for record in found]
    assert "a token was refused: it is not known" in texts
    assert any(text.startswith("workflow.event approved\\nby nobody by ann\\x1b") for text in texts)
    assert all(text.isprintable() for text in texts)


async def test_a_server_makes_a_cluster_of_its_kind_and_a_seed_makes_it_repeat(
    autojump_clock: trio.testing.MockClock, logger: logging.Logger
) -> None:
    ids: list[str] = []
    for _ in range(2):
        server = make_server(logger)
        server.reseed(7)
        cluster = server.as_cluster(2)
        cluster.reseed(7)
        for one in (server, cluster):
            async with one.open_client() as client:
                run = await client.run_workflow("order", {})
                assert run.state == "completed"
                ids.append((await client.enqueue("nobody", {})).job_id[-12:])
        assert len(cluster.nodes) == 2
    assert ids[:2] == ids[2:]
