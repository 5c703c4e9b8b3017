"""`relay forward`: what it refuses, and what it prints."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from relay_tornado.cli.screen import Screen
from tests.cli.runner import Runner
from tests.cli.server import serving
from tests.cli.terminal import Terminal

URL = "http://localhost:3000"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "Missing argument 'BUCKET'"),
        (("orders", "localhost:3000"), "no URL like http://localhost:3000/hooks"),
        (("orders", "http://"), "no URL like"),
        (("orders", "http://a..b/"), "no host that can be looked up"),
        (("orders", URL, "--header", "X-Key"), 'write it like "X-Api-Key: value"'),
        (("orders", URL, "--header", "X Key: a"), 'write it like "X-Api-Key: value"'),
        (("orders", URL, "--header", "Content-Length: 1"), "belongs to the connection"),
        (("orders", URL, "--since", "yesterdy"), "last:100"),
        (("orders", URL, "--concurrency", "0"), "--concurrency"),
        (("orders", URL, "--timeout", "soon"), "30s"),
        (("orders", URL, "--filter", "{"), "is no JSON"),
        (("orders", "--lock-path"), "--lock-path is about URL"),
        (("orders", URL, "--stock", "--since", "earliest"), "--stock sends none"),
        (("orders", URL, "--stock", "--filter", "header:X=Y"), "--stock sends none"),
    ],
)
def test_wrong_command_lines(relay: Runner, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """Each says what to write instead, before anything is done."""
    said = relay.misused("forward", *arguments, XDG_STATE_HOME=str(tmp_path / "state"))
    assert words in " ".join(said.split())
    assert not (tmp_path / "state").exists()


def test_no_relay_runs(relay: Runner, tmp_path: Path) -> None:
    """On a data directory without a running relay it says so."""
    relay.json("bucket", "create", "orders")
    words = relay.refused("forward", "orders", URL, XDG_STATE_HOME=str(tmp_path / "state"))
    assert "relay serve" in words


def test_an_output_that_is_not_there(relay: Runner, tmp_path: Path) -> None:
    """Whoever waits for the copies for an output that gets none is told at the start, here and at a URL."""
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    relay.json("bucket", "create", "orders")
    relay.json("output", "create", "orders", "--name", "shop", "--public", "--destination", "https://shop.example.org/")
    relay.json("output", "create", "orders", "--name", "worker")
    with serving(relay.data) as server:
        for place in ({}, server.variables):
            said = relay.refused("forward", "orders", URL, "--output", "nope", **place, **state)
            assert said == "there is no output 'nope' in orders: it has shop, worker"
            said = relay.refused("forward", "orders", URL, "--output", "shop", **place, **state)
            assert said.startswith("the output 'shop' of orders is public")
    assert not (tmp_path / "state").exists()


def test_a_bucket_without_a_destination(relay: Runner, tmp_path: Path) -> None:
    """Without URL it is said that nothing says where its events go, with commands that can be pasted."""
    relay.json("bucket", "create", "my orders")
    with serving(relay.data):
        said = " ".join(relay.misused("forward", "my orders", XDG_STATE_HOME=str(tmp_path / "state")).split())
    assert "`relay forward 'my orders' http://localhost:3000`" in said
    assert "`relay output create 'my orders' --destination URL`" in said


def test_a_key_needs_a_secret(relay: Runner, tmp_path: Path) -> None:
    """--key is for a relay at --url."""
    said = relay.misused("forward", "orders", URL, "--key", "k", XDG_STATE_HOME=str(tmp_path / "state"))
    assert "--key goes with --url" in said


def test_other_commands_start_without_an_http_client() -> None:
    """What sends requests is imported when something is to be sent."""
    code = (
        "import sys, importlib; from relay_tornado.cli.entry import Commands\n"
        "for module, _ in Commands.places.values(): importlib.import_module(module.partition(':')[0])\n"
        "print(*sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = run.stdout.split()
    assert "click" in loaded
    assert not [each for each in loaded if each.startswith(("relay_tornado.agent", "websockets"))]


def test_lines_stand_above_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal each line takes the status away and puts it back; it is cut to the width."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    screen = Screen()
    screen.status("connected")
    screen.line("one")
    screen.status("x" * 99)
    screen.status("")
    assert terminal.getvalue() == "connected\r\x1b[Kone\nconnected\r\x1b[K" + "x" * 19 + "\r\x1b[K"


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_terminal_that_is_gone(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Its window was closed, and the command goes on, as after `disown`: whatever it says, nothing is raised."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", io.StringIO())
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        monkeypatch.setattr(sys, name, terminal)
        screen = Screen()
        screen.status("connected")
        os.close(ours)
        screen.line("one")
        screen.note("two")
        screen.status("away")
        screen.line("three")
        screen.close()
        assert not screen.live


def test_no_status_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets lines alone."""
    screen = Screen()
    assert not screen.live
    screen.status("connected")
    screen.line("one")
    assert capsys.readouterr().out == "one\n"
