"""`relay listen` against a real relay: on a pipe and on a terminal, its filters, its command, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest

from relay_tornado.cli import handing
from relay_tornado.cli.access import open_access
from relay_tornado.cli.conditions import Condition, joined
from relay_tornado.cli.handing import Hand
from relay_tornado.client.messages import read_event
from tests.acceptance.relay import wait_for
from tests.cli.runner import Runner
from tests.client.conftest import shared as shared
from tests.client.conftest import world as world
from tests.client.world import TIMEOUT, World


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-W", "error", "-m", "relay_tornado", *map(str, arguments)]


def listen(world: World, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs it until it ends by itself."""
    return subprocess.run(
        command("listen", *arguments), env=world.relay.environment() | variables, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip


def lines(run: subprocess.CompletedProcess[str]) -> list[Any]:
    assert run.returncode == 0, run.stderr
    return [json.loads(line) for line in run.stdout.splitlines()]


@contextmanager
def listening(world: World, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """It runs meanwhile; what still runs at the end is killed."""
    process = subprocess.Popen(
        command("listen", *arguments), env=world.relay.environment(), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def clients(world: World) -> int:
    return len(world.relay.call("client.list"))


def test_a_machine_that_sleeps_over_a_weekend(shared: World) -> None:
    """The command's own token outlasts it, though nobody puts its end off meanwhile."""
    bucket = shared.bucket()
    with listening(shared, bucket):
        wait_for(lambda: clients(shared) == 1, "the client")
        (own,) = [each for each in shared.relay.command("token", "list") if each["description"] == "relay listen"]
        assert own["expires_at"] - time.time() > 4 * 86_400


def test_the_end_of_its_token_is_put_off(shared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the command runs."""
    monkeypatch.setattr("relay_tornado.cli.access.EVERY", 0.1)
    monkeypatch.setattr("relay_tornado.cli.access.LIFE", 3600)
    with open_access(shared.relay.data, "relay listen") as access:
        monkeypatch.setattr("relay_tornado.cli.access.LIFE", 7 * 86_400)

        def put_off() -> bool:
            (found,) = [each for each in shared.relay.command("token", "list") if each["key"] == access.key]
            return bool(found["expires_at"] - time.time() > 4 * 86_400)

        wait_for(put_off, "the later end")


# on a pipe


def test_lines_of_json(shared: World) -> None:
    """Elsewhere than on a terminal each event is one line of JSON, bytes that are no text in base64."""
    bucket = shared.bucket()
    shared.send('{"n": "é"}', b"\xff\x00", bucket=bucket, path="/p?q=1", X_Kind="a")
    run = listen(shared, bucket, "--since", "earliest", "--max", 2)
    first, second = lines(run)
    assert run.stderr == ""
    assert (first["bucket"], first["method"], first["path"], first["query"]) == (bucket, "POST", "/p", "q=1")
    assert (first["headers"]["X-Kind"], first["body"], first["seq"]) == (["a"], '{"n": "é"}', 1)
    assert first["id"] == f"{first['epoch']}-1"
    assert (second["body_base64"], "body" in second) == ("/wA=", False)
    assert run.stdout.isascii()


def test_where_it_begins(shared: World) -> None:
    """`--since` takes an id, a number from the end, and a time ago; a seq alone it explains."""
    bucket = shared.bucket()
    shared.send(*"1234", bucket=bucket)
    whole = lines(listen(shared, bucket, "--since", "10m ago", "--max", 4))
    assert [each["body"] for each in whole] == ["1", "2", "3", "4"]
    for since, body in (("last:1", "4"), (whole[1]["id"], "3"), ("1600000000", "1"), ("2020-01-01", "1")):
        assert lines(listen(shared, bucket, "--since", since, "--max", 1))[0]["body"] == body
    assert lines(listen(shared, bucket, "--max", 1, RELAY_LISTEN_SINCE="last:1"))[0]["body"] == "4"
    assert listen(shared, bucket, "--since", "seq:3").returncode == 2
    assert listen(shared, bucket, "--since", "whenever").returncode == 2


def test_filters_and_bodies(shared: World) -> None:
    """Conditions are joined; --bodies-only prints what came; --max-body leaves out what is larger."""
    bucket = shared.bucket()
    shared.send('{"action": "closed"}', bucket=bucket, X_Kind="push")
    shared.send('{"action": "opened", "number": 1}', bucket=bucket, X_Kind="other")
    shared.send('{"action": "opened", "number": 2}', bucket=bucket, X_Kind="push")
    found = listen(
        shared, bucket, "--since", "earliest", "--max", 1, "--bodies-only",
        "--filter", "header:x-kind=push", "--filter", "payload.action~^open",
    )  # fmt: skip
    assert (found.stdout, found.returncode) == ('{"action": "opened", "number": 2}\n', 0)
    short = lines(listen(shared, bucket, "--since", "earliest", "--max", 2, "--max-body", 25))
    assert ("body" in short[0], short[1].get("truncated"), "body" in short[1]) == (True, True, False)
    wrong = listen(shared, bucket, "--filter", '{"match": {"type": "nothing"}}')
    assert wrong.returncode == 1
    assert "filter.match" in wrong.stderr


def test_several_buckets_and_none(shared: World) -> None:
    """Named ones, or all; a name that is not there is an error on this machine."""
    first, second = shared.bucket(), shared.bucket()
    shared.send("1", bucket=first)
    shared.send("2", bucket=second)
    assert {each["bucket"] for each in lines(listen(shared, first, second, "--since", "last:1", "--max", 2))} == {
        first,
        second,
    }
    missing = listen(shared, "nowhere")
    assert (missing.returncode, missing.stdout) == (1, "")
    assert "nowhere" in missing.stderr


def test_a_relay_on_another_machine(shared: World, tmp_path: Path) -> None:
    """`--url` and the secret, by flag or variable; a wrong secret is an error, and no data directory is needed."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    elsewhere = {"RELAY_DATA": str(tmp_path / "none"), "RELAY_URL": shared.relay.url, "RELAY_SECRET": shared.secret}
    for key in ((), ("--key", shared.key)):
        assert lines(listen(shared, bucket, "--since", "earliest", "--max", 1, *key, **elsewhere))[0]["body"] == "1"
    wrong = listen(shared, bucket, **elsewhere | {"RELAY_SECRET": "wrong"})
    assert wrong.returncode == 1
    assert "(4001)" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    nobody = listen(shared, bucket, RELAY_DATA=str(tmp_path / "none"))
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert "no relay" in nobody.stderr


def test_a_token_of_its_own_leaves_with_it(shared: World) -> None:
    """On this machine it needs no token, and leaves none behind; the stock protocol does as well."""
    bucket = shared.bucket()
    before = shared.relay.command("token", "list")
    with listening(shared, bucket, "--stock") as process:
        wait_for(lambda: clients(shared) == 1, "it to listen")
        assert len(shared.relay.command("token", "list")) == len(before) + 1
        shared.send("stock", bucket=bucket)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["body"] == "stock"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=TIMEOUT) == ("", "relay: stopped\n")
        assert process.returncode == 130
    assert shared.relay.command("token", "list") == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("--json", "--bodies-only"),
        ("--exec", "true", "--json"),
        ("--exec-keep-going",),
        ("--exec", ""),
        ("--exec", " "),
        ("--stock", "--since", "earliest"),
        ("--stock", "--no-outputs"),
        ("--filter", "nonsense"),
        ("--filter", "{"),
        ("--filter", "@/nowhere"),
        ("--max", "0"),
    ],
    ids=" ".join,
)
def test_what_makes_no_sense(relay: Runner, arguments: tuple[str, ...]) -> None:
    """A command line that is wrong is an exit code of 2, before anything is connected."""
    relay.misused("listen", *arguments)


def test_it_ends_in_order(shared: World, tmp_path: Path) -> None:
    """SIGTERM is exit code 0, Ctrl-C 130; a reader that leaves ends it quietly, also where no other event comes."""
    bucket = shared.bucket()
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with listening(shared, bucket) as process:
            wait_for(lambda: clients(shared) == 1, "it to listen")
            process.send_signal(number)
            assert process.wait(TIMEOUT) == code
        wait_for(lambda: clients(shared) == 0, "it to be gone")
    shared.send("0", bucket=bucket)
    said = subprocess.run(
        f"{shlex.join(command('listen', bucket, '--since', 'earliest'))} | head -n 1", shell=True, capture_output=True,
        env=shared.relay.environment(), text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert json.loads(said.stdout)["body"] == "0"
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("how", [(), ("--bodies-only",)], ids=["lines", "bodies"])
def test_what_could_not_be_printed_comes_again(shared: World, tmp_path: Path, how: tuple[str, ...]) -> None:
    """On a full disk, and to a reader that has left, whatever it reads through; a standard output that is closed shows
    nothing, and takes nothing."""
    bucket = shared.bucket()
    shared.send("0", "1", bucket=bucket)

    def run(place: Path, redirection: str, **streams: Any) -> subprocess.CompletedProcess[str]:
        arguments = shlex.join(command("listen", bucket, "--since", "earliest", "--checkpoint", place, *how))
        return subprocess.run(
            f"exec {arguments} {redirection}", shell=True, env=shared.relay.environment(), stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, timeout=TIMEOUT, **streams,
        )  # fmt: skip

    full = run(tmp_path / "full", ">/dev/full")
    assert (full.returncode, full.stderr.count("\n")) == (1, 1)
    assert full.stderr.startswith("relay: standard output: the disk is full")
    assert kept(tmp_path / "full").endswith("-0")
    closed = run(tmp_path / "closed", ">&-")
    assert closed.returncode == 1
    assert closed.stderr.startswith("relay: standard output is closed")
    assert not (tmp_path / "closed").exists()
    reader, writer = socket.socketpair()
    reader.close()
    with writer:
        left = run(tmp_path / "left", "", stdout=writer)
    assert (left.returncode, left.stderr) == (0, "")
    assert kept(tmp_path / "left").endswith("-0")


def kept(checkpoint: Path) -> str:
    """The position in a checkpoint of one bucket."""
    [bucket] = json.loads(checkpoint.read_text())["buckets"].values()
    return str(bucket["id"])


def test_it_comes_back(world: World, tmp_path: Path) -> None:
    """Over kills of the relay and of itself nothing is missed; only what was in hand at its own kill may come again."""
    place, sent = tmp_path / "place", 0
    got: list[int] = []

    def send(number: int) -> None:
        nonlocal sent
        world.send(*(str(each) for each in range(sent, sent + number)))
        sent += number

    def read(process: subprocess.Popen[str], repeat: bool) -> None:
        assert process.stdout is not None
        while len(got) < sent:
            body = int(json.loads(process.stdout.readline())["body"])
            if not (repeat and body == got[-1]):
                assert body == len(got)
                got.append(body)
            repeat = False

    for turn in range(3):
        send(2)
        with listening(world, "orders", "--since", "earliest", "--checkpoint", place) as process:
            read(process, repeat=turn > 0)
            world.relay.kill()
            world.relay.start()
            send(3)
            read(process, repeat=False)
            process.kill()
            stderr = process.communicate()[1]
        assert "trying again in" in stderr
        assert "connected again" in stderr


# --exec


def test_a_command_for_each_event(shared: World) -> None:
    """The body is on its standard input, the event in its environment; the secret is not."""
    bucket = shared.bucket()
    shared.send("the body", bucket=bucket, path="/a?b=c", X_Some_Thing="v$(false)")
    script = 'cat; echo; env | grep -E "^RELAY_(EVENT|HEADER|SECRET)" | sort'
    run = listen(
        shared, bucket, "--since", "earliest", "--max", 1, "--exec", script,
        RELAY_URL=shared.relay.url, RELAY_SECRET=shared.secret,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    body, *rest = run.stdout.splitlines()
    assert body == "the body"
    told = dict(line.split("=", 1) for line in rest)
    assert told["RELAY_EVENT_BUCKET"] == bucket
    assert (told["RELAY_EVENT_METHOD"], told["RELAY_EVENT_PATH"], told["RELAY_EVENT_QUERY"]) == ("POST", "/a", "b=c")
    assert told["RELAY_EVENT_ID"].endswith("-1")
    assert told["RELAY_HEADER_X_SOME_THING"] == "v$(false)"
    assert json.loads(told["RELAY_EVENT_HEADERS"])["X-Some-Thing"] == ["v$(false)"]
    assert "RELAY_SECRET" not in told


def test_a_command_that_fails_is_tried_again(shared: World, tmp_path: Path) -> None:
    """No event is passed over; the failure is said; with --exec-keep-going it goes on."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)
    script = f"cat >> {tmp_path}/seen; test -e {tmp_path}/once || {{ touch {tmp_path}/once; exit 3; }}"
    run = listen(shared, bucket, "--since", "earliest", "--max", 2, "--exec", script)
    assert run.returncode == 0
    assert (tmp_path / "seen").read_text() == "112"
    assert "exit status 3; again in" in run.stderr
    going = listen(shared, bucket, "--since", "earliest", "--max", 2, "--exec-keep-going", "--exec", "cat; exit 1")
    assert (going.stdout, going.returncode) == ("12", 0)
    assert going.stderr.count("exit status 1; going on") == 2


def test_json_of_every_command_is_not_asked_for_here(shared: World) -> None:
    """RELAY_JSON in the environment leaves --exec and --bodies-only as they are."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    for arguments in (("--exec", "cat"), ("--bodies-only",)):
        run = listen(shared, bucket, "--since", "earliest", "--max", 1, *arguments, RELAY_JSON="1")
        assert (run.returncode, run.stdout.strip()) == (0, "1"), run.stderr


def test_how_long_a_command_that_fails_is_waited_for() -> None:
    """A second, then two, up to a minute: exactly."""
    waits: list[float] = []
    event = read_event({"type": "webhook", "meta": {"id": "k3v9x1q7m2ab-1"}})
    assert event is not None

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        Hand("exit 1", False, lambda _: None, sleep)(event)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60]


def test_one_command_a_checkpoint(shared: World, tmp_path: Path) -> None:
    """A second one, be it `relay forward` or by another name of the file, says who has it and ends."""
    bucket, place, link = shared.bucket(), tmp_path / "place", tmp_path / "link"
    link.symlink_to(place)
    with listening(shared, bucket, "--checkpoint", place) as first:
        wait_for(lambda: clients(shared) == 1, "it to listen")
        for arguments in (("listen", bucket), ("forward", bucket, "http://127.0.0.1:1")):
            second = subprocess.run(
                command(*arguments, "--checkpoint", link), env=shared.relay.environment(), stdin=subprocess.DEVNULL,
                capture_output=True, text=True, timeout=TIMEOUT,
            )  # fmt: skip
            assert second.returncode == 1
            assert f"process {first.pid} " in second.stderr
    wait_for(lambda: clients(shared) == 0, "it to be gone")
    shared.send("1", bucket=bucket)
    assert listen(shared, bucket, "--checkpoint", place, "--since", "earliest", "--max", 1).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_is_ended_with_all_that_it_began(shared: World, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing of it goes on by itself: the event comes again."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    pid = tmp_path / "pid"
    script = f"sh -c 'echo $$ > {pid}.new; mv {pid}.new {pid}; sleep 1000; true'; true"
    with listening(shared, bucket, "--since", "earliest", "--exec", script) as process:
        wait_for(pid.exists, "the command")
        process.send_signal(number)
        process.wait(TIMEOUT)
        child = Path("/proc") / pid.read_text().strip() / "stat"
        wait_for(lambda: not child.exists() or child.read_text().split()[2] == "Z", "its end")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_while_a_command_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals) -> None:
    """It is there already, and who began it does not know it yet: it is ended, too."""
    begun: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen[bytes]):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            begun.append(self)
            signal.raise_signal(number)

    def end(*_: object) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(handing.subprocess, "Popen", Popen)
    event = read_event({"type": "webhook", "meta": {"id": "k3v9x1q7m2ab-1"}})
    assert event is not None
    before = signal.signal(number, end)
    try:
        with pytest.raises(SystemExit):
            handing.run("sleep 1000", event, os.environ)
        assert signal.getsignal(number) is end
        assert begun[0].returncode == -signal.SIGTERM
    finally:
        signal.signal(number, before)
        with begun[0]:
            begun[0].kill()


def test_a_command_in_hand_comes_again(shared: World, tmp_path: Path) -> None:
    """A kill while a command runs: the checkpoint has not moved past its event."""
    bucket = shared.bucket()
    shared.send("1", "2", bucket=bucket)
    place, script = tmp_path / "place", f"cat >> {tmp_path}/seen; test $RELAY_EVENT_SEQ = 1 || exec sleep 60"
    with listening(shared, bucket, "--since", "earliest", "--checkpoint", place, "--exec", script) as process:
        wait_for(lambda: (tmp_path / "seen").exists() and "2" in (tmp_path / "seen").read_text(), "the second event")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    run = listen(shared, bucket, "--checkpoint", place, "--max", 1, "--bodies-only")
    assert run.stdout == "2\n"


# on a terminal


def on_terminal(world: World, *arguments: object) -> tuple[str, int]:
    """What a person sees of it, and its exit code."""
    master, slave = pty.openpty()
    environment = world.relay.environment() | {"TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(
        command("listen", *arguments), env=environment, stdin=slave, stdout=slave, stderr=slave
    ) as process:
        os.close(slave)
        seen = b""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and select.select([master], [], [], TIMEOUT)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        os.close(master)
        return seen.decode(), process.wait(TIMEOUT)


def test_for_people(shared: World) -> None:
    """A terminal gets a line with what came, headers, and JSON indented; senders can't steer it."""
    bucket = shared.bucket()
    shared.send('{"n": {"m": 1}}', bucket=bucket, path="/p?q=1", X_Kind="[bold]a[/bold]")
    shared.send("\x1b[2Jevil\x07\nsecond", b"\xff\xfe", "", "x\n" * 100, bucket=bucket, path="/%1b")
    seen, code = on_terminal(shared, bucket, "--since", "earliest", "--max", 5)
    assert code == 0
    assert "connected; waiting for events" in seen
    assert "POST" in seen
    assert "/p?q=1" in seen
    assert "X-Kind: [bold]a[/bold]" in seen
    assert '  {\r\n    "n": {\r\n      "m": 1\r\n' in seen
    assert "\\x1b[2Jevil\\x07" in seen
    assert "\x1b[2J" not in seen
    assert "(2 bytes that are no text)" in seen
    assert "… 40 more lines" in seen


def test_json_on_a_terminal(shared: World) -> None:
    """With --json a terminal gets lines of JSON, too."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    seen, code = on_terminal(shared, bucket, "--since", "earliest", "--max", 1, "--json")
    assert code == 0
    assert json.loads(seen.splitlines()[-1])["body"] == "1"


# conditions


def parameter(source: str, name: str) -> dict[str, str]:
    return {"source": source, "name": name}


@pytest.mark.parametrize(
    ("text", "rules"),
    [
        ("header:X-A=b=c", {"match": {"type": "value", "value": "b=c", "parameter": parameter("header", "X-A")}}),
        ("query:q~^a$", {"match": {"type": "regex", "regex": "^a$", "parameter": parameter("query", "q")}}),
        ("payload.a.0.b=", {"match": {"type": "value", "value": "", "parameter": parameter("payload", "a.0.b")}}),
        ("body~x", {"match": {"type": "regex", "regex": "x", "parameter": parameter("payload", "")}}),
        ("header:A!=b", {"not": {"match": {"type": "value", "value": "b", "parameter": parameter("header", "A")}}}),
        ("body!~x", {"not": {"match": {"type": "regex", "regex": "x", "parameter": parameter("payload", "")}}}),
        (' {"and": []}', {"and": []}),
    ],
)
def test_conditions(text: str, rules: dict[str, Any], tmp_path: Path) -> None:
    """The short forms become rules; JSON, also from a file, is taken as it is."""
    assert Condition().read(text) == rules
    (tmp_path / "rules").write_text(json.dumps(rules))
    assert Condition().read(f"@{tmp_path}/rules") == rules


def test_several_conditions(tmp_path: Path) -> None:
    """All of them have to hold; none is no filter."""
    (tmp_path / "list").write_text("[]")
    assert joined(()) is None
    assert joined(({"a": 1},)) == {"a": 1}
    assert joined(({"a": 1}, {"b": 2})) == {"and": [{"a": 1}, {"b": 2}]}
    for wrong in ("x", "header=a", "cookie:a=b", "[]", '{"a"', "payload.a", f"@{tmp_path}/list"):
        with pytest.raises(click.BadParameter):
            Condition().read(wrong)
