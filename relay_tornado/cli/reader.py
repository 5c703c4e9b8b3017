"""Notices that whoever reads the standard output has left, while nothing is written there that would tell."""

from __future__ import annotations

import os
import select
import signal
import stat
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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
