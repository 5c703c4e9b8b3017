"""Lines that come one by one, with a line below them on a terminal that says how it stands."""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from typing import IO

import click

from relay_tornado.cli.errors import STDOUT, drop_output, file_words
from relay_tornado.cli.printing import note

_CLEAR = "\r\x1b[K"


class Screen:
    """Lines go to stdout, notes to stderr, and the status stays the last line of whichever of them is a terminal. What
    can't be written keeps nobody from working: it is noted once, and `left` is called where the reader of the lines has
    left."""

    def __init__(self) -> None:
        self.left: Callable[[], None] = lambda: None
        self._mute = False
        """The line before could not be written."""
        self._place: IO[str] | None = next((each for each in (sys.stdout, sys.stderr) if each.isatty()), None)
        self._status = ""

    @property
    def live(self) -> bool:
        """Whether somebody sees the status."""
        return self._place is not None

    def line(self, text: str) -> None:
        """A line on stdout, at once also for a pipe."""
        self._clear()
        try:
            click.echo(text)
            sys.stdout.flush()
            self._mute = False
        except OSError as error:
            self._mute, before = True, self._mute
            if error.errno == errno.EPIPE:
                drop_output()
                self.left()
            elif not before:
                self.note(f"{STDOUT}: {file_words(error)}; lines are left out until then")
        self._draw()

    def note(self, text: str) -> None:
        """A line for people on stderr."""
        self._clear()
        note(text)
        self._draw()

    def close(self) -> None:
        """Nothing more is shown."""
        self.status("")
        if self._mute:
            drop_output()

    def status(self, text: str) -> None:
        """What the last line says from now on, "" for nothing."""
        if self._place is not None and text != self._status:
            self._clear()
            self._status = text
            self._draw()

    def _clear(self) -> None:
        if self._status:
            self._write(_CLEAR)

    def _draw(self) -> None:
        if self._status:
            self._write(self._status[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        """A terminal that is gone gets nothing more."""
        if self._place is not None:
            try:
                self._place.write(text)
                self._place.flush()
            except OSError:
                place, self._place = self._place, None
                drop_output(place)
