"""docs/operations.md does what it says: its commands, in the order in which they stand there, in one shell.

A block of shell is run. One marked `server` runs until the next of its kind or `stop`; one marked `root` is only looked
at, for it needs root, systemd or the network. Directories of the system are some below the test's own.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.needs import needs
from tests.ports import hold_port, port_of

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "operations.md"
TIMEOUT = 60.0


class Block(NamedTuple):
    line: int
    mark: str
    text: str


def blocks() -> list[Block]:
    page = PAGE.read_text()
    found = re.finditer(r"^```sh ?(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [Block(page[: each.start()].count("\n") + 1, each[1], each[2]) for each in found]


class Shell:
    """One bash for the whole page, as somebody would type it."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self._server: int | None = None
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("RELAY_", "SSL_"))}
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-u"],
            cwd=folder,
            env=kept | {"RELAY_PORT": str(port), "HOME": str(folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def moved(self, text: str) -> str:
        """The text with the test's own directories, port and user."""
        text = text.replace("/opt/relay/bin", str(Path(sys.executable).parent))
        for path in ("/etc/relay", "/var/lib/relay", "/var/backups/relay"):
            text = text.replace(path, f"{self._folder}{path}")
        text = text.replace("-o relay -g relay ", "")
        return text.replace(":8080", f":{self._port}")

    def run(self, text: str) -> str:
        """Runs the block; what it printed. Fails where one of its commands does."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.write(f"set -e -o pipefail\n{self.moved(text)}\nset +e\necho '[done]'\n")
        self._bash.stdin.flush()
        said = []
        for line in self._bash.stdout:
            if line == "[done]\n":
                return "".join(said)
            said.append(line)
        raise AssertionError(f"it failed: {text}\n{''.join(said)}")

    def follow(self, block: Block) -> str:
        """Does what a block says; what it printed, "" if that is a server."""
        if block.mark == "server":
            self.start(block.text)
        elif block.mark == "stop":
            self.stop()
        else:
            return self.run(block.text)
        return ""

    def start(self, text: str) -> None:
        """Runs the server, and waits until it listens."""
        self.stop()
        out = self._folder / "server.out"
        out.write_text("")
        self._server = int(self.run(f"{text.strip()} >{out} 2>&1 &\necho $!").split()[-1])
        deadline = time.monotonic() + TIMEOUT
        while "listening on http" not in out.read_text():
            assert Path(f"/proc/{self._server}").exists(), out.read_text()
            assert time.monotonic() < deadline, out.read_text()
            time.sleep(0.02)

    def stop(self) -> None:
        if self._server is not None:
            os.kill(self._server, signal.SIGTERM)
            self.run(f"wait {self._server}")
            self._server = None

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._bash.pid, signal.SIGKILL)
        self._bash.wait(TIMEOUT)
        for pipe in (self._bash.stdin, self._bash.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()


@pytest.fixture
def shell(disk_path: Path) -> Iterator[Shell]:
    (disk_path / "var" / "lib").mkdir(parents=True)
    with hold_port() as held:
        made = Shell(disk_path, port_of(held))
        yield made
        made.end()


def test_every_command_in_the_order_that_it_stands_there(shell: Shell) -> None:
    """Whoever follows the page from top to bottom meets no error, and ends with a relay that is sound."""
    needs("curl", "apt-get install curl")
    needs("openssl", "apt-get install openssl")
    said = [shell.follow(block) for block in blocks() if block.mark != "root"]
    assert '"status": "ready"' in said[-1]
    shell.stop()


def test_an_upgrade_leaves_nothing_of_the_old_version(tmp_path: Path) -> None:
    """By the lines of the page a program is built anew where an older one was built before."""
    (lines,) = [block.text.splitlines() for block in blocks() if "git pull" in block.text]
    pip = f"{shlex.quote(sys.executable)} -m pip wheel --quiet --no-index --no-build-isolation --wheel-dir wheels"
    commands = [
        line.replace("/opt/relay/bin/pip install", pip)
        for line in lines
        if line.startswith("rm ") or " . " in f"{line} "
    ]
    assert sum(pip in line for line in commands) == 1
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "schema.sql"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "relay_tornado", tmp_path / "relay_tornado", symlinks=True)
    old = tmp_path / "relay_tornado" / "of_the_old_version.py"
    held = []
    for make in (old.touch, old.unlink):
        make()
        subprocess.run("\n".join(commands), shell=True, cwd=tmp_path, check=True, timeout=TIMEOUT)
        (wheel,) = (tmp_path / "wheels").iterdir()
        with zipfile.ZipFile(wheel) as packed:
            held.append([name for name in packed.namelist() if old.name in name])
    assert held == [[f"relay_tornado/{old.name}"], []]


def test_nothing_is_installed_without_a_hash() -> None:
    """Neither what the relay needs nor, for its own build, what makes a wheel of it."""
    installs = [line for block in blocks() for line in block.text.splitlines() if "pip install" in line]
    assert installs
    for line in installs:
        assert "--require-hashes" in line or {"--no-deps", "--no-build-isolation"} < set(line.split())
    assert "\nsetuptools==" in (ROOT / "requirements-serve.lock").read_text()


def test_a_file_that_was_deleted_under_a_running_relay_is_saved(shell: Shell) -> None:
    """The steps of RelayNotReady, where there is what they are for."""
    needs("curl", "apt-get install curl")
    page = PAGE.read_text()
    begins = page[: page.index("### RelayNotReady")].count("\n")
    ends = page[: page.index("### RelayEventsMissing")].count("\n")
    shell.run("export PATH=/opt/relay/bin:$PATH RELAY_DATA=/var/lib/relay")
    shell.start("relay serve")
    shell.run("relay bucket create orders\nrm /var/lib/relay/relay.db")
    said = [shell.follow(block) for block in blocks() if begins < block.line < ends]
    assert "relay.db (deleted)" in said[0]
    assert '"status": "ready"' in said[-1]
    assert "orders" in shell.run("relay bucket list")
    shell.stop()


def test_what_is_not_run_names_what_there_is() -> None:
    """The blocks that need root are good shell, and the files that they name are in the repository."""
    marked = [block for block in blocks() if block.mark in ("root", "stop")]
    assert {block.mark for block in blocks()} == {"", "server", "stop", "root"}
    for block in marked:
        subprocess.run(["bash", "-n"], input=block.text, text=True, check=True, timeout=60)
        for name in re.findall(r"(?<![\w/.])(?:deploy/[\w./-]+|requirements\.lock)", block.text):
            assert (ROOT / name).is_file(), f"line {block.line} names {name}"


def test_files_that_it_names_are_there() -> None:
    """Those of deploy/."""
    for name in re.findall(r"`(deploy/[\w./-]+)`", PAGE.read_text()):
        assert (ROOT / name).exists(), name
