"""Lines that come one by one, with a line below them on a terminal that says how it stands."""

from __future__ import annotations

import shutil
import sys
from typing import IO

import click

from relay_tornado.cli.output import note

_CLEAR = "\r\x1b[K"


class Screen:
    """Lines go to stdout, notes to stderr, and the status stays the last line of whichever of them is a terminal."""

    def __init__(self) -> None:
        self._place: IO[str] | None = next((each for each in (sys.stdout, sys.stderr) if each.isatty()), None)
        self._status = ""

    @property
    def live(self) -> bool:
        """Whether somebody sees the status."""
        return self._place is not None

    def line(self, text: str) -> None:
        """A line on stdout, at once also for a pipe."""
        self._clear()
        click.echo(text)
        sys.stdout.flush()
        self._draw()

    def note(self, text: str) -> None:
        """A line for people on stderr."""
        self._clear()
        note(text)
        self._draw()

    def status(self, text: str) -> None:
        """What the last line says from now on, "" for nothing."""
        if self._place is not None and text != self._status:
            self._clear()
            self._status = text
            self._draw()

    def _clear(self) -> None:
        if self._place is not None and self._status:
            self._place.write(_CLEAR)
            self._place.flush()

    def _draw(self) -> None:
        if self._place is not None and self._status:
            self._place.write(self._status[: shutil.get_terminal_size().columns - 1])
            self._place.flush()
