"""`relay listen` against a real relay: on a pipe and on a terminal, its filters, its command, and how it ends."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.cli.access import open_access
from tests.acceptance.relay import wait_for
from tests.agent.world import kept
from tests.cli.listening import clients, command, lines, listen, listening
from tests.cli.runner import Runner
from tests.cli.terminal import on_terminal
from tests.client.conftest import shared as shared
from tests.client.conftest import world as world
from tests.client.world import TIMEOUT, World


def test_a_machine_that_sleeps_over_a_weekend(shared: World) -> None:
    """The command's own token outlasts it, though nobody puts its end off meanwhile."""
    bucket = shared.bucket()
    with listening(shared, bucket):
        wait_for(lambda: clients(shared) == 1, "the client")
        wanted = "relay listen (until it ends)"
        (own,) = [each for each in shared.relay.command("token", "list") if each["description"] == wanted]
        assert own["expires_at"] - time.time() > 4 * 86_400


def test_a_bucket_from_which_nothing_comes(shared: World, tmp_path: Path) -> None:
    """The reason is said at the start: its stream is off, or it has no internal output that is enabled."""
    none = "has outputs, but no internal one that is enabled, so nothing comes from it"
    off, public, disabled, sends = (shared.bucket() for _ in range(4))
    shared.relay.call("bucket.set", bucket=off, options={"stream": False})
    for bucket, *kind in ((public, "--public"), (disabled, "--disabled"), (sends, "--disabled"), (sends,)):
        name = f"o{len(kind)}"
        shared.relay.command("output", "create", bucket, "--name", name, "--destination", "http://a.invalid/", *kind)
    for bucket, why in ((off, f"the stream of {off} is off"), (public, none), (disabled, none), (sends, "")):
        with open_access(shared.relay.data, "relay listen", [bucket]) as access:
            assert why in " ".join(access.silent)
            assert bool(access.silent) == bool(why)

    def said(*arguments: object, name: str = "listen") -> str:
        with listening(shared, *arguments, name=name) as process:
            wait_for(lambda: clients(shared) == 1, "the client")
            process.terminate()
            return process.communicate()[1]

    assert said(public) == f"relay: {public} {none}; --no-outputs prints every event\n"
    assert said(public, "--no-outputs") == ""
    assert f"relay: {public} {none}\n" in said(
        public, "http://127.0.0.1:9/", "--checkpoint", tmp_path / "place", name="forward"
    )


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


def test_what_the_client_logs_steers_no_terminal(
    shared: World, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """It quotes the relay, which may be anybody's: it is a line like all others, with escapes."""
    name = "relay_tornado.client"
    with open_access(shared.relay.data, "relay listen"), caplog.at_level(logging.WARNING, name):
        logging.getLogger(name).warning("the relay says: %s", "\x1b[2Jno")
    assert capsys.readouterr().err == "relay: the relay says: \\x1b[2Jno\n"


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
    third = str(whole[2]["received_at"])  # unix seconds, with a fraction
    for since, body in (("last:1", "4"), (whole[1]["id"], "3"), ("1600000000", "1"), ("2020-01-01", "1"), (third, "3")):
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


@pytest.mark.usefixtures("hearing")
def test_it_goes_on_without_its_terminal(shared: World) -> None:
    """With `nohup`, which has SIGHUP ignored."""
    bucket = shared.bucket()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with listening(shared, bucket) as process:
        wait_for(lambda: clients(shared) == 1, "it to listen")
        process.send_signal(signal.SIGHUP)
        shared.send("0", bucket=bucket)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["body"] == "0"


@pytest.mark.usefixtures("hearing")
def test_it_ends_in_order(shared: World, tmp_path: Path) -> None:
    """SIGTERM is exit code 0, Ctrl-C 130, SIGHUP 129, and no token is left. A reader that leaves ends it quietly, also
    where no other event comes."""
    bucket = shared.bucket()
    tokens = shared.relay.command("token", "list")
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 129)):
        with listening(shared, bucket) as process:
            wait_for(lambda: clients(shared) == 1, "it to listen")
            process.send_signal(number)
            assert process.wait(TIMEOUT) == code
        wait_for(lambda: clients(shared) == 0, "it to be gone")
        assert shared.relay.command("token", "list") == tokens
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


# on a terminal


def shown(world: World, *arguments: object) -> tuple[str, int]:
    return on_terminal(command("listen", *arguments), world.relay.environment())


def test_for_people(shared: World) -> None:
    """A terminal gets a line with what came, headers, and JSON indented; senders can't steer it."""
    bucket = shared.bucket()
    shared.send('{"n": {"m": 1}}', bucket=bucket, path="/p?q=1", X_Kind="[bold]a[/bold]")
    shared.send("\x1b[2Jevil\x07\nsecond", b"\xff\xfe", "", "x\n" * 100, bucket=bucket, path="/%1b")
    seen, code = shown(shared, bucket, "--since", "earliest", "--max", 5)
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
    seen, code = shown(shared, bucket, "--since", "earliest", "--max", 1, "--json")
    assert code == 0
    assert json.loads(seen.splitlines()[-1])["body"] == "1"
