"""`relay serve` whose start takes long: what it says on stderr, and to the service manager."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import sys
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from relay_tornado.storage.wal_check import in_file
from tests.ops.filling import fill
from tests.serving import TIMEOUT, Served, served

SLOW = """
import os, sys, time
from relay_tornado.cli import slow_steps
slow_steps.SLOW, slow_steps._TICK, slow_steps._LOOK = {slow}, 0.01, 0.01
def wait():
    while not os.path.exists("go on"):
        time.sleep(0.01)
{when}
from relay_tornado.cli.entry import main
main()
"""
"""A relay that waits at some place until there is a file."""

LOADING = """
import importlib
load = importlib.import_module
importlib.import_module = lambda name, *more: (wait() if name.endswith("cli.serve") else None, load(name, *more))[1]
"""
CHECKING = """
from relay_tornado.storage import start
look = start.look
start.look = lambda path: (wait(), look(path))[1]
"""
COPYING = """
from relay_tornado.storage.transaction import Transactions
copy = Transactions.copy
Transactions.copy = lambda *given: (wait(), copy(*given))[1]
"""


@pytest.fixture
def manager() -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{uuid.uuid4().hex}")
        listening.settimeout(TIMEOUT)
        yield listening


def address(manager: socket.socket) -> str:
    return f"@{manager.getsockname()[1:].decode()}"


def hear(manager: socket.socket, beginning: str) -> str:
    while True:
        state = manager.recv(4096).decode()
        if state.startswith(beginning):
            return state


def program(when: str, slow: float = 0.05) -> list[str]:
    return [sys.executable, "-W", "error", "-c", SLOW.format(when=when, slow=slow)]


def go_on(tmp_path: Path) -> None:
    (tmp_path / "go on").touch()


def test_a_program_that_takes_long_to_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: socket.socket
) -> None:
    """As on a machine that is short of processor time, where systemd would give up before it listens."""
    monkeypatch.setattr(Served, "program", program(LOADING))
    with served(tmp_path, NOTIFY_SOCKET=address(manager)) as relay:
        line = json.loads(relay.wait_for(r"\A{.*}\n")[0])
        assert (line["event"], line["step"], line["level"]) == ("start_takes_long", "loading the program", "warning")
        assert manager.recv(4096) == b"EXTEND_TIMEOUT_USEC=300000000"
        assert hear(manager, "STATUS=").startswith("STATUS=starting: loading the program (")
        go_on(tmp_path)
        assert relay.url() in hear(manager, "READY=1")
        assert relay.end() == 0


def test_a_check_that_takes_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manager: socket.socket) -> None:
    """The log names the step. A stop asks for the time that it may take."""
    fill(tmp_path / "relay-data", "orders", 1)
    monkeypatch.setattr(Served, "program", program(CHECKING))
    with served(tmp_path, NOTIFY_SOCKET=address(manager)) as relay:
        relay.wait_for('"start_takes_long"')
        assert hear(manager, "STATUS=starting: checking")
        go_on(tmp_path)
        relay.url()
        assert relay.end() == 0
        assert hear(manager, "STOPPING=1") == "STOPPING=1\nSTATUS=stopping, within 23 s\nEXTEND_TIMEOUT_USEC=23000000"
    lines = [json.loads(line) for line in relay.err.read_text().splitlines()]
    slow = [line for line in lines if line["event"] == "start_takes_long"]
    assert {(line["level"], line["step"]) for line in slow} >= {
        ("warning", "checking relay.db and its write-ahead log")
    }


def leave_wal(data: Path, commits: int) -> int:
    """Makes `data` with a WAL of so many commits, as a kill leaves it. Returns the number of all commits."""
    made = data.with_name("made")
    fill(made, "orders", 1)
    with closing(sqlite3.connect(made / "relay.db", isolation_level=None)) as raw:
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        raw.execute("PRAGMA synchronous = OFF")
        for _ in range(commits):
            raw.execute("UPDATE meta SET commits = commits + 1")
        shutil.copytree(made, data)
        (data / "relay.db-shm").unlink()
        found: int = raw.execute("SELECT commits FROM meta").fetchone()[0]
        return found


def test_a_long_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is copied into relay.db before senders are let in: they would wait for that."""
    data = tmp_path / "relay-data"
    commits = leave_wal(data, 1100)
    assert in_file(data / "relay.db")[0].commits == commits - 1100
    monkeypatch.setattr(Served, "program", program(COPYING))
    with served(tmp_path) as relay:
        relay.wait_for('"step": "copying 4 MiB of the write-ahead log into relay.db"')
        assert in_file(data / "relay.db")[0].commits == commits - 1100
        assert "listening" not in relay.stdout
        go_on(tmp_path)
        relay.url()
        assert in_file(data / "relay.db")[0].commits >= commits
        assert relay.end() == 0
