"""The pytest plugin, in projects of its users'."""

from __future__ import annotations

import re

import pytest

pytest_plugins = ["pytester"]

TRIO = "[pytest]\ntrio_mode = true\n"

TEN_LINES = """
from trio_dispatch.testing import FaultyProxy

async def test_a_mail_is_sent(dispatch_server, dispatch_client, autojump_clock):
    @dispatch_server.job("send-mail")
    async def send_mail(payload): ...

    job = await dispatch_client.enqueue("send-mail", {"to": "ann"})
    assert (await job.wait()).state == "completed"
    dispatch_server.assert_enqueued("send-mail", {"to": "ann"}, count=1)
"""


def run(pytester: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", *arguments)


def test_ten_lines_are_a_test(pytester: pytest.Pytester) -> None:
    pytester.makeini(TRIO)
    pytester.makepyfile(TEN_LINES)
    run(pytester, "-W", "error").assert_outcomes(passed=1)


def test_fixtures_are_overridden_and_faults_injected(pytester: pytest.Pytester) -> None:
    pytester.makeini(TRIO)
    pytester.makeconftest(
        """
        import pytest

        @pytest.fixture
        def dispatch_client_options():
            return {"transport": "trio-websocket", "format": "msgpack"}

        @pytest.fixture
        def dispatch_server(dispatch_server):
            @dispatch_server.job("noop")
            async def noop(payload): ...
            return dispatch_server
        """
    )
    pytester.makepyfile(
        """
        import trio

        async def test_faults(faulty_dispatch_client, dispatch_proxy, autojump_clock):
            client = faulty_dispatch_client
            assert client.transport == "trio-websocket"
            async with client.subscribe("jobs") as events:
                dispatch_proxy.drop()
                assert (await events.receive()).type == "stream.gap"
            assert (await (await client.enqueue("noop")).wait()).state == "completed"

        async def test_nothing_stays(dispatch_server):
            assert dispatch_server.jobs() == []
        """
    )
    run(pytester).assert_outcomes(passed=2)


def test_a_failed_handler_shows_its_own_traceback(pytester: pytest.Pytester) -> None:
    pytester.makeini(TRIO)
    pytester.makepyfile(
        """
        async def test_it(dispatch_server, dispatch_client, autojump_clock):
            @dispatch_server.job("explode", max_retries=0)
            async def explode(payload):
                raise RuntimeError("the handler's own words")

            await (await dispatch_client.enqueue("explode")).wait()
        """
    )
    result = run(pytester)
    result.assert_outcomes(failed=1)
    shown = result.stdout.str()
    assert "JobFailed" in shown
    assert re.search(r"in explode\n.*raise RuntimeError", shown)


def test_without_pytest_trio_it_is_harmless_and_says_what_is_missing(
    pytester: pytest.Pytester,
) -> None:
    pytester.makepyfile(
        test_it="""
        import sys

        def test_nothing_is_imported():
            assert "trio_dispatch" not in sys.modules

        def test_uses_a_fixture(dispatch_client): ...
        """,
    )
    pytester.makepyfile(
        hider="""
        import importlib.util
        import sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name: None if name == "pytest_trio" else find(name)
        import pytest
        sys.exit(pytest.main(["-p", "no:trio", "-p", "no:cacheprovider", "test_it.py"]))
        """
    )
    result = pytester.runpython(pytester.path / "hider.py")
    result.assert_outcomes(passed=1, errors=1)
    assert "needs pytest-trio" in result.stdout.str()


def test_coverage_sees_users_handlers(pytester: pytest.Pytester) -> None:
    pytester.makeini(TRIO)
    pytester.makepyfile(
        handlers="""
        async def handle(payload):
            if payload is None:
                return "nothing"
            return "something"
        """,
        test_it="""
        from handlers import handle

        async def test_it(dispatch_server, dispatch_client, autojump_clock):
            dispatch_server.job("handle")(handle)
            await (await dispatch_client.enqueue("handle", 1)).wait()
        """,
    )
    result = run(pytester, "--cov=handlers", "--cov-report=term-missing")
    result.assert_outcomes(passed=1)
    assert re.search(r"handlers.py +4 +1 +75% +3", result.stdout.str())
