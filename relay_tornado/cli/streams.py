"""The standard streams, where one of them was closed (`>&-`) or its reader has left, and what they can't show."""

from __future__ import annotations

import io
import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def ended_with_reader() -> Iterator[None]:
    """Where the standard output is a pipe, its reader's end is a SIGTERM to the main thread, which is the caller's.

    As in `relay listen | head -n 1`, which would wait for the next event otherwise, however long that takes.
    """
    try:
        output = sys.stdout.fileno()
        piped = stat.S_ISFIFO(os.fstat(output).st_mode)
    except (OSError, ValueError, AttributeError):  # it is closed, or no file
        piped = False
    if not piped:
        yield
        return
    main = threading.get_ident()
    ours, theirs = os.pipe()

    def watch() -> None:
        poll = select.poll()
        poll.register(output, 0)
        poll.register(ours, select.POLLIN)
        if any(descriptor == output for descriptor, _ in poll.poll()):
            signal.pthread_kill(main, signal.SIGTERM)

    thread = threading.Thread(target=watch, name="reader", daemon=True)
    thread.start()
    try:
        yield
    finally:
        os.write(theirs, b"\0")
        thread.join()
        os.close(ours)
        os.close(theirs)
