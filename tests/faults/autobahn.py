"""Autobahn's fuzzing client against the relay's WebSocket handler as an echo, and beside it plain Tornado.

`wstest` is on the PATH, or the variable WSTEST says where it is. It runs under Python 2.7 only: `virtualenv -p
python2.7 wstest && wstest/bin/pip install autobahntestsuite`. Compression (cases 12 and 13) is off in the relay, and
left out.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.acceptance.relay import Server
from tests.faults.frames import INVALID_CODES
from tests.faults.outcome import Outcome

GOOD = ("OK", "NON-STRICT", "INFORMATIONAL")
NOT_COMPRESSION = ("12.*", "13.*")
TIMEOUT = 1_800.0


def wstest() -> str | None:
    """The program, None where it is not installed."""
    return os.environ.get("WSTEST") or shutil.which("wstest")


class Echo(Server):
    """tests/faults/echo.py as a process."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        super().__init__(folder / f"{'-'.join(arguments)}.out")
        self.arguments = arguments

    def command_line(self) -> list[str]:
        return [sys.executable, "-m", "tests.faults.echo", *self.arguments]


def run(folder: Path, cases: Sequence[str]) -> Outcome:
    """Runs the cases that these patterns name, `*` being all, against both."""
    program = wstest()
    assert program is not None, "wstest is missing"
    outcome = Outcome()
    agents = {"plain Tornado": Echo(folder, "plain"), "the relay": Echo(folder, "relay")}
    found: dict[str, dict[str, Any]] = {}
    for agent, server in agents.items():
        with server:
            found[agent] = _results(program, folder, agent, f"ws://127.0.0.1:{server.port}/", cases)
            outcome.expect("Traceback" not in server.said(), f"{agent}: {server.said()[-2000:]}")
    worse = [case for case, good in found["plain Tornado"].items() if good and not found["the relay"].get(case)]
    codes = [good for case, good in found["the relay"].items() if case.startswith("7.9.")]
    outcome.figures = {"cases": len(found["the relay"])}
    for agent, results in found.items():
        outcome.figures[f"passed by {agent}"] = sum(results.values())
    outcome.figures["invalid close codes passed"] = f"{sum(codes)} of {len(codes)}"
    failed = sorted(case for case, good in found["the relay"].items() if not good)
    outcome.figures["failed"] = " ".join(failed) or "none"
    outcome.expect(not worse, f"worse than plain Tornado: {worse}")
    outcome.expect(len(codes) == len(INVALID_CODES) and all(codes), "invalid close codes are not refused")
    return outcome


def _results(program: str, folder: Path, agent: str, url: str, cases: Sequence[str]) -> dict[str, bool]:
    """Whether each case passed."""
    reports = folder / agent.replace(" ", "-")
    spec = folder / "fuzzingclient.json"
    spec.write_text(
        json.dumps(
            {
                "outdir": str(reports),
                "servers": [{"agent": agent, "url": url, "options": {"version": 18}}],
                "cases": list(cases),
                "exclude-cases": list(NOT_COMPRESSION),
                "exclude-agent-cases": {},
            }
        )
    )
    command = [program, "-m", "fuzzingclient", "-s", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, cwd=folder)
    assert (reports / "index.json").exists(), done.stdout[-2000:] + done.stderr[-2000:]
    index = json.loads((reports / "index.json").read_text())[agent]
    behaviours = {case: (each["behavior"], each["behaviorClose"]) for case, each in index.items()}
    assert behaviours, f"no case ran: {Counter(behaviours.values())}"
    return {case: all(word in GOOD for word in words) for case, words in behaviours.items()}
