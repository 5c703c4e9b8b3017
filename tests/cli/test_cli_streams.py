"""What the shell hands over: standard streams that are closed or full, and arguments that are no text."""

from __future__ import annotations

import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from relay_tornado.admin.administration import Administration
from tests.acceptance.relay import TIMEOUT, wait_for
from tests.cli.runner import Runner
from tests.cli.server import serving
from tests.needs import needs, needs_root
from tests.ops.filling import fill
from tests.ports import hold_port, port_of
from tests.serving import environment

_RELAY = (sys.executable, "-m", "relay_tornado")


def shell(redirection: str, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs `relay ARGUMENTS` with this redirection."""
    return subprocess.run(
        command(redirection, *arguments), env=environment(**variables), capture_output=True, text=True, timeout=TIMEOUT
    )


def into(stdout: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs `relay ARGUMENTS` with this standard output, which it closes."""
    run = subprocess.run(
        command("", *arguments), env=environment(), stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT
    )
    os.close(stdout)
    return run


def command(redirection: str, *arguments: object) -> list[str]:
    return ["sh", "-c", f'exec "$@" {redirection}', "sh", *_RELAY, *map(str, arguments)]


@pytest.mark.parametrize("redirection", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams(relay: Runner, redirection: str) -> None:
    """A command does without them."""
    relay.json("bucket", "create", "orders")
    listed = shell(redirection, "bucket", "list", "--data", relay.data)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert ("orders" in listed.stdout) == (">&-" not in redirection.replace("2>", ""))
    assert shell(redirection, "bucket", "show", "nowhere", "--data", relay.data).returncode == 1


def test_a_relay_without_any_stream(tmp_path: Path) -> None:
    """It serves, and ends in order."""
    held = hold_port()
    port = port_of(held)
    arguments = ("serve", "--data", tmp_path / "data", "--port", str(port))

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=TIMEOUT) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    with held, subprocess.Popen(command("<&- >&- 2>&-", *arguments), env=environment()) as process:
        try:
            wait_for(lambda: process.poll() is not None or answers(), "the relay")
            process.send_signal(signal.SIGTERM)
            assert process.wait(TIMEOUT) == 0
        finally:
            process.kill()


@pytest.mark.parametrize(
    "arguments",
    [("bucket", "create", "a\udcff"), ("--secret", "\udcff", "bucket", "list"), ("export", "orders", "\udcff.nd")],
)
def test_arguments_that_are_no_text(relay: Runner, arguments: tuple[str, ...]) -> None:
    """They are refused in words, before anything is done."""
    run = shell("", *arguments, RELAY_DATA=str(relay.data))
    assert (run.returncode, run.stdout) == (2, "")
    assert "is no UTF-8" in run.stderr
    assert "Traceback" not in run.stderr
    assert not relay.data.exists()


def test_a_secret_that_none_can_be(relay: Runner) -> None:
    """No header can hold it; it is not shown."""
    said = relay.misused("--url", "http://localhost:1", "bucket", "list", RELAY_SECRET="gehe\u00efm")
    assert "the secret holds a character that is not printable ASCII" in said
    assert "gehe" not in said


@pytest.mark.parametrize("arguments", [("bucket", "list"), ("bucket", "show", "注文")], ids=" ".join)
def test_what_the_encoding_does_not_know(relay: Runner, arguments: tuple[str, ...]) -> None:
    """It is printed as an escape, as errors have it."""
    relay.json("bucket", "create", "注文")
    run = shell("", *arguments, RELAY_DATA=str(relay.data), PYTHONIOENCODING="iso-8859-1")
    assert (run.returncode, run.stderr) == (0, "")
    assert r"\u6ce8\u6587" in run.stdout


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    "arguments",
    [
        *(("--help",), ("--version",), ("bucket", "--help"), ("bucket", "list", "--json"), ("bucket", "list")),
        *(("doctor",), ("export", "orders")),
    ],
)
def test_a_full_standard_output_is_named(relay: Runner, arguments: tuple[str, ...], unbuffered: str) -> None:
    """One line, also for help and where Python buffers nothing."""
    relay.json("bucket", "create", "orders")
    run = shell(">/dev/full", *arguments, RELAY_DATA=str(relay.data), PYTHONUNBUFFERED=unbuffered)
    said = "relay: standard output: the disk is full: free some space, or name a file on another one\n"
    assert (run.returncode, run.stderr) == (1, said)


@pytest.mark.parametrize("form", [[], ["--json"]])
@pytest.mark.parametrize(
    "arguments",
    [
        ("logs", "resend", "--bucket", "shop"),
        ("replay", "shop", "--from", "earliest", "--to-output", "worker"),
        ("replay", "shop", "--from", "earliest", "--to-url", "http://127.0.0.1:1/", "--max-tries", "1"),
    ],
)
def test_what_was_sent_is_said_in_any_case(relay: Runner, arguments: tuple[str, ...], form: list[str]) -> None:
    """Whoever took it for undone would send it twice."""
    fill(relay.data, "shop", 3)
    relay.json("output", "create", "shop", "--name", "worker")
    with serving(relay.data):
        run = shell(">/dev/full", *arguments, *form, RELAY_DATA=str(relay.data))
    said = "0 of 3 events sent again, 3 failed" if "--to-url" in arguments else "3 events"
    assert run.returncode == 1
    last = run.stderr.splitlines()[-1]
    assert last.startswith("relay: standard output: the disk is full")
    assert said in last


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_standard_error_is_no_failure(relay: Runner, unbuffered: str) -> None:
    """The exit code says what came of it, whatever Python keeps of a line that can't be written."""
    relay.json("bucket", "create", "orders")
    for arguments, code in (
        (("logs", "list"), 0),
        (("bucket", "show", "none"), 1),
        (("bucket", "list", "--none"), 2),
        (("none",), 2),
        (("--none",), 2),
    ):
        run = shell("2>/dev/full", *arguments, RELAY_DATA=str(relay.data), PYTHONUNBUFFERED=unbuffered)
        assert (run.returncode, run.stdout) == (code, "")


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full"])
def test_no_secret_is_made_that_nobody_would_see(relay: Runner, redirection: str) -> None:
    """The one before stays good."""
    relay.json("bucket", "create", "orders")
    key = relay.json("token", "create")["key"]
    before = relay.json("token", "list")
    reason = "standard output is closed" if redirection == ">&-" else "standard output: the disk is full"
    for arguments in (
        ("token", "create"),
        ("token", "create", "--json"),
        ("token", "rotate", key, "--grace", "1h"),
        ("output", "create", "orders", "--public", "--destination", "https://a.example/", "--secret", "generate"),
    ):
        run = shell(redirection, *arguments, RELAY_DATA=str(relay.data))
        assert run.returncode == 1
        assert run.stderr.startswith(f"relay: {reason}")
        assert run.stderr.endswith("nobody would see the secret: nothing was made\n")
        assert run.stderr.count("\n") == 1
    assert (relay.json("token", "list"), relay.json("output", "list")) == (before, [])


def test_no_secret_is_made_for_a_full_disk(relay: Runner, tmp_path: Path) -> None:
    """Whatever else takes what is written there."""
    needs_root("it mounts a small file system")
    needs("unshare", "install util-linux")
    relay.json("token", "create")
    (tmp_path / "disk").mkdir()
    disk = shlex.quote(str(tmp_path / "disk"))
    filled = f"mount -t tmpfs -o size=4k none {disk} && printf x > {disk}/x && "
    inside = ["unshare", "-m", "sh", "-c", f'{filled} exec "$@"', "sh"]
    run = subprocess.run(
        [*inside, *command(f">{disk}/secret", "token", "create")],
        env=environment(RELAY_DATA=str(relay.data)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("relay: standard output: the disk is full")
    assert len(relay.json("token", "list")) == 1


def test_what_nobody_saw_of_what_was_made(relay: Runner, tmp_path: Path) -> None:
    """Where that can't be known before, it is said, with what to do."""
    key = relay.json("token", "create")["key"]

    def said(*arguments: str) -> str:
        run = subprocess.run(
            command(f">{shlex.quote(str(tmp_path))}/out", *arguments, "--data", relay.data),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),
            env=environment(),
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert run.returncode == 1
        assert run.stderr.startswith("relay: standard output: the file is as large as it may be")
        assert run.stderr.count("\n") == 1
        return run.stderr

    with serving(relay.data):
        assert "the bucket orders was made: `relay bucket show orders`" in said("bucket", "create", "orders")
        before = relay.json("token", "list")
        made = said("token", "create")
        (other,) = (each["key"] for each in relay.json("token", "list") if each not in before)
        assert f"the token {other} was made, and nobody has seen its secret: `relay token rotate {other}`" in made
        rotated = said("token", "rotate", key, "--json")
        assert f"`relay token rotate {key}` gives it another one; the old secret has ended" in rotated
        assert "the old secret is valid for 1h more" in said("token", "rotate", key, "--grace", "1h")


def test_the_reader_of_a_secret_has_left(relay: Runner) -> None:
    """As where the program behind a pipe is not there."""
    theirs, ours = os.pipe()
    os.close(theirs)
    run = into(ours, "token", "create", "--data", relay.data)
    assert run.returncode == 1
    assert "the program that read it has ended; the token " in run.stderr
    assert "nobody has seen its secret" in run.stderr


@pytest.mark.parametrize("arguments", [("bucket", "list"), ("bucket", "show", "orders"), ("bucket", "list", "--json")])
def test_a_table_is_written_at_once(relay: Runner, arguments: tuple[str, ...]) -> None:
    """So a reader that leaves after the line that it looked for, like `grep -q`, is no failure."""
    relay.json("bucket", "create", "orders")
    relay.json("bucket", "create", "last")
    theirs, ours = os.pipe2(os.O_DIRECT)  # each read gets what one write gave
    try:
        run = into(ours, *arguments, "--data", relay.data)
        assert (run.returncode, run.stderr) == (0, "")
        assert os.read(theirs, 1 << 16).count(b"\n") > 2
        assert os.read(theirs, 1 << 16) == b""
    finally:
        os.close(theirs)


@pytest.mark.parametrize("arguments", [(), ("--append",)])
def test_a_failed_export_leaves_no_file(relay: Runner, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """One that was not there, and into which nothing was written; with --append an empty one is gone on with."""
    relay.json("bucket", "create", "orders")
    file = tmp_path / "orders.ndjson"
    assert "there is no bucket" in relay.refused("export", "wrong", file, *arguments)
    assert file.exists() == bool(arguments)
    assert relay("export", "orders", file, *arguments).exit_code == 0


def test_an_export_to_a_closed_standard_output(relay: Runner, tmp_path: Path) -> None:
    """It is not told as made; one to a file needs none."""
    relay.json("bucket", "create", "orders")
    run = shell(">&-", "export", "orders", "--data", relay.data)
    assert (run.returncode, run.stderr.count("\n")) == (1, 1)
    assert run.stderr.startswith("relay: standard output is closed")
    assert shell(">&-", "export", "orders", tmp_path / "file", "--data", relay.data).returncode == 0


def test_an_export_that_had_no_room_at_all_leaves_no_file(relay: Runner, tmp_path: Path) -> None:
    """Once there is some, the same command makes it."""
    relay.json("bucket", "create", "orders")
    file = tmp_path / "orders.ndjson"
    arguments = [*_RELAY, "export", "orders", str(file), "--data", str(relay.data)]
    no_room = ["sh", "-c", 'ulimit -f 0; exec "$@"', "sh"]
    done = subprocess.run([*no_room, *arguments], env=environment(), capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 1
    assert "the file is as large as it may be" in done.stderr
    assert not file.exists()


def test_no_thread_can_be_started() -> None:
    """As where the limit of processes is reached: one line says so, and what to do."""

    def no_threads() -> None:  # each would get a stack of more than there is to address
        resource.setrlimit(resource.RLIMIT_STACK, (1 << 48, resource.getrlimit(resource.RLIMIT_STACK)[1]))

    arguments = [*_RELAY, "--url", "http://127.0.0.1:9", "--secret", "s", "listen"]
    done = subprocess.run(
        arguments, env=environment(), capture_output=True, text=True, timeout=TIMEOUT, preexec_fn=no_threads
    )
    assert done.returncode == 1
    assert re.fullmatch(r"relay: no thread can be started: .*; raise the limit .*\n", done.stderr)


def test_there_is_too_little_memory(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says so, as for what else a machine lacks."""

    def list_buckets(_: Administration) -> None:
        raise MemoryError

    relay.json("bucket", "create", "orders")
    monkeypatch.setattr(Administration, "list_buckets", list_buckets)
    assert "there is too little memory" in relay.refused("bucket", "list")


def test_there_is_too_little_memory_for_a_library(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is an error of an import; another one is a fault, and keeps its traceback."""
    said = "libsqlite3.so.0: failed to map segment from shared object"

    def list_buckets(_: Administration) -> None:
        raise ImportError(said)

    relay.json("bucket", "create", "orders")
    monkeypatch.setattr(Administration, "list_buckets", list_buckets)
    assert "there is too little memory" in relay.refused("bucket", "list")
    said += ": Operation not permitted"
    with pytest.raises(ImportError):
        relay("bucket", "list")
