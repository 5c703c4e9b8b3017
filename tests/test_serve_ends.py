"""How `relay serve` ends: in order and in time, whatever is in its way."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.relay import wait_for
from tests.needs import first_process
from tests.ops.filling import fill
from tests.serving import RELAY, TIMEOUT, Served, served, shell
from tests.storage.witnesses import lead

SILENT = """
import socket, sys, threading
real = socket.getaddrinfo
def getaddrinfo(*asked, **more):
    if asked[0] == "silent.test" and not asked[5] & socket.AI_NUMERICHOST:
        print("looking it up", file=sys.stderr, flush=True)
        threading.Event().wait()
    return real(*asked, **more)
socket.getaddrinfo = getaddrinfo
from relay_tornado.cli.entry import main
main()
"""
"""A relay for which the servers of one name never answer."""

LOADING = """
import importlib, time
from relay_tornado.cli import entry
def load(name):
    print("loading it", flush=True)
    time.sleep(600)
importlib.import_module = load
entry.main()
"""
"""A relay whose parts take their time to be loaded."""

CHECKING = """
import sqlite3, sys
class Endless(sqlite3.Connection):
    def execute(self, sql, *given):
        if sql.startswith("PRAGMA integrity_check"):
            print("checking it", file=sys.stderr, flush=True)
            sql = "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"
        return super().execute(sql, *given)
connect = sqlite3.connect
sqlite3.connect = lambda *given, **options: connect(*given, **({"factory": Endless} | options))
from relay_tornado.cli.entry import main
main()
"""
"""A relay whose check of a file that lost commits has no end."""

LOST = """
import asyncio, threading
from relay_tornado.app import Relay
from relay_tornado.cli import entry, serve
async def never():
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            pass
async def start(self, start=Relay.start):
    await start(self)
    {lose}
def unbegun(*arguments, end=serve._end_within):
    threading.Thread._bootstrap_inner = lambda self: None
    end(*arguments)
Relay.start = start
serve._CUT_OFF = 0.2
entry.main()
"""
"""A relay in which something is lost that the end of it waits for."""


BLOCKED = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A parent that has blocked all signals, and becomes what it starts."""


def wait_for_child(parent: int, word: str) -> int:
    """A child of this process with this word on its command line."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
            with suppress(OSError):
                if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    return pid
        time.sleep(0.002)
    raise AssertionError(f"no child has {word} on its command line")


def stop_child(parent: int, word: str) -> int | None:
    """The same one, stopped; None where it ended before that."""
    child = wait_for_child(parent, word)
    try:
        os.kill(child, signal.SIGSTOP)
    except ProcessLookupError:
        return None
    return child


@pytest.mark.parametrize(
    "lose",
    [
        "self._stack.push_async_callback(never)",
        "self.lost = asyncio.create_task(never(), name='lost')",
        "self._stack.push_async_callback(never); serve._end_within = unbegun",
        "self._stack.push_async_callback(never); serve.begin_thread = lambda work: None",
    ],
    ids=["waited for by the stop", "waited for behind it", "no memory for a thread's beginning", "a lost thread"],
)
def test_it_ends_whatever_was_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lose: str) -> None:
    """A stop that waits for what never comes is over a while after the drain's time, with 1, and the log says so; the
    next start finds all in order."""
    monkeypatch.setattr(Served, "program", [sys.executable, "-W", "error", "-c", LOST.format(lose=lose)])
    with served(tmp_path, "--drain-timeout", "0.1") as relay:
        relay.url()
        assert relay.end() == 1
        assert json.loads(relay.stderr.splitlines()[-1])["event"] == "stop_cut_off"
    monkeypatch.undo()
    with served(tmp_path) as relay:
        relay.url()
        assert relay.end() == 0
        assert "error" not in {json.loads(line)["level"] for line in relay.stderr.splitlines()}


def test_signals_that_its_parent_blocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hears them, and its own alarm."""
    lost = LOST.format(lose="self._stack.push_async_callback(never); serve._end_within = unbegun")
    monkeypatch.setattr(Served, "program", [sys.executable, "-W", "error", "-c", BLOCKED, "-W", "error", "-c", lost])
    with served(tmp_path, "--drain-timeout", "0.1") as relay:
        relay.url()
        assert relay.end() == 1
        assert json.loads(relay.stderr.splitlines()[-1])["event"] == "stop_cut_off"


def test_told_before_it_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first process of a container, too, which no signal ends that it does not handle."""
    monkeypatch.setattr(Served, "program", [*first_process(), sys.executable, "-W", "error", "-c", LOADING])
    with served(tmp_path) as unshare:
        unshare.wait_for("loading it")
        first = wait_for_child(unshare.process.pid, "serve")
        try:
            os.kill(first, signal.SIGTERM)
            assert unshare.process.wait(TIMEOUT) == 128 + signal.SIGTERM
        finally:
            with suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_while_it_checks_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The check is broken off, nothing is changed, and the next start makes it."""
    data = tmp_path / "relay-data"
    fill(data, "orders", 1)
    lead(data)

    def contents() -> dict[str, bytes]:
        """Without what two starts may have differently: who holds the lock, and who reads the file."""
        return {
            path.name: path.read_bytes() for path in data.glob("relay.*") if path.suffix not in (".lock", ".db-shm")
        }

    before = contents()
    monkeypatch.setattr(Served, "program", [sys.executable, "-W", "error", "-c", CHECKING])
    with served(tmp_path) as relay:
        relay.wait_for("checking it")
        assert relay.end(number) == 0
        assert (relay.stdout, relay.stderr) == ("", "checking it\n")
    assert contents() == before != {}
    monkeypatch.undo()
    with served(tmp_path) as relay:
        relay.url()
        assert "committed_work_lost" in relay.stderr
        assert relay.end() == 0


def test_a_backup_that_hears_nothing_holds_no_stop_up(tmp_path: Path) -> None:
    """One within a long look at its copy, as a stopped one here, is killed in time for a clean end."""
    flags = ("--backup-dir", "backups", "--backup-every", "1s", "--drain-timeout", "0")
    with served(tmp_path, *flags) as relay:
        relay.url()
        backup = wait_for(lambda: stop_child(relay.process.pid, "backup"), "a backup that has not ended yet")
        assert relay.end() == 0
        assert "stop_cut_off" not in relay.stderr
    with pytest.raises(ProcessLookupError):
        os.kill(backup, 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_second_signal_changes_nothing(tmp_path: Path, number: int) -> None:
    """Who is impatient and signals again while the relay ends gets the same clean end."""
    with served(tmp_path) as relay:
        relay.url()
        relay.process.send_signal(signal.SIGTERM)
        while relay.process.poll() is None:
            relay.process.send_signal(number)
            time.sleep(0.002)
        assert relay.process.returncode == 0


def test_the_thread_that_sees_to_an_end_takes_no_signal(tmp_path: Path) -> None:
    """In the moment in which the loop's handlers are taken away, a second signal would end the process by it."""

    def threads() -> set[Path]:
        return set(Path(f"/proc/{relay.process.pid}/task").iterdir())

    def deaf(thread: Path) -> bool:
        """Whether it takes no SIGTERM. Others may begin meanwhile, and end."""
        try:
            blocked = re.search(r"^SigBlk:\s*(\w+)", (thread / "status").read_text(), re.MULTILINE)
        except OSError:
            return False
        return blocked is not None and bool(int(blocked[1], 16) >> signal.SIGTERM - 1 & 1)

    with served(tmp_path, "--data", "data") as relay:
        port = int(relay.url().rpartition(":")[2])
        made = subprocess.run(
            [*RELAY, "bucket", "create", "b", "--data", "data", "--json"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            check=True,
        )
        path = f"/v1/webhooks/{json.loads(made.stdout)['inputs'][0]['id']}"
        with socket.create_connection(("127.0.0.1", port)) as sender:
            head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
            sender.sendall(head.encode())
            assert sender.recv(100).startswith(b"HTTP/1.1 100")
            before = threads()
            relay.process.send_signal(signal.SIGTERM)
            wait_for(lambda: any(map(deaf, threads() - before)), "a thread that takes no signal")
            sender.sendall(b"12")
            assert sender.recv(100).startswith(b"HTTP/1.1 200")
        assert relay.process.wait(TIMEOUT) == 0


def test_a_data_directory_that_is_closed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was opened serves on, the gauges among it, and the relay ends as ever."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("there is no setpriv, and root may go into any directory")
        bound = "--bounding-set=-dac_override,-dac_read_search"
        monkeypatch.setattr(Served, "program", ["setpriv", bound, *RELAY])
    data = tmp_path / "data"
    with served(tmp_path, "--data", str(data), "--metrics-port", "0") as relay:
        url = relay.url()
        port = relay.wait_for(r'"metrics_port": (\d+)')[1]
        data.chmod(0)
        try:
            for asked in (f"{url}/readyz", f"http://127.0.0.1:{port}/metrics"):
                with urllib.request.urlopen(asked, timeout=TIMEOUT) as answer:
                    assert answer.status == 200
            assert relay.end() == 0, relay.stderr
        finally:
            data.chmod(0o700)
    with served(tmp_path, "--data", str(data)) as relay:
        relay.url()
        assert relay.end() == 0


def test_a_name_whose_servers_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An output's name that is being looked up keeps the relay from no clean end, however long that takes."""
    data = shlex.quote(str(tmp_path / "relay-data"))
    for line in ("bucket create orders --json", "output create orders --public --destination http://silent.test/"):
        shell(f"{shlex.join(RELAY)} {line} --data {data}")
    shown = shell(f"{shlex.join(RELAY)} bucket show orders --json --data {data}")
    monkeypatch.setattr(Served, "program", [sys.executable, "-W", "error", "-c", SILENT])
    with served(tmp_path) as relay:
        url = f"{relay.url()}/v1/webhooks/{json.loads(shown)['inputs'][0]['id']}"
        with urllib.request.urlopen(url, b"x", timeout=TIMEOUT) as answer:
            assert answer.status == 200
        relay.wait_for("looking it up")
        assert relay.end() == 0
