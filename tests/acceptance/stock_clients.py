"""Runs the stock clients of the folder stock/, and collects what they print."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.needs import needs

STOCK = Path(__file__).parent / "stock"


def needs_ws() -> None:
    """Skips the running test where Node.js or npm's `ws` is missing."""
    needs("node", "install Node.js 18 or newer (on Debian or Ubuntu: apt-get install nodejs npm)")
    if not (STOCK / "node_modules/ws").is_dir():
        pytest.skip("ws is missing: npm ci --prefix tests/acceptance/stock")


def command(language: str) -> list[str]:
    """How a stock client is run."""
    if language == "python":
        return [sys.executable, str(STOCK / "client.py")]
    needs_ws()
    return ["node", str(STOCK / "client.js")]


class StockClient:
    """A running stock client. Its lines are the frames that it got, and its own steps."""

    def __init__(self, command: list[str], output: Path) -> None:
        self.output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                env=os.environ | {"NODE_PATH": str(STOCK / "node_modules")},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def lines(self) -> list[dict[str, Any]]:
        complete = self.output.read_bytes().rpartition(b"\n")[0].decode()
        return [json.loads(line) for line in complete.splitlines()]

    def frames(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if "step" not in line]

    def bodies(self) -> list[str]:
        return [frame["body"] for frame in self.frames() if frame["type"] == "webhook"]

    def count(self, status: str) -> int:
        return sum(frame.get("status") == status for frame in self.frames())

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(60)
