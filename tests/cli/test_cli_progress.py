"""How far a long command is, on a terminal and elsewhere."""

from __future__ import annotations

import os
import re
import sys

import pytest

from relay_tornado.cli import progress
from tests.cli.terminal import on_terminal

SAYING = """
from relay_tornado.cli.progress import show_progress

with show_progress(False) as progress:
    progress("waiting", 0, 0)
    progress("the target answered [/red] and [bold]more", 1, 4)
"""


def test_a_bar_shows_words_as_they_are() -> None:
    """What looks like rich's markup is none: a target's own words may stand there."""
    seen, status = on_terminal([sys.executable, "-c", SAYING], os.environ, columns=120)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)  # without what moves the cursor, and colours
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
