"""Terminals: one for a command, and what stands in for standard output in this process."""

from __future__ import annotations

import io
import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence

from tests.client.world import TIMEOUT


class Terminal(io.StringIO):
    """stdout of somebody who looks at it."""

    def isatty(self) -> bool:
        return True

    @property
    def last(self) -> str:
        """What its last line says."""
        return self.getvalue().rpartition("\n")[2].rpartition("\x1b[K")[2]


def on_terminal(command: Sequence[str], environment: Mapping[str, str], columns: int = 100) -> tuple[str, int]:
    """What a person sees of it, and its exit code."""
    master, slave = pty.openpty()
    environment = {**environment, "TERM": "xterm", "COLUMNS": str(columns), "LINES": "40"}
    with subprocess.Popen(command, env=environment, stdin=slave, stdout=slave, stderr=slave) as process:
        os.close(slave)
        seen = b""
        deadline = time.monotonic() + TIMEOUT
        while time.monotonic() < deadline and select.select([master], [], [], TIMEOUT)[0]:
            try:
                data = os.read(master, 65536)
            except OSError:
                break
            if not data:
                break
            seen += data
        os.close(master)
        return seen.decode(), process.wait(TIMEOUT)
