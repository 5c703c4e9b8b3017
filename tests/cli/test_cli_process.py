"""Commands as processes of their own: what they ask at a terminal, how they end, and how fast they start."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from relay_tornado import __version__
from tests.acceptance.relay import TIMEOUT, Relay
from tests.cli.owners import locked
from tests.cli.owners import server as server
from tests.needs import first_process
from tests.serving import RELAY


@pytest.mark.parametrize("blocked", [(), (signal.SIGINT,)], ids=["", "blocked by its parent"])
def test_ctrl_c_ends_a_command_clean(tmp_path: Path, blocked: tuple[signal.Signals, ...]) -> None:
    """Exit code 130 and a line, no traceback."""
    relay = Relay(tmp_path / "data")
    relay.command("bucket", "create", "orders")
    with locked(relay.data):
        command = [*RELAY, "bucket", "list"]
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        process = subprocess.Popen(
            command, env=relay.environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        with process:
            assert process.stderr is not None
            first = process.stderr.readline()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=TIMEOUT)
    assert first.startswith("relay: waiting for it")
    assert (process.returncode, out, err) == (130, "", "relay: stopped\n")


INTERRUPTED = """
import importlib.abc, os, signal, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, *_):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from relay_tornado.cli import main
main(sys.argv[2:])
"""
"""A relay that gets Ctrl-C when it imports the module of that name."""


@pytest.mark.parametrize("module", ["click", "relay_tornado.cli.flags", "relay_tornado.cli.serve"])
def test_ctrl_c_while_it_is_loaded(tmp_path: Path, module: str) -> None:
    """The signal ends it without a word."""
    command = [sys.executable, "-c", INTERRUPTED, module, "serve", "--port", "0", "--data", str(tmp_path / "data")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stdout, run.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("module", ["click", "relay_tornado.cli.serve"])
def test_ctrl_c_while_the_first_process_of_a_container_is_loaded(tmp_path: Path, module: str) -> None:
    """No signal that it does not handle would end it."""
    command = [sys.executable, "-c", INTERRUPTED, module, "serve", "--help"]
    run = subprocess.run([*first_process(), *command], capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stdout, run.stderr) == (128 + signal.SIGINT, "", "")


def test_ctrl_c_that_is_ignored_while_it_is_loaded(tmp_path: Path) -> None:
    """A command in the background of a script, where Ctrl-C is ignored, goes on."""
    command = [sys.executable, "-c", INTERRUPTED, "relay_tornado.cli.serve", "serve", "--help"]
    run = subprocess.run(
        command,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN) and None,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert run.returncode == 0, run.stderr
    assert "Run the relay" in run.stdout


def test_ctrl_c_with_nowhere_to_say_so(tmp_path: Path) -> None:
    """Its exit code is the same, as with standard error on a full disk."""
    file = tmp_path / "orders.toml"
    os.mkfifo(file)
    command = [*RELAY, "apply", str(file)]
    with Path("/dev/full").open("w") as full:
        process = subprocess.Popen(command, env=Relay(tmp_path / "data").environment(), stderr=full)
    with process, file.open("w"):  # which is read by now
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT) == 130


def at_terminal(relay: Relay, *arguments: str, typed: bytes) -> tuple[int, str, str, str]:
    """Runs a command whose standard input is a terminal; returns its exit code, stdout, stderr, and what was echoed."""
    terminal, keyboard = os.openpty()
    command = [*RELAY, *arguments]
    process = subprocess.Popen(
        command,
        env=relay.environment(),
        stdin=keyboard,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    with process:
        assert process.stderr is not None
        asked = process.stderr.read(1)
        os.write(terminal, typed)
        out, err = process.communicate(timeout=TIMEOUT)
    os.close(keyboard)
    echoed = b""
    with contextlib.suppress(OSError):
        while part := os.read(terminal, 1000):
            echoed += part
    os.close(terminal)
    return process.returncode, out.decode(), (asked + err).decode(), echoed.decode()


def test_somebody_is_asked_before_a_bucket_goes(tmp_path: Path) -> None:
    """At a terminal the question comes on stderr; no and Ctrl-D delete nothing, yes does."""
    relay = Relay(tmp_path / "data")
    relay.command("bucket", "create", "orders")
    for typed, code, words in ((b"n\n", 1, "relay: nothing was deleted"), (b"\x04", 130, "relay: stopped")):
        returned, out, err, _ = at_terminal(relay, "bucket", "delete", "orders", typed=typed)
        assert (returned, out) == (code, "")
        assert "Delete the bucket 'orders' and every event in it?" in err
        assert words in err
        assert "Traceback" not in err
    returned, out, _, _ = at_terminal(relay, "bucket", "delete", "orders", typed=b"y\n")
    assert returned == 0
    assert out.startswith("Deleted the bucket orders")
    assert relay.command("bucket", "list") == []


def test_somebody_is_asked_before_a_file_deletes(tmp_path: Path) -> None:
    """`apply --prune` at a terminal prints what it would do, and tells how much goes with it; no changes nothing."""
    relay = Relay(tmp_path / "data")
    relay.command("bucket", "create", "orders")
    file = tmp_path / "relay.toml"
    file.write_text("[buckets.billing]\n")
    returned, out, err, _ = at_terminal(relay, "apply", str(file), "--prune", typed=b"n\n")
    assert returned == 1
    assert [line[0] for line in out.splitlines()] == ["-", "+"]
    assert "Delete 1 thing, and every event in 1 bucket?" in err
    assert "relay: nothing was changed" in err
    assert [each["name"] for each in relay.command("bucket", "list")] == ["orders"]


def test_a_secret_that_is_typed_is_not_shown(tmp_path: Path) -> None:
    """`--password -` at a terminal asks on stderr, and echoes nothing."""
    relay = Relay(tmp_path / "data")
    arguments = ("bucket", "create", "orders", "--auth", "basic", "--username", "u", "--password", "-")
    returned, out, err, echoed = at_terminal(relay, *arguments, typed=b"hunter2\n")
    assert returned == 0, err
    assert err.startswith("Password: ")
    assert "hunter2" not in out + err + echoed
    assert relay.command("bucket", "show", "orders")["auth"]["password"] == "hunter2"


def test_a_reader_that_leaves_early(tmp_path: Path) -> None:
    """`relay bucket list | head -1` ends without a traceback."""
    relay = Relay(tmp_path / "data")
    relay.command("bucket", "create", "orders")
    command = f"{sys.executable} -m relay_tornado bucket list --json | exec 0<&-"
    run = subprocess.run(command, shell=True, env=relay.environment(), capture_output=True, text=True, timeout=TIMEOUT)
    assert run.stderr == ""


IMPORTS = """
import sys
from relay_tornado.cli import main
main(sys.argv[1:], standalone_mode=False)
heavy = {"tornado", "rich", "aiosqlite", "sqlite3", "marshmallow", "asyncio", "structlog", "websockets"}
print(sorted(heavy & set(sys.modules)), file=sys.stderr)
"""


@pytest.mark.parametrize("arguments", [("--help",), ("bucket", "create", "--help"), ("bucket", "list", "--json")])
def test_commands_start_fast(server: Relay, arguments: tuple[str, ...]) -> None:
    """Help, and a command that finds a relay running, import none of what takes time."""
    command = [sys.executable, "-c", IMPORTS, *arguments]
    run = subprocess.run(command, env=server.environment(), capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stderr) == (0, "[]\n")


def test_the_relays_own_code_takes_no_rich_along(tmp_path: Path) -> None:
    """What logs takes structlog alone; who prints a table finds rich all the same."""
    environment = Relay(tmp_path / "data").environment()
    taken = []
    for arguments in (("bucket", "create", "orders"), ("serve", "--help"), ("bucket", "list")):
        command = [sys.executable, "-c", IMPORTS, *arguments]
        run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT)
        assert run.returncode == 0, run.stderr
        modules = run.stderr.splitlines()[-1]
        taken.append(("structlog" in modules, "rich" in modules))
    assert taken == [(True, False), (True, False), (True, True)]


COLLECTIONS = """
import gc, sys
from relay_tornado.cli import main

name, *arguments = sys.argv[1:]
meanwhile = []

def note(phase, info):
    module = sys.modules.get(name)
    if phase == "start" and module is not None and module.__spec__._initializing:
        meanwhile.append(info["generation"])

gc.callbacks.append(note)
main(arguments, standalone_mode=False)
print(name in sys.modules, len(meanwhile), gc.isenabled(), gc.get_freeze_count() > 10_000, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("relay_tornado.app", ("serve", "--help")), ("relay_tornado.engine", ("bucket", "list", "--json"))],
)
def test_no_garbage_is_collected_during_the_largest_imports(
    tmp_path: Path, module: str, arguments: tuple[str, ...]
) -> None:
    """Later collections, which take place again, leave out what was imported."""
    relay = Relay(tmp_path / "data")
    relay.command("bucket", "create", "orders")
    command = [sys.executable, "-c", COLLECTIONS, module, *arguments]
    run = subprocess.run(command, env=relay.environment(), capture_output=True, text=True, timeout=TIMEOUT)
    # Before that, a start that is slow, as on a busy machine, says so.
    assert (run.returncode, run.stderr.splitlines()[-1]) == (0, "True 0 True True")


def test_the_module_is_the_command() -> None:
    """`python -m relay_tornado` is `relay`."""
    command = [*RELAY, "--version"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert (run.returncode, run.stdout) == (0, f"relay {__version__}\n")
