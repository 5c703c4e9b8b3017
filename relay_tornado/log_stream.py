"""Writes the log, and never waits for whoever reads it.

A terminal that is stopped with Ctrl-S, a pager, or a supervisor that hangs leaves the pipe full, and a write to it
would stop the event loop. Lines are written at once while the file takes them. Otherwise they wait in memory, and a
thread writes them in order. What is more than `_MOST` lines is left out, and a line says how many.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import time
from collections import deque
from typing import IO, Final

import structlog

from relay_tornado.low_memory import begin_thread

_MOST: Final = 10_000
"""The most lines that wait."""
_LAST: Final = 1.0
"""Seconds for which the end of the process waits for lines that wait."""
_PAUSE: Final = 0.01
"""Seconds between two looks."""

_log = structlog.get_logger(__name__)


class LogHandler(logging.StreamHandler[IO[str]]):
    """Writes each record as a line to the file behind `stream`. `catching_up`: a thread writes lines that wait."""

    def __init__(self, stream: IO[str]) -> None:
        """Raises OSError and ValueError if there is no file behind it."""
        super().__init__(stream)
        self.catching_up = False
        self._file = _file_of(stream)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._left_out = 0
        # `logging.shutdown` holds the handler's own lock while `close` waits for the thread.
        self._turn = threading.RLock()

    def emit(self, record: logging.LogRecord) -> None:
        """Never waits for a reader."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            with self._turn:
                self._put(line)
        except Exception:
            if not self._waiting:  # otherwise nobody reads that either
                self.handleError(record)

    def close(self) -> None:
        """Waits a moment for the lines that wait."""
        end = time.monotonic() + _LAST
        while self._waiting and time.monotonic() < end:
            time.sleep(_PAUSE)
        super().close()

    def _put(self, line: bytes) -> None:
        # A pipe that is called writable takes so many bytes at once.
        if not self._waiting and len(line) <= select.PIPE_BUF and self._takes_a_line():
            with contextlib.suppress(BlockingIOError):  # a terminal, or another program made the file non-blocking
                line = line[os.write(self._file, line) :]
            if not line:
                return
        if len(self._waiting) >= _MOST:
            self._left_out += 1
            return
        self._waiting.append(line)
        if not self.catching_up:
            begin_thread(self._catch_up)  # if this fails, the next line tries again
            self.catching_up = True

    def _takes_a_line(self) -> bool:
        try:
            return bool(self._poll.poll(0))
        except OSError:  # the kernel has no memory for it; the thread may wait
            return False

    def _catch_up(self) -> None:
        """Runs on the thread, until nothing waits."""
        # A signal in the thread would act while the process ends, as the main thread has blocked it by then.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        left_out, waiting = 0, True
        while waiting:
            with contextlib.suppress(OSError, MemoryError):  # nobody reads any more, or the line is cut off
                self._write(self._waiting[0])
            with self._turn:
                self._waiting.popleft()
                waiting = bool(self._waiting)
                if not waiting:
                    self.catching_up = False
                    left_out, self._left_out = self._left_out, 0
        if left_out:
            _log.warning("log_lines_left_out", count=left_out, cause="nobody read the log")

    def _write(self, line: bytes) -> None:
        while line:
            with contextlib.suppress(OSError):
                self._poll.poll()
            try:
                line = line[os.write(self._file, line) :]
            except BlockingIOError:  # there is less room than it takes
                time.sleep(_PAUSE)


def _file_of(stream: IO[str]) -> int:
    """The file to write to. A terminal that is called writable may have room for a part of a line only, and a write
    waits for the rest: it is opened once more, for this process alone, so that it need not wait."""
    file = stream.fileno()
    try:
        return os.open(os.ttyname(file), os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError:  # no terminal, or one of another user
        return file
