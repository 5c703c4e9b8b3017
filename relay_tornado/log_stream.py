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
import threading
import time
from collections import deque
from typing import IO, Final

import structlog

_MOST: Final = 10_000
"""The most lines that wait."""
_LAST: Final = 1.0
"""Seconds for which the end of the process waits for lines that wait."""

_log = structlog.get_logger(__name__)


class LogHandler(logging.StreamHandler[IO[str]]):
    """Writes each record as a line to the file behind `stream`."""

    def __init__(self, stream: IO[str]) -> None:
        """Raises OSError and ValueError if there is no file behind it."""
        super().__init__(stream)
        self._file = stream.fileno()
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLOUT)
        self._waiting: deque[bytes] = deque()
        self._left_out = 0
        self._thread: threading.Thread | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Runs with the handler's lock."""
        try:
            line = f"{self.format(record)}\n".encode(errors="backslashreplace")
            # A pipe that is called writable takes so many bytes at once.
            if not self._waiting and len(line) <= select.PIPE_BUF and self._poll.poll(0):
                with contextlib.suppress(BlockingIOError):  # another program may have made the file non-blocking
                    line = line[os.write(self._file, line) :]
                if not line:
                    return
            if len(self._waiting) >= _MOST:
                self._left_out += 1
                return
            self._waiting.append(line)
            if self._thread is None:
                self._begin()
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Waits a moment for the lines that wait."""
        end = time.monotonic() + _LAST
        while self._waiting and time.monotonic() < end:
            time.sleep(0.01)
        super().close()

    def _begin(self) -> None:
        self._thread = threading.Thread(target=self._catch_up, name="relay-log", daemon=True)
        try:
            self._thread.start()
        except BaseException:  # the next line tries again
            self._thread = None
            raise

    def _catch_up(self) -> None:
        """Runs on the thread, until nothing waits."""
        left_out = 0
        while self._thread is not None:
            with contextlib.suppress(OSError):  # nobody reads any more
                self._write(self._waiting[0])
            self.acquire()
            try:
                self._waiting.popleft()
                if not self._waiting:
                    self._thread = None
                    left_out, self._left_out = self._left_out, 0
            finally:
                self.release()
        if left_out:
            _log.warning("log_lines_left_out", count=left_out, cause="nobody read the log")

    def _write(self, line: bytes) -> None:
        while line:
            self._poll.poll()
            with contextlib.suppress(BlockingIOError):
                line = line[os.write(self._file, line) :]
