"""The documentation tells the truth: its Python runs, its commands and links are there."""

from __future__ import annotations

import builtins
import contextlib
import importlib.util
import inspect
import io
import os
import re
import sys
import types
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

import trio_dispatch
from tests.remote.support import ApiService
from tests.server.recorded_server import recorded_server
from tests.snippets import EXAMPLE_URL, PAGES, ROOT, Snippet, snippets
from trio_dispatch.testing import FaultyProxy

PROGRAMS = [snippet for page in PAGES for snippet in snippets(page) if snippet.is_program]
PAGES_WITH_FRAGMENTS = [
    page for page in PAGES if any(not snippet.is_program for snippet in snippets(page))
]


@pytest.mark.parametrize("page", PAGES_WITH_FRAGMENTS)
async def test_the_fragments_of_a_page_run_and_print_what_it_says(
    page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = ApiService(accepts=True)
    async with (
        recorded_server().serve() as url,
        trio_dispatch.open_client(url, token="demo-token") as client,
        api.serve() as api_url,
    ):
        monkeypatch.setenv("DISPATCH_API_URL", api_url)
        monkeypatch.setenv("DISPATCH_API_KEY", "demo-key")
        # The page's URL leads to this server, whatever port it has.
        for name in ("open_client", "connect_client", "open_link", "run_link"):
            monkeypatch.setattr(trio_dispatch, name, _with_url(getattr(trio_dispatch, name), url))
        monkeypatch.setattr(FaultyProxy, "listen", _with_url(FaultyProxy.listen, url))
        # Since Python 3.15 a class in a fragment needs the builtins to be among its names.
        names: dict[str, object] = {"__builtins__": builtins}
        for snippet in snippets(page):
            if not snippet.is_program:
                names |= {"client": client, "trio": trio, "trio_dispatch": trio_dispatch}
                with trio.fail_after(20):
                    snippet.check_output(await run_fragment(snippet, names))


def _by_http(url: str) -> str:
    return url.replace("ws", "http", 1)


def _with_url(function: Callable[..., object], url: str) -> Callable[..., object]:
    urls: dict[object, object] = {EXAMPLE_URL: url, _by_http(EXAMPLE_URL): _by_http(url)}

    def call(*args: object, **options: object) -> object:
        here: list[object] = []
        for arg in args:
            if isinstance(arg, list):
                here.append([urls.get(url, url) for url in arg])
            else:
                here.append(urls.get(arg, arg))
        return function(*here, **options)

    return call


async def run_fragment(snippet: Snippet, names: dict[str, object]) -> str:
    code = snippet.compile_fragment()
    assert isinstance(code, types.CodeType)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        result = types.FunctionType(code, names)()
        if inspect.iscoroutine(result):
            await result
    return printed.getvalue()


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: f"{program.page}:{program.line}")
async def test_a_program_runs_alone_and_prints_what_the_page_says(
    program: Snippet, tmp_path: Path
) -> None:
    file = tmp_path / "program.py"
    async with recorded_server().serve() as url:
        file.write_text(program.source.replace(EXAMPLE_URL, url), encoding="utf-8")
        with trio.fail_after(30):
            done = await trio.run_process(
                [sys.executable, "-W", "error", str(file)],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
    assert done.returncode == 0, done.stderr.decode()
    program.check_output(done.stdout.decode())


def test_there_is_something_to_run() -> None:
    assert PROGRAMS
    assert "docs/guides/jobs.md" in PAGES_WITH_FRAGMENTS


def test_a_page_that_says_the_wrong_thing_fails() -> None:
    snippet = Snippet(page="README.md", line=1, source="", output="job_… is completed\n")
    snippet.check_output("job_01 is completed\n")
    for printed in ("job_01 is failed", "", "so job_01 is completed"):
        with pytest.raises(AssertionError):
            snippet.check_output(printed)


def setup_commands() -> list[str]:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```sh\n(.+)\n```$", readme, re.MULTILINE)


def test_the_readme_has_two_commands_of_one_line_each() -> None:
    demo, tests = setup_commands()
    assert demo.endswith("nox -s demo")
    assert tests.endswith("nox -s tests")


def test_continuous_integration_runs_the_readmes_test_command() -> None:
    script = ROOT / ".ci" / "run"
    if not script.exists():
        pytest.skip("a source distribution has no continuous integration")
    assert setup_commands()[1] in script.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target


def test_every_public_name_is_documented() -> None:
    reference = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    named = set(
        re.findall(r"^\.\. auto\w+:: trio_dispatch\.(\w+)(?:\(\))?$", reference, re.MULTILINE)
    )
    missing = set(trio_dispatch.__all__) - named
    assert not missing
    for name in trio_dispatch.__all__:
        found = getattr(trio_dispatch, name)
        # The text of a type alias stands behind it, where no program can see it.
        assert inspect.getdoc(found) or typing.get_origin(found) is typing.Literal, name


@pytest.mark.parametrize("name", ["remote", "server", "testing"])
def test_every_public_name_of_the_other_packages_is_documented(name: str) -> None:
    package = importlib.import_module(f"trio_dispatch.{name}")
    reference = (ROOT / "docs" / f"{name}-reference.md").read_text(encoding="utf-8")
    whole = re.search(r"^\.\. automodule:: \S+\n   :members:\n", reference, re.MULTILINE)
    for public in package.__all__:
        assert whole or re.search(rf"\b{public}\b", reference), public
        assert inspect.getdoc(getattr(package, public)), public


def test_the_architecture_page_shows_the_layers_as_they_are() -> None:
    spec = importlib.util.spec_from_file_location("layers", ROOT / "docs" / "layers.py")
    assert spec is not None
    assert spec.loader is not None
    layers = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(layers)
    picture = (ROOT / "docs" / "pictures" / "layers.svg").read_text(encoding="utf-8")
    assert layers.draw() == picture, "python docs/layers.py draws the layers again"
    assert "`_wire/frames`" in layers.tables()
