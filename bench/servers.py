"""The servers under measurement, pinned to one core, with the load on another."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.acceptance.relay import Relay, Server

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE, LOAD_CORE = _CORES[0], _CORES[-1]


def processor_time(pid: int) -> float:
    """Seconds of processor time that a process's threads took so far, in user space and in the kernel: as the scheduler
    counts it, since ticks of 10 ms miss who sleeps and wakes in between."""
    taken = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended
            taken += int((task / "schedstat").read_text().split()[0])
    return taken / 1e9


class _Pinned(Server):
    def spawn(self) -> None:
        os.sched_setaffinity(0, {SERVER_CORE})  # for the child to inherit, from its first thread on
        try:
            super().spawn()
        finally:
            os.sched_setaffinity(0, {LOAD_CORE})

    def cpu(self) -> float:
        """Seconds of processor time that the server took so far, in user space and in the kernel."""
        return processor_time(self.pid)


class PinnedRelay(_Pinned, Relay):
    """The relay."""


class Plain(_Pinned):
    """bench/plain.py, on asyncio's own event loop or on uvloop."""

    def __init__(self, folder: Path, uvloop: bool) -> None:
        super().__init__(folder / f"plain-{uvloop}.out")
        self.uvloop = uvloop

    def command_line(self) -> list[str]:
        return [sys.executable, "-m", "bench.plain", *(["--uvloop"] if self.uvloop else [])]


def let_go(path: Path) -> None:
    """Has the kernel keep nothing of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for the data, in TMPDIR; it is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as path:
        yield Path(path)
