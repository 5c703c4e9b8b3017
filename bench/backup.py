"""What a backup does to the senders: their latencies at a steady rate without one, and while one is made.

`python -m bench.backup [--quick]`; with `--restores 20` it shows what backups under load are good for. Latencies count
from when a webhook was due, so that waiting for a stalled server is not left out. The backup itself may use both
cores, as it would.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import click

from bench import report
from bench.fill import fill
from bench.ingest import BODY
from bench.load import Loop, Senders
from bench.servers import PinnedRelay, folder
from tests.ops.under_load import backups_under_load

RATE = 2_000
CONNECTIONS = 128
EVENT = 1_390
"""About the bytes of the file for each event."""


class Paced(Senders):
    """Posts each webhook when it is due, or as soon as a connection is free after that."""

    def __init__(self, loop: Loop, port: int, path: str, rate: int) -> None:
        super().__init__(loop, port, path, CONNECTIONS, BODY)
        self._rate = rate
        self._due: deque[float] = deque()

    def run(self, until: Any) -> list[float]:
        """Posts until `until()`; returns the latencies in ms, once all is answered."""
        self.latencies.clear()
        start, posted = time.perf_counter(), 0
        while not until():
            now = time.perf_counter()
            while posted < (now - start) * self._rate:
                self._due.append(start + posted / self._rate)
                posted += 1
            self._fill()
            self._loop.step(0.0005)
        self._loop.until(lambda: self.answered == self.sent and not self._due, "the last answers")
        return [latency * 1000 for latency in self.latencies]

    def _fill(self) -> None:
        while self._due and self._idle:
            self._next(self._idle.pop())

    def _next(self, fd: int) -> None:
        if not self._due:
            self._idle.append(fd)
            return
        self.limit = self.sent + 1
        due = self._due.popleft()
        super()._next(fd)
        self._sent_at[fd] = due


def measure(relay: PinnedRelay, path: str, target: Path, seconds: float) -> dict[str, float]:
    """One pass: a steady rate for so many seconds, then with a backup from its beginning to its end."""
    cores = os.sched_getaffinity(relay.pid) | os.sched_getaffinity(0)
    target.unlink(missing_ok=True)
    with Loop() as loop, Paced(loop, relay.port, path, RATE) as senders:
        end = time.perf_counter() + 2
        senders.run(lambda: time.perf_counter() > end)
        end = time.perf_counter() + seconds
        before = senders.run(lambda: time.perf_counter() > end)
        begun = time.perf_counter()
        command = [sys.executable, "-m", "relay_tornado", "backup", str(target), "--json"]
        with subprocess.Popen(command, env=relay.environment(), stdout=subprocess.DEVNULL) as made:
            os.sched_setaffinity(made.pid, cores)
            during = senders.run(lambda: made.poll() is not None)
            took = time.perf_counter() - begun
            assert made.returncode == 0
        end = time.perf_counter() + 3
        after = senders.run(lambda: time.perf_counter() > end)
    found = {"seconds": took}
    for name, latencies in (("without", before), ("during", during), ("after", after)):
        for word, share in (("p50", 0.5), ("p99", 0.99), ("max", 1.0)):
            found[f"{word} {name}"] = report.percentile(latencies, share)
    # The end of a backup frees the WAL, and what piled up is copied then: it belongs to the price.
    found["p99 during, and after"] = report.percentile(during + after, 0.99)
    return found


@click.command()
@click.option("--quick", is_flag=True, help="A few seconds, to see that it works; the figures mean little.")
@click.option("--restores", type=int, help="Make so many backups under load instead, and see what each is good for.")
def main(quick: bool, restores: int | None) -> None:
    """Measure what a backup of a log of 1 GiB does to the senders of 2,000 events/s; the median of 3."""
    if restores is not None:
        with folder() as data:
            for line in asyncio.run(backups_under_load(data, restores)):
                click.echo(line)
        return
    size, seconds, rounds = (32 << 20, 1.0, 1) if quick else (1 << 30, 10.0, 3)
    with folder() as data:
        relay = PinnedRelay(data / "data")
        path = relay.create_bucket("bench", "--retention-bytes", "none")
        fill(relay.data, relay.command("bucket", "show", "bench"), size // EVENT)
        with relay:
            (found,) = report.repeat(rounds, [lambda: measure(relay, path, data / "backup.db", seconds)])
        file = (relay.data / "relay.db").stat().st_size
        relay.command("check", str(data / "backup.db"))
    rows = [
        {
            "backup": name,
            "p50 ms": found[f"p50 {key}"],
            "p99 ms": found[f"p99 {key}"],
            "most ms": found[f"max {key}"],
            "p99 ratio": found[f"p99 {key}"] / found["p99 without"],
        }
        for name, key in (("none", "without"), ("is made", "during"), ("3 s after", "after"))
    ]
    report.table(f"Backup of {file >> 20} MiB in {found['seconds']:.1f} s, at {RATE:,} events/s", rows)
    ratio = found["p99 during, and after"] / found["p99 without"]
    click.echo(
        f"\nWith what comes after it: p99 {found['p99 during, and after']:.2f} ms, {ratio:.2f} times that without"
    )


if __name__ == "__main__":
    main(prog_name="python -m bench.backup")
