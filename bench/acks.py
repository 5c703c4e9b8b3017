"""`python -m bench.acks [--quick]`: what it costs the ingest path that consumers' acks are stored.

In one process, without HTTP, so that what a commit carries shows as much as it can: 64 appenders that go on as soon as
their event is committed, alone, beside a worker that acks 10,000 events a second and keeps it in memory, and beside one
whose acks are saved. The three take turns; what is printed are medians.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click

from relay_tornado.log.consumers import Key, Terms
from relay_tornado.log.ledgers import Ledger, Ledgers
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.log.sqlite_consumers import SqliteConsumers
from relay_tornado.model import NewEvent
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database

APPENDERS = 64
RATE = 10_000
"""Acks a second."""
TICK = 0.005
EVENT = NewEvent("input", "POST", b"/a", b"x=1", b"Host: h\r\n", b"x" * 1024, "127.0.0.1")
WAYS = ("alone", "acks in memory", "acks saved")


@dataclass(frozen=True, slots=True)
class Measured:
    """Events and acks a second, commits a second, milliseconds of an append, and processor time."""

    events: float
    acks: float
    commits: float
    p50: float
    p99: float
    busy: float


async def measure(folder: Path, way: str, seconds: float) -> Measured:
    settings = replace(Settings(), data=folder / "data")
    database = await Database.open(settings)
    log = await SqliteEventLog.open(database, settings)
    await log.create("b", "aaaaaaaaaaaa")
    store = SqliteConsumers(database)
    ledgers = Ledgers(store, log)
    ledger = await ledgers.open(Key("b", "client", "worker"), 0, Terms())
    waits: list[float] = []
    end = time.perf_counter() + seconds
    began, cpu, commits = time.perf_counter(), time.process_time(), database.commits

    async def send() -> None:
        while (at := time.perf_counter()) < end or not waits:
            await log.append("b", EVENT)
            waits.append(time.perf_counter() - at)

    tasks = [asyncio.create_task(send()) for _ in range(APPENDERS)]
    acks = 0 if way == "alone" else await _ack(log, ledger, end, ledger.save if way == "acks saved" else lambda: None)
    await asyncio.gather(*tasks)
    took = time.perf_counter() - began
    busy, commits = (time.process_time() - cpu) / took, database.commits - commits
    await store.close()
    await log.close()
    await database.close()
    waits.sort()
    return Measured(
        len(waits) / took,
        acks / took,
        commits / took,
        1000 * waits[len(waits) // 2],
        1000 * waits[len(waits) * 99 // 100],
        busy,
    )


async def _ack(log: SqliteEventLog, ledger: Ledger, end: float, save: Callable[[], None]) -> int:
    """Acks as many as are due at the rate, a moment after they were handed out, the newer one of two first, as if two
    workers shared them."""
    acked, began = 0, time.perf_counter()
    while (now := time.perf_counter()) < end:
        due = int((now - began) * RATE) - acked
        head = (await log.bounds("b")).head
        taken = ledger.progress.take(head, due, 0.0)
        for one in taken:
            ledger.progress.begin(one)
        save()
        await asyncio.sleep(TICK)
        for one, two in zip(taken[::2], taken[1::2], strict=False):
            for each in (two, one):
                ledger.progress.done(each)
                save()
        if len(taken) & 1:
            ledger.progress.done(taken[-1])
            save()
        acked += len(taken)
    return acked


@click.command()
@click.option("--quick", is_flag=True, help="A moment, to see that it works; the figures mean little.")
def main(quick: bool) -> None:
    """Measure what acks cost. Data goes to TMPDIR."""
    found: dict[str, list[Measured]] = {way: [] for way in WAYS}
    for _ in range(1 if quick else 7):
        for way in WAYS:
            with tempfile.TemporaryDirectory() as folder:
                found[way].append(asyncio.run(measure(Path(folder), way, 0.1 if quick else 4)))
    click.echo(f"{'':16}{'events/s':>10}{'acks/s':>10}{'commits/s':>11}{'p50 ms':>8}{'p99 ms':>8}{'CPU':>6}")
    for way, runs in found.items():
        columns = [statistics.median(getattr(run, name) for run in runs) for name in Measured.__slots__]
        events, acks, commits, p50, p99, busy = columns
        click.echo(f"{way:16}{events:10,.0f}{acks:10,.0f}{commits:11,.0f}{p50:8.2f}{p99:8.2f}{busy:6.2f}")


if __name__ == "__main__":
    main(prog_name="python -m bench.acks")
