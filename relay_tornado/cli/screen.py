"""Prints lines one by one, with a status below them on a terminal."""

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
    """Lines go to stdout and notes to stderr; the status stays the last line of whichever of them is a terminal. If
    lines can't be written, that is noted once, and work goes on; `left` is called if the reader of stdout has left."""

    def __init__(self) -> None:
        self.left: Callable[[], None] = lambda: None
        self._mute = False
        """Whether the line before could not be written."""
        self._place: IO[str] | None = next((each for each in (sys.stdout, sys.stderr) if each.isatty()), None)
        self._status = ""

    @property
    def live(self) -> bool:
        """Whether the status is shown."""
        return self._place is not None

    def line(self, text: str) -> None:
        """Prints a line on stdout, and flushes it."""
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
                self.note(f"{STDOUT}: {file_words(error)}; lines are left out until it can be written again")
        self._draw()

    def note(self, text: str) -> None:
        """Prints a line on stderr."""
        self._clear()
        note(text)
        self._draw()

    def close(self) -> None:
        """Removes the status."""
        self.status("")
        if self._mute:
            drop_output()

    def status(self, text: str) -> None:
        """Sets the status; "" removes it."""
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
        """Writes to the terminal; if it is gone, nothing more is written."""
        if self._place is not None:
            try:
                self._place.write(text)
                self._place.flush()
            except OSError:
                place, self._place = self._place, None
                drop_output(place)
