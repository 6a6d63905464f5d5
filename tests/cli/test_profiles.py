"""Profiles: which server and which token a command takes, and what it says when it cannot."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from trio_dispatch.cli.connect import DEFAULT_URL, ServerOptions
from trio_dispatch.cli.exits import UsageError
from trio_dispatch.cli.profiles import config_path

PRINT = f'["{Path(sys.executable).as_posix()}", "-c", "print(1 + 1)"]'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("DISPATCH_URL", "DISPATCH_TOKEN", "DISPATCH_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "config.toml"
    monkeypatch.setenv("TRIO_DISPATCH_CONFIG", str(file))
    return file


def write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


def test_a_profile_names_the_server_and_where_its_token_is(config: Path) -> None:
    (config.parent / "token").write_text("from-a-file\n", encoding="utf-8")
    write(config, f"""
        [profiles.prod]
        url = ["wss://a.example/dwp", "wss://b.example/dwp"]
        token_command = {PRINT}
        [profiles.test]
        url = "ws://test.example/dwp"
        token_file = "token"
    """)  # fmt: skip
    prod, test = ServerOptions(profile="prod"), ServerOptions(profile="test")
    assert prod.urls == ["wss://a.example/dwp", "wss://b.example/dwp"]
    assert prod.find_token() == "2"
    assert (test.urls, test.find_token()) == (["ws://test.example/dwp"], "from-a-file")


def test_a_command_as_one_text_is_split_as_a_shell_would(config: Path) -> None:
    python = Path(sys.executable).as_posix()
    command = f"{python} -c \"print('a b')\""
    write(config, f"[profiles.a]\nurl = 'ws://a/'\ntoken_command = '''{command}'''")
    assert ServerOptions(profile="a").find_token() == "a b"


def test_what_is_nearer_wins_and_no_token_goes_to_anothers_server(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(config, f"""
        default = "usual"
        [profiles.usual]
        url = "ws://usual.example/dwp"
        token_command = {PRINT}
        [profiles.tokenless]
        url = "ws://tokenless.example/dwp"
    """)  # fmt: skip
    monkeypatch.setenv("DISPATCH_TOKEN", "from-the-environment")
    assert ServerOptions().urls == ["ws://usual.example/dwp"]
    assert ServerOptions().find_token() == "2"
    assert ServerOptions(token="given").find_token() == "given"
    assert ServerOptions(profile="tokenless").find_token() == "from-the-environment"

    monkeypatch.setenv("DISPATCH_URL", "ws://b.example/ , ws://c.example/")
    assert ServerOptions().urls == ["ws://b.example/", "ws://c.example/"]
    assert ServerOptions().find_token() == "from-the-environment"
    assert ServerOptions(profile="usual").urls == ["ws://usual.example/dwp"]
    assert ServerOptions(url=["ws://d.example/"]).urls == ["ws://d.example/"]
    assert ServerOptions(url=["ws://d.example/"]).find_token() == "from-the-environment"
    with pytest.raises(UsageError, match="exclude each other"):
        ServerOptions(url=["ws://d.example/"], profile="usual").find_token()

    monkeypatch.setenv("DISPATCH_PROFILE", "tokenless")
    assert ServerOptions().urls == ["ws://tokenless.example/dwp"]


def test_without_a_file_there_is_the_default(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no file of profiles"):
        _ = ServerOptions().urls  # a file that is named should be there
    monkeypatch.delenv("TRIO_DISPATCH_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config.parent))
    assert ServerOptions().urls == [DEFAULT_URL]
    if sys.platform == "linux":
        assert config_path() == config.parent / "trio-dispatch" / "config.toml"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[profiles", "is not TOML"),
        ("servers = 1", "has servers; it takes default and"),
        ("profiles = 1", "no table"),
        ("[profiles]\nprod = 1", "no table"),
        ("default = 1", "not the name of a profile"),
        ("[profiles.other]\nurl = 'ws://a/'", "no profile 'prod'; there is: other"),
        ("[profiles.prod]", "has no url"),
        ("[profiles.prod]\nurl = 1", "neither text nor a list of texts"),
        ("[profiles.prod]\nurl = []", "neither text nor a list of texts"),
        ("[profiles.prod]\nurl = 'ws://a/'\ntoken = 's3cret'", "has a token in"),
        ("[profiles.prod]\nurl = 'ws://a/'\ntokn = 's3cret'", "has tokn in"),
        ("[profiles.prod]\nurl = 'ws://a/'\ntoken_file = 1", "no path"),
        ("[profiles.prod]\nurl = 'ws://a/'\nkeyring = 1", "neither true nor false"),
        ("[profiles.prod]\nurl = 'ws://a/'\ntoken_command = '\"s3cret'", "cannot be split"),
        (
            "[profiles.prod]\nurl = 'ws://a/'\nkeyring = true\ntoken_file = 's3cret'",
            "token_file and keyring",
        ),
    ],
)
def test_a_file_that_cannot_be_used_says_why_and_shows_no_secret(
    config: Path, text: str, complaint: str
) -> None:
    write(config, text)
    with pytest.raises(UsageError) as caught:
        _ = ServerOptions(profile=None if text == "default = 1" else "prod").urls
    assert complaint in str(caught.value)
    assert str(config) in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("print('s3cret'); raise SystemExit(3)", "failed with exit code 3"),
        ("print()", "printed no token"),
        ("import sys; sys.stdout.buffer.write(bytes([255]))", "is not UTF-8"),
    ],
)
def test_a_command_that_gives_no_token_says_so(config: Path, code: str, complaint: str) -> None:
    python = Path(sys.executable).as_posix()
    write(
        config, f'[profiles.a]\nurl = "ws://a/"\ntoken_command = ["{python}", "-c", """{code}"""]'
    )
    with pytest.raises(UsageError) as caught:
        ServerOptions(profile="a").find_token()
    assert complaint in str(caught.value)
    assert "s3cret" not in str(caught.value)
