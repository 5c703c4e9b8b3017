"""The load that is fast enough for the fastest server: wrk, which posts to paths in turn."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.ingest import BODY
from bench.load import TIMEOUT, Loop

_POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = os.getenv("BENCH_BODY")
local requests, at = {}, 0
function init()
    for path in io.lines(os.getenv("BENCH_PATHS")) do requests[#requests + 1] = wrk.format(nil, path) end
end
function request()
    at = at % #requests + 1
    return requests[at]
end
"""
_RATE = re.compile(r"Requests/sec: *([0-9.]+)")
_SHARE = re.compile(r"^ *(50|99)% +([0-9.]+)(us|ms|s|m) *$", re.MULTILINE)
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


class Blast(NamedTuple):
    """Events a second, and latencies in ms."""

    rate: float
    p50: float
    p99: float


def wrk(loop: Loop, port: int, paths: Sequence[str], connections: int, seconds: float) -> Blast:
    """Runs wrk, which posts to the paths in turn, and the loop meanwhile. Raises RuntimeError where an answer was no
    2xx."""
    with (
        tempfile.NamedTemporaryFile("w", suffix=".lua") as script,
        tempfile.NamedTemporaryFile("w") as places,
        tempfile.TemporaryFile("w+") as output,
    ):
        script.write(_POST)
        script.flush()
        places.write("".join(f"{path}\n" for path in paths))
        places.flush()
        # It takes whole seconds only, and so is ended by hand.
        flags = ["-t1", f"-c{connections}", f"-d{int(seconds) + 30}s", "--latency", "--timeout", "30s"]
        process = subprocess.Popen(
            ["wrk", *flags, "-s", script.name, f"http://127.0.0.1:{port}"],
            env={**os.environ, "BENCH_BODY": BODY.decode(), "BENCH_PATHS": places.name},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        # What comes before would end it without a word.
        loop.until(lambda: process.poll() is not None or _catches(process.pid, signal.SIGINT), "wrk to begin")
        end = time.perf_counter() + seconds
        loop.until(lambda: time.perf_counter() >= end or process.poll() is not None, "the end", seconds + TIMEOUT)
        process.send_signal(signal.SIGINT)
        loop.until(lambda: process.poll() is not None, "wrk to end")
        output.seek(0)
        said = output.read()
    rate = _RATE.search(said)
    shares = {share: float(value) * _UNITS[unit] for share, value, unit in _SHARE.findall(said)}
    if rate is None or len(shares) < 2 or "Non-2xx" in said or "Socket errors" in said:
        raise RuntimeError(f"wrk: {said}")
    if not float(rate[1]):
        return wrk(loop, port, paths, connections, 2 * seconds + 1)  # it was too short for one answer
    return Blast(float(rate[1]), shares["50"], shares["99"])


def _catches(pid: int, number: int) -> bool:
    """Whether a process has a handler of its own for a signal."""
    caught = re.search(r"(?m)^SigCgt:\s*(\w+)", Path(f"/proc/{pid}/status").read_text())
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)
