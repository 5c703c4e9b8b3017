"""How far a long command is, on a terminal and elsewhere."""

from __future__ import annotations

import os
import pty
import re
import sys

import pytest

from relay_tornado.cli import progress

SAYING = """
from relay_tornado.cli.progress import show_progress

with show_progress(False) as progress:
    progress("waiting", 0, 0)
    progress("the target answered [/red] and [bold]more", 1, 4)
"""


def on_a_terminal(*command: str) -> tuple[int, str]:
    """The exit code, and what the terminal got, without what moves the cursor and colours."""
    pid, descriptor = pty.fork()
    if pid == 0:  # pragma: no cover
        os.environ["TERM"] = "xterm"
        os.environ["COLUMNS"] = "120"
        os.execv(sys.executable, [sys.executable, *command])
    got = b""
    while True:
        try:
            data = os.read(descriptor, 1 << 16)
        except OSError:  # the other end is closed
            break
        if not data:
            break
        got += data
    os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", got.decode())


def test_a_bar_shows_words_as_they_are() -> None:
    """What looks like rich's markup is none: a target's own words may stand there."""
    status, shown = on_a_terminal("-c", SAYING)
    assert status == 0, shown
    assert "the target answered [/red] and [bold]more" in shown
    assert "25 %" in shown


def test_lines_elsewhere(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A line now and then where stderr is no terminal, and none beside a JSON document."""
    monkeypatch.setattr(progress, "LINES", 0.0)
    for as_json in (False, True):
        with progress.show_progress(as_json) as tell:
            tell("copying", 1, 4)
            tell("looking", 0, 0)
    assert capsys.readouterr().err == "relay: copying: 25 %\nrelay: looking\n"
