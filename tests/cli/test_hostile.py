"""Every command in hostile surroundings: no traceback, no secret, and the documented exit code.

Each surrounding takes its turn with some commands, so that all of both are tried;
``TRIO_DISPATCH_ALL=1`` tries each with all.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, TypeAlias

import attrs
import pytest
import trio

from tests.cli.demonstrating import QUIET
from tests.cli.forking import Ended, Nursery, Surroundings
from tests.cli.serving import serving
from tests.shares import EVERYTHING
from trio_dispatch import open_client
from trio_dispatch.cli.exits import Exit
from trio_dispatch.server import Identity, Server, Workflow

pytestmark = pytest.mark.skipif(
    not hasattr(signal, "SIGHUP") or not Path("/dev/full").exists(),
    reason="these are the surroundings of Linux",
)

SECRET: Final = "s3cret-t0ken"
JOB: Final = f"job_{0:026}"
RUN: Final = f"wfrun_{0:026}"

OK, FAILED, USAGE = Exit.OK, Exit.FAILED, Exit.USAGE
AWAY, REFUSED, LEFT = Exit.NO_CONNECTION, Exit.REFUSED, Exit.READER_GONE


@attrs.frozen
class Command:
    """A command: its arguments, its exit code where nothing is hostile, and what it needs."""

    line: str
    code: Exit = OK
    connects: bool = True
    """To the server of DISPATCH_URL."""
    payload: bool = False
    """Reads standard input."""

    @property
    def arguments(self) -> list[str]:
        return self.line.split(" ")


COMMANDS: Final = [
    Command("--help", connects=False),
    Command("--version", connects=False),
    Command("enqueue --help", connects=False),
    Command("watch --help", connects=False),
    Command("job", connects=False),
    Command("demo --speed 100", connects=False),
    Command("demo --url ws://127.0.0.1:1/dwp", USAGE, connects=False),
    Command("serve no_such_module:server", USAGE, connects=False),
    Command('enqueue echo {"ключ":"\u0142\u00f3d\u017a\u2028"}'),
    Command("enqueue echo -", payload=True),
    Command("enqueue echo --many -", payload=True),
    Command("enqueue echo --wait --timeout 20 --output yaml"),
    Command("enqueue evil --wait", FAILED),
    Command("enqueue evil --wait --json", FAILED),
    Command(f"job get {JOB}", FAILED),
    Command(f"job cancel {JOB}", FAILED),
    Command(f"job wait {JOB}", FAILED),
    Command("job list", FAILED),
    Command("dlq list --json", FAILED),
    Command(f"dlq replay {JOB}", FAILED),
    Command("cron list", FAILED),
    Command("workflow start order"),
    Command("workflow run order {}"),
    Command("workflow run order --json"),
    Command(f"workflow get {RUN}", FAILED),
    Command(f"workflow timeline {RUN}", FAILED),
    Command(f"workflow cancel {RUN}", FAILED),
    Command(f"workflow replay {RUN}", FAILED),
    Command("event publish nobody-waits"),
    Command("watch --count 2"),
    Command("watch firehose --json --count 2"),
    Command("stats"),
    Command("stats --output yaml"),
    Command("top --interval 0.02 --count 2"),
    Command("top --interval 0.02 --count 1 --json"),
    Command("doctor"),
    Command("run -- true", connects=False),
    Command("call http://a.example f", AWAY, connects=False),
]

Expected: TypeAlias = Callable[[Command], "set[Exit]"]


def as_usual(command: Command) -> set[Exit]:
    return {command.code}


def always(*codes: Exit) -> Expected:
    return lambda command: set(codes)


def without_server(*codes: Exit) -> Expected:
    """*codes* for commands that connect."""
    return lambda command: set(codes) if command.connects else {command.code}


def without_certificates(command: Command) -> set[Exit]:
    """`run` may read them at its start, although nothing that it reaches needs them."""
    if command.line.startswith("run"):
        return {OK, USAGE}
    return {AWAY, USAGE} if command.connects else {command.code}


def with_proxy(*codes: Exit) -> Expected:
    """*codes* for commands that connect; `call` connects to another service."""

    def expected(command: Command) -> set[Exit]:
        return set(codes) if command.connects or command.line.startswith("call") else {command.code}

    return expected


def without_input(command: Command) -> set[Exit]:
    return {USAGE} if command.payload else {command.code}


def where_it_writes(*codes: Exit) -> Expected:
    """*codes* for commands that print something; errors go to standard error."""

    def expected(command: Command) -> set[Exit]:
        # A job that fails is printed, and so is a demo that does not end well.
        prints = command.code == OK or "evil" in command.line
        return set(codes) if prints else {command.code, *codes}

    return expected


@attrs.frozen
class Case:
    """Hostile surroundings, and what is documented for them."""

    name: str
    surroundings: Surroundings
    expected: Expected = as_usual
    extra: str = ""
    """Further arguments, for commands that connect."""


def case(name: str, expected: Expected = as_usual, extra: str = "", **found: object) -> Case:
    return Case(name, Surroundings(**found), expected, extra)  # type: ignore[arg-type]


def variables(name: str, expected: Expected = as_usual, extra: str = "", **found: str) -> Case:
    return Case(name, Surroundings(variables=found), expected, extra)


def in_terminal(
    columns: int, lines: int = 24, encoding: str = "utf-8", **variables: str
) -> Surroundings:
    return Surroundings(
        variables={"TERM": "xterm-256color", **variables},
        stdin="terminal", stdout="terminal", stderr="terminal",
        size=(columns, lines), encoding=encoding,
    )  # fmt: skip


STREAMS: Final = [
    case("stdin closed", without_input, stdin="closed"),
    case("stdin empty", without_input, stdin=""),
    case("stdin is not UTF-8", without_input, stdin="\udcff\udcfe{"),
    case("stdin is no JSON", without_input, stdin="{"),
    case("stdin with a mark and CRLF", stdin='\ufeff{"name":"echo"}\r\n'),
    case("stdin with U+2028 and NEL", stdin='{"name":"echo","payload":"\u2028\u0085"}\n'),
    case("stdin of nulls", without_input, stdin="\0\0\0"),
    case("stdout closed", always(FAILED), stdout="closed"),
    case("stderr closed", stderr="closed"),
    case("all closed", always(FAILED), stdin="closed", stdout="closed", stderr="closed"),
    case("stdout full", where_it_writes(FAILED), stdout="full"),
    case("stderr full", stderr="full"),
    case("both full", where_it_writes(FAILED), stdout="full", stderr="full"),
    case("nobody reads stdout", where_it_writes(LEFT), stdout="left"),
    case("nobody reads stderr", stderr="left"),
    case("nobody reads either", where_it_writes(LEFT), stdout="left", stderr="left"),
    case("ASCII locale", encoding="ascii"),
    case("Latin-1 locale", encoding="latin-1"),
    case("cp1252 streams", variables={"PYTHONIOENCODING": "cp1252"}),
    case("UTF-16 streams", variables={"PYTHONIOENCODING": "utf-16"}),
    case("ASCII streams", variables={"PYTHONIOENCODING": "ascii"}),
    case("no language", variables={"LC_ALL": "C", "LANG": ""}),
    case("a language that is none", variables={"LC_ALL": "xx_YY.nonsense"}),
    Case("terminal of 60", in_terminal(60)),
    Case("terminal of 61 lines", in_terminal(80, 61)),
    Case("terminal of 80", in_terminal(80)),
    Case("terminal of 105", in_terminal(105)),
    Case("terminal of 139", in_terminal(139)),
    Case("terminal of 200", in_terminal(200, 60)),
    Case("terminal of 20", in_terminal(20, 5)),
    Case("terminal of one cell", in_terminal(1, 1)),
    Case("terminal without a size", in_terminal(0, 0)),
    Case("ASCII terminal", in_terminal(80, encoding="ascii")),
    Case("Latin-1 terminal", in_terminal(100, encoding="latin-1")),
    Case("dumb terminal", in_terminal(80, TERM="dumb")),
    Case("unknown terminal", in_terminal(80, TERM="no-such-terminal")),
    Case("terminal without colours", in_terminal(80, NO_COLOR="1")),
    case("signals ignored", ignored=(signal.SIGHUP, signal.SIGINT)),
    case("SIGPIPE ignored", where_it_writes(LEFT), stdout="left", ignored=(signal.SIGPIPE,)),
    case("colours forced on a pipe", variables={"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1"}),
]

NOBODY: Final = "ws://127.0.0.1:1/dwp"

VARIABLES: Final = [
    variables("COLUMNS=0", COLUMNS="0"),
    variables("COLUMNS=-1", COLUMNS="-1"),
    variables("COLUMNS is text", COLUMNS="wide"),
    variables("COLUMNS is a superscript", COLUMNS="\u00b2"),
    variables("COLUMNS is enormous", COLUMNS="9" * 30, LINES="9" * 30),
    variables("no home", HOME="/no/such/home"),
    variables("home is a file", HOME="/dev/null"),
    variables("a zone that is none", TZ="Nowhere/Nothing"),
    variables("a zone far west", TZ="XXX12"),
    variables("no directory for temporary files", TMPDIR="/no/such"),
    variables("token empty", without_server(REFUSED), DISPATCH_TOKEN=""),
    variables("token wrong", without_server(REFUSED), DISPATCH_TOKEN=f"{SECRET}-not"),
    variables("token with a newline", without_server(USAGE), DISPATCH_TOKEN=f"{SECRET}\n"),
    variables("token with a mark", without_server(USAGE), DISPATCH_TOKEN=f"\ufeff{SECRET}"),
    variables("token beyond Latin-1", without_server(USAGE), DISPATCH_TOKEN=f"{SECRET}\u0142"),
    variables("token with an escape", without_server(USAGE), DISPATCH_TOKEN=f"{SECRET}\x1b[2J"),
    variables("token file away", without_server(USAGE), "--token-file /no/such/file"),
    variables("token file is a folder", without_server(USAGE), "--token-file /"),
    variables("token file is endless nothing", without_server(USAGE), "--token-file /dev/null"),
    variables("nobody to ask for a token", without_server(USAGE), "--ask-token"),
    variables("URL empty", without_server(AWAY, REFUSED), DISPATCH_URL=""),
    variables("URL is nonsense", without_server(USAGE), DISPATCH_URL="nonsense"),
    variables("URL of another protocol", without_server(USAGE), DISPATCH_URL="ftp://a/dwp"),
    variables("URL with a bad port", without_server(USAGE), DISPATCH_URL="ws://a:99999/"),
    variables("URL with a secret", without_server(USAGE, AWAY),
              DISPATCH_URL=f"ws://user:{SECRET}@127.0.0.1:1/dwp"),
    variables("URL with a secret query", without_server(AWAY), DISPATCH_URL=f"{NOBODY}?t={SECRET}"),
    variables("URL beyond ASCII", without_server(USAGE), DISPATCH_URL="ws://127.0.0.1:1/\u0142"),
    variables("nobody listens", without_server(AWAY), DISPATCH_URL=NOBODY),
    variables("nobody listens anywhere", without_server(AWAY), DISPATCH_URL=f"{NOBODY},{NOBODY}2"),
    variables("no such name", without_server(AWAY), DISPATCH_URL="wss://nowhere.invalid/dwp"),
    variables("TLS to a plain server", without_server(AWAY), DISPATCH_URL="{tls}"),
    variables("certificates away", without_certificates, DISPATCH_URL="{tls}",
              SSL_CERT_FILE="/no/such.pem", SSL_CERT_DIR="/no/such"),
    variables("certificates are none", without_certificates, DISPATCH_URL="{tls}",
              SSL_CERT_FILE="/dev/null"),
    variables("proxy is nonsense", with_proxy(USAGE), ALL_PROXY=f"socks://u:{SECRET}@x"),
    variables("proxy away", with_proxy(AWAY), ALL_PROXY=f"http://u:{SECRET}@127.0.0.1:1"),
    variables("NO_PROXY is nonsense", with_proxy(USAGE), ALL_PROXY="http://p", NO_PROXY="a/b"),
    variables("profile away", without_server(USAGE), DISPATCH_PROFILE="prod", DISPATCH_URL=""),
    variables("configuration is a folder", without_server(USAGE), DISPATCH_URL="",
              TRIO_DISPATCH_CONFIG="/"),
    variables("configuration is no TOML", without_server(USAGE), DISPATCH_URL="",
              TRIO_DISPATCH_CONFIG="{secret file}"),
    variables("profile whose command fails", without_server(USAGE), DISPATCH_URL="",
              DISPATCH_PROFILE="failing", TRIO_DISPATCH_CONFIG="{profiles}"),
    variables("profile whose command is away", without_server(USAGE), DISPATCH_URL="",
              DISPATCH_PROFILE="away", TRIO_DISPATCH_CONFIG="{profiles}"),
    variables("profile whose command prints nothing", without_server(USAGE), DISPATCH_URL="",
              DISPATCH_PROFILE="silent", TRIO_DISPATCH_CONFIG="{profiles}"),
    variables("profile that works", DISPATCH_URL="", DISPATCH_TOKEN="wrong",
              DISPATCH_PROFILE="works", TRIO_DISPATCH_CONFIG="{profiles}"),
]  # fmt: skip

LISTS: Final = {"streams": STREAMS, "variables": VARIABLES}
AT_A_TIME: Final = len(COMMANDS) if EVERYTHING else 2


def make_server() -> Server:
    server = Server(
        tokens={SECRET: Identity(subject="all", scopes={"*"})}, retry_delay=0.01, logger=QUIET
    )

    @server.job("echo", max_retries=0)
    async def echo(payload: object) -> None: ...

    @server.job("evil", max_retries=0)
    async def evil(payload: object) -> None:
        raise ValueError("\x1b[2J\x9b2J\u202e\u2028\x7f gone")

    @server.job("slow", max_retries=0)
    async def slow(payload: object) -> None:
        await trio.sleep_forever()

    @server.workflow("order")
    async def order(wf: Workflow, input: object) -> None:
        await wf.step("check", trio.sleep, 0)

    @server.workflow("waits")
    async def waits(wf: Workflow, input: object) -> None:
        await wf.wait_for_event("nobody-publishes-this", timeout=60)

    return server


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server on which something happens all the time."""
    done = threading.Event()

    async def keep_it_busy(url: str) -> None:
        async with open_client(url, token=SECRET) as client:
            while not done.is_set():
                await client.enqueue("echo")
                await trio.sleep(0.03)

    with serving(make_server()) as url:
        thread = threading.Thread(target=trio.run, args=(keep_it_busy, url))
        thread.start()
        try:
            yield url
        finally:
            done.set()
            thread.join(10)


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


Hostile: TypeAlias = Callable[..., Ended]


@pytest.fixture(scope="module")
def hostile(url: str, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Hostile:
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "secret").write_text(f'token = "{SECRET}\n', encoding="utf-8")
    python = Path(sys.executable).as_posix()
    (folder / "profiles").write_text(
        f"""
        [profiles.failing]
        url = "{url}"
        token_command = ["{python}", "-c", "print('{SECRET}'); raise SystemExit(3)"]
        [profiles.away]
        url = "{url}"
        token_command = "/no/such/program {SECRET}"
        [profiles.silent]
        url = "{url}"
        token_command = ["{python}", "-c", ""]
        [profiles.works]
        url = ["{url}"]
        token_command = ["{python}", "-c", "print('{SECRET}')"]
        """,
        encoding="utf-8",
    )
    names = {
        "{tls}": url.replace("ws://", "wss://"),
        "{secret file}": str(folder / "secret"),
        "{profiles}": str(folder / "profiles"),
    }

    def run(arguments: list[str], surroundings: Surroundings) -> Ended:
        given = {
            "DISPATCH_URL": url,
            "DISPATCH_TOKEN": SECRET,
            "DISPATCH_API_KEY": SECRET,
            "DISPATCH_API_URL": "http://127.0.0.1:1",
            "XDG_CONFIG_HOME": str(folder / "no-configuration"),
            **{key: names.get(value, value) for key, value in surroundings.variables.items()},
        }
        ended = nursery.run(arguments, attrs.evolve(surroundings, variables=given))
        told = ended.out + ended.errors
        assert "Traceback" not in told, told
        assert SECRET not in told
        if surroundings.stdout != "terminal" and "FORCE_COLOR" not in surroundings.variables:
            check_controls(ended.out)
        if surroundings.stderr != "terminal":
            check_controls(ended.errors)
        return ended

    return run


def check_controls(text: str) -> None:
    """No control character of anybody's reaches a terminal; the newline is our own."""
    found = {char for char in text if not char.isprintable()} - {"\n", "\u200d"}
    assert not found, text


def chosen(list_name: str) -> list[tuple[Case, Command]]:
    """Cases with the commands whose turn it is."""
    return [
        # A step that shares no divisor with the number of commands: each has its turn.
        (case, COMMANDS[(n * AT_A_TIME + k) * 5 % len(COMMANDS)])
        for n, case in enumerate(LISTS[list_name])
        for k in range(AT_A_TIME)
    ]


def name_of(value: Case | Command) -> str:
    return value.name if isinstance(value, Case) else ascii(value.line)


def test_each_list_has_forty_surroundings_and_each_command_its_turn() -> None:
    assert [len(found) for found in LISTS.values()] == [40, 43]
    for name in LISTS:
        assert {command for _, command in chosen(name)} == set(COMMANDS)


def check(hostile: Hostile, case: Case, command: Command) -> None:
    surroundings, arguments = case.surroundings, list(command.arguments)
    if command.connects and case.extra:
        arguments += case.extra.split()
    if command.payload and surroundings.stdin is None:
        surroundings = attrs.evolve(surroundings, stdin='{"name": "echo"}\n')
        if command.line == "enqueue echo -":
            surroundings = attrs.evolve(surroundings, stdin="[1]")
    if surroundings.stdin == "terminal" and command.line.startswith("demo --url"):
        surroundings = attrs.evolve(surroundings, stdin="y\n")
    if surroundings.stdin == "terminal" and command.payload:
        surroundings = attrs.evolve(surroundings, stdin='{"name": "echo"}\n')
    ended = hostile(arguments, surroundings)
    assert ended.code in case.expected(command), ended


@pytest.mark.parametrize(("case", "command"), chosen("streams"), ids=name_of)
def test_hostile_streams_locales_signals_and_widths(
    hostile: Hostile, case: Case, command: Command
) -> None:
    check(hostile, case, command)


@pytest.mark.parametrize(("case", "command"), chosen("variables"), ids=name_of)
def test_hostile_variables_tokens_and_certificates(
    hostile: Hostile, case: Case, command: Command
) -> None:
    check(hostile, case, command)


LONG: Final = [
    "watch", "watch jobs --json", "top --plain", "enqueue slow --wait", "workflow run waits",
    "enqueue slow --many - --wait", "demo", "job wait {job}",
]  # fmt: skip


@pytest.mark.parametrize("line", LONG)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, Exit.INTERRUPTED),
        (signal.SIGTERM, Exit.TERMINATED),
        (signal.SIGHUP, Exit.HANGUP),
    ],
)
def test_signals_end_what_runs_in_good_order(
    hostile: Hostile, line: str, number: signal.Signals, code: Exit
) -> None:
    if "{job}" in line:
        line = line.format(job=hostile(["enqueue", "slow"], Surroundings()).out.strip())
    stdin = '{"name": "slow"}\n' if "--many" in line else None
    ended = hostile(line.split(), Surroundings(stdin=stdin, signal=number))
    assert ended.code == code
    assert ended.errors.splitlines()[-1].startswith("trio-dispatch: ")


def test_a_signal_that_the_parent_ignores_stays_ignored(hostile: Hostile) -> None:
    """As with nohup, and in the background of a shell."""
    surroundings = Surroundings(ignored=(signal.SIGHUP,), signal=signal.SIGHUP)
    assert hostile(["watch", "--count", "3"], surroundings).code == Exit.OK
