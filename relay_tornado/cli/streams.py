"""Handles standard streams that are closed (`>&-`), whose reader has left, or whose encoding lacks characters."""

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
    """Opens /dev/null for each closed stream: otherwise the next opened file would get its number, and what is printed
    would go there."""
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            os.set_inheritable(number, True)
        if getattr(sys, name) is None:
            _closed.add(name)
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # open as long as we run


def escape_unknown() -> None:
    """Makes stdout print characters that its encoding lacks (as in a locale of ISO-8859-1) as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="backslashreplace")


def is_closed(name: str) -> bool:
    """Whether the stream ("stdout") was closed when the program began."""
    return name in _closed


@contextmanager
def ended_with_reader() -> Iterator[None]:
    """If stdout is a pipe, sends SIGTERM to the main thread, which has to be the caller's, once the pipe's reader ends.

    Otherwise `relay listen | head -n 1` would go on until the next event.
    """
    try:
        output = sys.stdout.fileno()
        piped = stat.S_ISFIFO(os.fstat(output).st_mode)
    except (OSError, ValueError, AttributeError):  # closed, or not a file
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
