"""The standard streams, where whoever started the program closed one of them (`>&-`), and what they can't show."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Final

_STREAMS: Final = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))
_closed: set[str] = set()


def open_closed() -> None:
    """Puts /dev/null in the place of each one that is closed: else what is opened next has its number, and is written
    to by whatever prints."""
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest number that is free, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # open as long as we run


def escape_unknown() -> None:
    """Has what the terminal's encoding does not know, as in a locale of ISO-8859-1, printed as an escape."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def is_closed(name: str) -> bool:
    """Whether this one ("stdout") was closed when the program began."""
    return name in _closed
