"""`relay serve` as a process, and other commands beside it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

TIMEOUT = 90.0
RELAY = [sys.executable, "-W", "error", "-m", "relay_tornado"]


def environment(**variables: str) -> dict[str, str]:
    """That of this process without its own RELAY_ variables, and with these."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")} | variables


class Served:
    """A running `relay serve`; `stdout` and `stderr` are read from files."""

    program = RELAY

    def __init__(self, folder: Path, *flags: str, stdout: int | None = None, **variables: str) -> None:
        self.out, self.err = folder / "stdout", folder / "stderr"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [*self.program, "serve", "--port", "0", *flags],
                cwd=folder,
                env=environment(**variables),
                stdin=subprocess.DEVNULL,
                stdout=out if stdout is None else stdout,
                stderr=err,
            )

    @property
    def stdout(self) -> str:
        return self.out.read_text()

    @property
    def stderr(self) -> str:
        """Without what a start says that takes long, as any does on a busy machine."""
        lines = self.err.read_text().splitlines(keepends=True)
        return "".join(line for line in lines if '"start_takes_long"' not in line)

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + TIMEOUT
        while (match := re.search(pattern, self.out.read_text() + self.err.read_text())) is None:
            assert self.process.poll() is None, f"it ended: {self.stderr}"
            assert time.monotonic() < deadline, f"it never said {pattern}: {self.stderr}"
            time.sleep(0.01)
        return match

    def url(self) -> str:
        return self.wait_for(r"listening on (http://\S+)")[1]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(TIMEOUT)


@contextmanager
def served(folder: Path, *flags: str, stdout: int | None = None, **variables: str) -> Iterator[Served]:
    running = Served(folder, *flags, stdout=stdout, **variables)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait(TIMEOUT)


def shell(line: str) -> str:
    """What a line prints, run by a shell in some other place."""
    run = subprocess.run(line, shell=True, cwd="/", capture_output=True, text=True, timeout=TIMEOUT)
    assert run.returncode == 0, run.stderr
    return run.stdout
