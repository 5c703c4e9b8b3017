"""`relay listen --exec`: a command for each event."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.cli import listen_exec
from relay_tornado.client.messages import read_event
from tests.acceptance.relay import wait_for
from tests.cli.listening import clients, command, listen, listening
from tests.client.conftest import shared as shared
from tests.client.conftest import world as world
from tests.client.world import TIMEOUT, World

_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


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
    seen, once = (shlex.quote(str(tmp_path / name)) for name in ("seen", "once"))
    script = f"cat >> {seen}; test -e {once} || {{ touch {once}; exit 3; }}"
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


def test_how_long_a_command_that_fails_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second, then two, up to a minute: exactly."""
    waits: list[float] = []
    event = read_event({"type": "webhook", "meta": {"id": "k3v9x1q7m2ab-1"}})
    assert event is not None

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 8:
            raise TimeoutError

    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(TimeoutError):
        listen_exec.run_until_done("exit 1", False, event)
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


@pytest.mark.usefixtures("hearing")
@pytest.mark.parametrize("number", _STOPS)
def test_a_command_is_ended_with_all_that_it_began(shared: World, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing of it goes on by itself: the event comes again."""
    bucket = shared.bucket()
    shared.send("1", bucket=bucket)
    pid = tmp_path / "pid"
    told, new = (shlex.quote(str(path)) for path in (pid, tmp_path / "new"))
    script = f"sh -c {shlex.quote(f'echo $$ > {new}; mv {new} {told}; sleep 1000; true')}; true"
    with listening(shared, bucket, "--since", "earliest", "--exec", script) as process:
        wait_for(pid.exists, "the command")
        process.send_signal(number)
        process.wait(TIMEOUT)
        child = Path("/proc") / pid.read_text().strip() / "stat"

        def ended() -> bool:
            try:
                return child.read_text().split()[2] == "Z"
            except (FileNotFoundError, ProcessLookupError):
                return True

        wait_for(ended, "its end")


@pytest.mark.parametrize("number", _STOPS)
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

    monkeypatch.setattr(listen_exec.subprocess, "Popen", Popen)
    event = read_event({"type": "webhook", "meta": {"id": "k3v9x1q7m2ab-1"}})
    assert event is not None
    before = signal.signal(number, end)
    try:
        with pytest.raises(SystemExit):
            listen_exec.run("sleep 1000", event, os.environ)
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
    place, seen = tmp_path / "place", shlex.quote(str(tmp_path / "seen"))
    script = f"cat >> {seen}; test $RELAY_EVENT_SEQ = 1 || exec sleep 60"
    with listening(shared, bucket, "--since", "earliest", "--checkpoint", place, "--exec", script) as process:
        wait_for(lambda: (tmp_path / "seen").exists() and "2" in (tmp_path / "seen").read_text(), "the second event")
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    run = listen(shared, bucket, "--checkpoint", place, "--max", 1, "--bodies-only")
    assert run.stdout == "2\n"
