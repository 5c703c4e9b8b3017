"""How a command finds its way to the relay, and what it does when that changes under it."""

import contextlib
import http.client
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from relay_tornado.cli import answers, client, export_import
from relay_tornado.handlers import control
from relay_tornado.storage.lock import Owner
from tests.acceptance.relay import TIMEOUT, Relay, wait_for
from tests.cli.owners import locked
from tests.cli.owners import server as server
from tests.cli.runner import Runner
from tests.cli.server import serving
from tests.needs import needs_root

INFO = {"result": {"version": "0.1.0", "url": None}}


@contextmanager
def pretending(path: Path, *conversations: list[Any]) -> Iterator[list[Any]]:
    """A control socket whose connections are answered as told, then cut; yields the requests that came.

    A conversation is a list of answers; one may be None, which cuts without an answer, or an Event, for which it waits
    before it does.
    """
    requests: list[Any] = []
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(TIMEOUT)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        for conversation in conversations:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as lines:
                connection.settimeout(TIMEOUT)
                for answer in conversation:
                    requests.append(json.loads(lines.readline()))
                    if isinstance(answer, threading.Event):
                        answer.wait(TIMEOUT)
                    elif answer is not None:
                        connection.sendall(json.dumps(answer).encode() + b"\n")

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield requests
    finally:
        thread.join(TIMEOUT)
        listener.close()
        path.unlink()


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for a socket's."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


# through a running relay


def test_commands_go_through_the_running_relay(server: Relay, relay: Runner) -> None:
    """Each one does, since the relay holds the lock; what it changes counts at once, and whole URLs are known."""
    relay.data = server.data
    made = server.command("bucket", "create", "orders", "--auth", "token", "--token", "t")
    assert relay.json("bucket", "show", "orders") == made
    url = f"{server.url}/v1/webhooks/{made['inputs'][0]['id']}"
    assert f"webhook URL   {url}\n" in relay("bucket", "show", "orders").stdout
    assert f"{server.ws_url}\n" in relay("token", "create", "--bucket", "orders").stdout
    assert post(url) == 401
    relay.json("bucket", "set", "orders", "--auth", "none")
    assert post(url) == 200
    relay.json("input", "set", "orders", "--status", "202")
    assert post(url) == 202
    relay.json("bucket", "delete", "orders", "--yes")
    assert post(url) == 404
    assert "there is no bucket 'orders'" in relay.refused("bucket", "show", "orders")
    (token,) = relay.json("token", "list")
    relay.json("token", "revoke", token["key"])
    assert relay.json("token", "list") == []


def post(url: str) -> int:
    """The status of a webhook."""
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None
    with contextlib.closing(http.client.HTTPConnection(parts.hostname, parts.port, timeout=TIMEOUT)) as connection:
        connection.request("POST", parts.path, b"hello")
        return connection.getresponse().status


def test_a_migration_needs_the_relay_stopped(server: Relay, relay: Runner) -> None:
    """It is refused while one runs, saying which process that is."""
    relay.data = server.data
    assert f"process {server.pid}" in relay.refused("migrate")


def test_a_directory_with_a_long_path(relay: Runner) -> None:
    """Where the control socket can't lie in it, relay.lock says where it is; it is gone with the relay."""
    relay.data = relay.data.with_name("x" * 120)
    with Relay(relay.data) as server:
        made = relay.json("bucket", "create", "orders")
        path = Path(json.loads((relay.data / "relay.lock").read_text())["socket"])
        assert path.parent.parent != relay.data
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert server.stop() == 0
        assert not path.parent.exists()
    assert relay.json("bucket", "list") == [made]


def test_a_killed_relay_is_passed_by(relay: Runner) -> None:
    """Its socket and what its lock file says are still there, and count for nothing, to commands and to the next."""
    with Relay(relay.data) as server:
        made = relay.json("bucket", "create", "orders")
        server.kill()
        assert (relay.data / "relay.sock").exists()
        assert relay.json("bucket", "list") == [made]
        server.start()
        assert relay.json("bucket", "list") == [made]


def test_commands_while_the_relay_stops_and_starts(tmp_path: Path) -> None:
    """Every command succeeds, whenever it comes: each token is made, and made once."""
    made: list[str] = []
    failed: list[str] = []
    over = threading.Event()
    with Relay(tmp_path / "data") as relay:

        def keep_making() -> None:
            while not over.is_set():
                run = relay.run("token", "create", "--json")
                if run.returncode == 0:
                    made.append(json.loads(run.stdout)["key"])
                else:
                    failed.append(run.stderr)

        def made_another() -> Callable[[], bool]:
            before = len(made)
            return lambda: len(made) > before

        thread = threading.Thread(target=keep_making)
        thread.start()
        try:
            for _ in range(2):
                wait_for(made_another(), "a token through the relay")
                assert relay.stop() == 0
                wait_for(made_another(), "a token without a relay")
                # A command has the directory for a moment again and again, so a start may find it taken.
                wait_for(lambda: try_to_start(relay), "the relay to start")
        finally:
            over.set()
            thread.join(TIMEOUT)
        assert failed == []
        assert sorted(token["key"] for token in relay.command("token", "list")) == sorted(made)


def try_to_start(relay: Relay) -> bool:
    """Starts the relay; False where another process had the directory at that moment."""
    try:
        relay.start()
    except AssertionError:
        assert "is in use by" in relay.said()
        relay.kill()
        return False
    return True


# without one, or with one that is just coming or going


def test_a_command_waits_for_a_relay_that_is_starting(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as somebody has the lock and no socket, it waits, says so, and then does its work."""
    relay("bucket", "create", "orders")
    monkeypatch.setattr(client, "SPEAK", 0.0)
    with locked(relay.data) as lock:
        waits = client.time.sleep
        monkeypatch.setattr(client.time, "sleep", lambda seconds: (waits(seconds), lock.release()))
        result = relay("bucket", "show", "orders")
    assert result.exit_code == 0
    assert result.stderr.startswith("relay: waiting for it: ")
    assert f"process {os.getpid()}" in result.stderr


@pytest.mark.parametrize("path", [None, "nothing.sock"])
def test_a_command_does_not_wait_for_ever(relay: Runner, monkeypatch: pytest.MonkeyPatch, path: str | None) -> None:
    """Whoever has the lock and can't be talked to is named."""
    relay("bucket", "create", "orders")
    monkeypatch.setattr(client, "PATIENCE", 0.01)
    with locked(relay.data, None if path is None else relay.data / path):
        said = relay.refused("bucket", "show", "orders")
    assert f"process {os.getpid()}" in said
    assert "try again" in said


def test_a_relay_that_is_stopped(server: Relay, relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first word is not waited for as long as for an answer, and the doctor tells it, too."""
    relay.data = server.data
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        assert "did not answer in time: it is stopped" in relay.refused("bucket", "list")
        found = {each["name"]: each for each in json.loads(relay("doctor", "--idle", "0", "--json").stdout)}
        assert "it is stopped" in found["control"]["says"]
    finally:
        os.kill(server.pid, signal.SIGCONT)
    monkeypatch.undo()
    assert relay.json("bucket", "list") == []


def test_a_directory_that_was_moved_while_a_relay_runs_on_it(short: Path) -> None:
    """Nobody is told to stop that relay, nor waits for it: moved back, all goes on."""
    there, elsewhere = short / "data", short / "moved"
    with serving(there):
        there.rename(elsewhere)
        said = Runner(elsewhere).refused("bucket", "list")
        assert f"was at {there} when that was started: move it back" in said
        assert "stop" not in said
        elsewhere.rename(there)
        assert Runner(there).json("bucket", "list") == []


def test_a_relay_in_this_process_leaves_logging_as_it_was(short: Path) -> None:
    """What comes after it would say all it says to a stream that is gone."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with serving(short / "data"):
        assert (root.handlers, root.level) != before
    assert (root.handlers, root.level) == before
    assert not structlog.is_configured()


def test_a_server_that_starts_in_between(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody had the lock when it was looked at, somebody has it when it is taken: the command looks again."""
    relay("bucket", "create", "orders")
    looks: list[Owner | None] = []
    real = client.read_owner
    with locked(relay.data) as lock:

        def look(data: Path) -> Owner | None:
            if not looks:
                looks.append(None)
                return None
            lock.release()
            looks.append(real(data))
            return looks[-1]

        monkeypatch.setattr(client, "read_owner", look)
        assert relay.json("bucket", "show", "orders")["name"] == "orders"
    assert looks == [None, None]


def test_a_server_that_stops_in_between(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its socket was named when the lock was looked at, and is gone when it is called: the command looks again."""
    relay("bucket", "create", "orders")
    real = client.read_owner
    owners = iter([Owner(1, "0.1.0", relay.data / "gone.sock")])
    monkeypatch.setattr(client, "read_owner", lambda data: next(owners, None) or real(data))
    assert relay.json("bucket", "show", "orders")["name"] == "orders"


def test_a_relay_that_stops_before_it_takes_a_command(relay: Runner, short: Path) -> None:
    """It says that it stops, so nothing was done, and the command is given again."""
    closing = {"error": {"code": "closing", "message": "", "field": ""}}
    made = {"result": {"key": "k", "secret": "s"}}
    with locked(relay.data, short / "s"), pretending(short / "s", [INFO, INFO, closing], [INFO, made]) as requests:
        assert relay.json("token", "create") == made["result"]
    commands = [request["command"] for request in requests]
    assert commands == ["relay.info", "relay.info", "token.create", "relay.info", "token.create"]


def test_a_command_that_has_nothing_to_say_for_long(relay: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import whose lines come slowly goes on, on another connection."""
    relay("bucket", "create", "orders")
    with serving(relay.data) as server:
        made = relay.json("bucket", "show", "orders")
        for number in range(2):
            server.send(made["inputs"][0]["id"], b"%d" % number)
        header, *events = relay("export", "orders").stdout.splitlines(keepends=True)
        monkeypatch.setattr(control, "IDLE", 0.1)
        monkeypatch.setattr(export_import, "BATCH_EVENTS", 1)
        call = client.Relay.call

        def slowly(self: client.Relay, command: str, **arguments: Any) -> Any:
            time.sleep(0.3)
            return call(self, command, **arguments)

        monkeypatch.setattr(client.Relay, "call", slowly)
        assert relay.json("import", "copy", input="".join((header, *events)))["imported"] == 2


def test_a_relay_that_dies_with_a_command(relay: Runner, short: Path) -> None:
    """What changes something may have been done, so that is said and it is not repeated; what only reads is."""
    with locked(relay.data, short / "s"), pretending(short / "s", [INFO, INFO, None]):
        assert "This may be done all the same" in relay.refused("token", "create")
    for command, answer in (("token list", []), ("consumer dead orders", {"data": []})):
        with locked(relay.data, short / "s"), pretending(short / "s", [INFO, None], [INFO, {"result": answer}]):
            assert relay.json(*command.split()) == answer


def test_a_relay_that_dies_with_an_import(relay: Runner, short: Path) -> None:
    """The same import may simply be repeated, and that is said."""
    relay("bucket", "create", "orders")
    with serving(relay.data) as server:
        made = relay.json("bucket", "show", "orders")
        server.send(made["inputs"][0]["id"], b"1")
        exported = relay("export", "orders").stdout
    with locked(relay.data, short / "s"), pretending(short / "s", [INFO, {"result": [made]}, None]):
        said = relay.refused("import", "orders", input=exported)
    assert "line" in said
    assert "the relay stopped before it answered. Importing the same again adds the rest" in said


@pytest.mark.parametrize(("command", "once"), [("token revoke KEY", True), ("token list", False)])
def test_a_relay_that_is_slow_with_a_command(
    relay: Runner, short: Path, monkeypatch: pytest.MonkeyPatch, command: str, once: bool
) -> None:
    """It has the command, and may do what that changes when nobody waits any more: that is said."""
    monkeypatch.setattr(answers, "ANSWER", 0.1)
    over = threading.Event()
    with locked(relay.data, short / "s"), pretending(short / "s", [INFO, over]):
        said = relay.refused(*command.split())
        over.set()
    assert "did not answer in time" in said
    assert ("This may be done all the same: check before you repeat it" in said) is once


def test_the_doctor_of_a_relay_that_does_not_answer(
    relay: Runner, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is a finding which fails, beside those about the machine."""
    monkeypatch.setattr(client, "PATIENCE", 0.01)
    relay.json("bucket", "create", "orders")
    with locked(relay.data, short / "s"):
        answer = relay("doctor", "--idle", "0", "--json")
    assert answer.exit_code == 3
    found = {each["name"]: each for each in json.loads(answer.stdout)}
    assert (found["control"]["level"], found["database"]["level"]) == ("fail", "ok")


def test_a_file_of_another_user_in_place_of_the_directory(relay: Runner) -> None:
    """Root is not told to be root."""
    needs_root("it gives a file to another user")
    relay.data.touch()
    os.chown(relay.data, 65534, 65534)
    answer = relay("bucket", "list")
    assert answer.exit_code == 1
    assert f"there is no relay's data in {relay.data}" in answer.stderr


def test_another_users_directory(tmp_path: Path) -> None:
    """Who may not use it is told whose it is; no traceback, no waiting."""
    needs_root("only root can become another user")
    program = (
        "import os, sys, shutil, encodings.idna, relay_tornado.cli.bucket as bucket, relay_tornado.cli.entry as entry\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "entry.main(['bucket', 'list', '--data', sys.argv[1]])"
    )
    with tempfile.TemporaryDirectory() as folder:
        for data, mode, words in (
            (folder, 0o700, "belongs to another user (uid 0)"),
            (f"{folder}/a", 0o700, "can't be reached"),
        ):
            Path(folder).chmod(mode)
            run = subprocess.run([sys.executable, "-c", program, data], capture_output=True, text=True, timeout=TIMEOUT)
            assert (run.returncode, run.stdout) == (1, "")
            assert words in run.stderr
            assert run.stderr.count("\n") == 1
