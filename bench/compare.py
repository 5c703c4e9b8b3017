"""The relay beside its peers, in one run on one machine: the tables of docs/performance.md."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from bench import report
from bench.load import Loop, paced
from bench.peers import Contender, Nats, Nchan, NchanRedis, Nothing, Ntfy, Ours
from bench.servers import folder

CONNECTIONS = 64
CURVE = (1, 4, 16, 64, 256)
CROWDS = (10, 100, 1_000, 5_000)
LIVE = 10
CROWD = 1_000
PACES = (20, 70)
REPLAY = 100_000
SHARES = (1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9)
PACE = 200
"""Events a second when the way from sender to subscriber is timed."""


def ingest(contender: Contender, connections: int, subscribers: int, seconds: float) -> dict[str, float]:
    """Posts as fast as answers come, with some subscribers beside: events/s, latencies in ms, CPU µs an event."""
    with ExitStack() as stack:
        loop = stack.enter_context(Loop())
        if subscribers:
            stack.enter_context(contender.subscribers(loop, subscribers))
        contender.blast(loop, connections, seconds / 5)
        cpu, start, load = contender.cpu(), time.perf_counter(), os.times()
        found = contender.blast(loop, connections, seconds)
        took, spent = time.perf_counter() - start, contender.cpu() - cpu
        now = os.times()
        load_took = sum(now[:4]) - sum(load[:4])
    return {
        "rate": found.rate,
        "cpu": spent / (found.rate * seconds) * 1e6,
        "p50": found.p50,
        "p99": found.p99,
        "load": load_took / took,
    }


def crowd(contender: Contender, count: int, seconds: float, events: int = 0) -> dict[str, float]:
    """Paced events to so many subscribers: CPU µs a delivery, with the ingest in it, and KiB a connection, after each
    has been sent something. With `events`, so many at full speed, too: events a second until everybody has the last."""
    contender.stop()
    contender.start()
    found: dict[str, float] = {}
    with Loop() as loop, contender.senders(loop, 16) as senders:
        senders.post(200)
        senders.settle()
        # What the first few cost once, imports and caches, is not a connection's.
        with contender.subscribers(loop, 20) as few:
            paced(contender.cpu, loop, senders, few, 20, 50, 0.2)
        memory = contender.memory()
        with contender.subscribers(loop, count) as many:
            paced(contender.cpu, loop, senders, many, count, 50, 0.2)
            found["memory"] = (contender.memory() - memory) / count / 1024
            for pace in PACES:
                found[f"cpu {pace}"] = paced(contender.cpu, loop, senders, many, count, pace, seconds)
            if events:
                expected, start = many.received + count * events, time.perf_counter()
                senders.post(events)
                loop.until(lambda: many.received >= expected, "all deliveries", 300)
                found["rate"] = events / (time.perf_counter() - start)
    return found


def replay(contender: Contender, count: int) -> dict[str, float]:
    """The newest `count` events to one client: events and MB a second."""
    with Loop() as loop:
        busy = time.process_time()
        with contender.replay(loop, count) as reader:
            loop.until(lambda: reader.received >= count, f"{count} events", 300)
            took = time.perf_counter() - reader.started
            return {
                "rate": count / took,
                "megabytes": reader.bytes / took / 1e6,
                "load": (time.process_time() - busy) / took,
            }


def quiet(contender: Contender, counts: Sequence[int]) -> dict[str, float]:
    """MiB with so many WebSockets that get nothing, each number in a server of its own."""
    found = {}
    for count in counts:
        contender.stop()
        contender.start()
        with Loop() as loop, contender.subscribers(loop, count):
            found[str(count)] = contender.memory() / 2**20
    return found


def way(contender: Contender, pace: int, seconds: float) -> dict[str, float]:
    """From the POST to one subscriber at a steady pace: ms below which each share lies."""
    with Loop() as loop, contender.senders(loop, 8) as senders, contender.subscribers(loop, 1) as reader:
        # A subscription may begin a moment after the server said so.
        while not reader.received:
            senders.post(1)
            loop.step(0.1)
        loop.wait(time.perf_counter() + 0.5)
        senders.settle()
        sent: list[float] = []
        arrived: list[float] = []
        before = reader.received

        def note() -> None:
            arrived.extend([time.perf_counter()] * (reader.received - before - len(arrived)))

        reader.arrived = note
        start = time.perf_counter()
        for number in range(int(pace * seconds)):
            loop.wait(start + number / pace)
            sent.append(time.perf_counter())
            senders.post(1)
        loop.until(lambda: len(arrived) == len(sent), "all deliveries")
    ways = [(there - here) * 1000 for here, there in zip(sent, arrived, strict=True)]
    return {f"p{share}": report.percentile(ways, share / 100) for share in SHARES}


def filled(contender: Contender, count: int) -> None:
    """Has the contender hold `count` events."""
    with Loop() as loop, contender.senders(loop, CONNECTIONS) as senders:
        senders.post(count)
        senders.settle(600)


def _each(
    contenders: Sequence[Contender],
    rounds: int,
    measure: Callable[[Contender], dict[str, float]],
    *,
    keep: bool = False,
) -> list[dict[str, float]]:
    """Medians; the contenders take turns within each round, and only the one that is measured runs.

    Each begins with nothing stored, unless it shall `keep` that. The kernel keeps files that were written in memory,
    and on a virtual machine each page that was not used for a while may cost 10 µs again: who has written a GB would
    pay for the machine from then on.
    """

    def alone(contender: Contender) -> dict[str, float]:
        try:
            with contender:
                return measure(contender)
        finally:
            if not keep:
                contender.empty()

    return report.repeat(rounds, [partial(alone, contender) for contender in contenders])


def run(quick: bool) -> dict[str, list[dict[str, Any]]]:
    """Measures, prints the tables and returns their rows."""
    seconds, rounds = (0.2, 1) if quick else (4.0, 3)
    with folder() as data:
        return {
            "ingest beside peers": _ingest(data / "1", rounds, seconds),
            "ingest with subscribers": _with_subscribers(data / "2", rounds, seconds),
            "crowd": _crowd(data / "3", rounds, seconds, 50 if quick else CROWD),
            "replay beside peers": _replay(data / "4", rounds, 500 if quick else REPLAY),
            "memory over connections": _memory(data / "6", (10, 50) if quick else CROWDS),
            "rate over connections": _curve(data / "7", rounds, seconds, CURVE[:2] if quick else CURVE),
            "way": _way(data / "5", rounds, seconds),
        }


def _ingest(data: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [
        Ours(data), Nothing(data), Ntfy(data), NchanRedis(data), Nats(data), Nchan(data)
    ]  # fmt: skip
    found = _each(contenders, rounds, lambda one: ingest(one, CONNECTIONS, 0, seconds))
    ours = found[0]
    rows = [
        {
            "server": contender.name,
            "durable at the answer": contender.durable,
            "events/s": one["rate"],
            "CPU µs an event": one["cpu"],
            "p50 ms": one["p50"],
            "p99 ms": one["p99"],
            "relay / it": ours["rate"] / one["rate"],
            "load busy": one["load"],
        }
        for contender, one in zip(contenders, found, strict=True)
    ]
    report.table(f"Ingest of 1 KiB at {CONNECTIONS} connections", rows)
    return rows


def _with_subscribers(data: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), NchanRedis(data), Nchan(data)]
    found = _each(contenders, rounds, lambda one: ingest(one, CONNECTIONS, LIVE, seconds))
    rows = [
        {
            "server": contender.name,
            "events/s": one["rate"],
            "p50 ms": one["p50"],
            "p99 ms": one["p99"],
            "relay / it": found[0]["rate"] / one["rate"],
            "load busy": one["load"],
        }
        for contender, one in zip(contenders, found, strict=True)
    ]
    report.table(f"The same with {LIVE} live subscribers beside", rows)
    return rows


def _crowd(data: Path, rounds: int, seconds: float, count: int) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), Nchan(data), Ntfy(data)]
    found = _each(contenders, rounds, lambda one: crowd(one, count, seconds))
    rows = [
        {
            "server": contender.name,
            **{f"CPU µs a delivery at {pace}/s": one[f"cpu {pace}"] for pace in PACES},
            **{f"relay / it at {pace}/s": found[0][f"cpu {pace}"] / max(one[f"cpu {pace}"], 1e-9) for pace in PACES},
            "KiB a connection": one["memory"],
            "relay / it": found[0]["memory"] / max(one["memory"], 1e-9),
        }
        for contender, one in zip(contenders, found, strict=True)
    ]
    report.table(f"Delivery to {count:,} subscribers; the processor time has the ingest in it", rows)
    return rows


def _replay(data: Path, rounds: int, count: int) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), Ntfy(data), NchanRedis(data)]

    def measure(contender: Contender) -> dict[str, float]:
        if contender not in full:
            filled(contender, count)
            full.append(contender)
        return replay(contender, count)

    full: list[Contender] = []
    found = _each(contenders, rounds, measure, keep=True)
    rows = [
        {
            "server": contender.name,
            "events/s": one["rate"],
            "MB/s": one["megabytes"],
            "relay / it": found[0]["rate"] / one["rate"],
            "load busy": one["load"],
        }
        for contender, one in zip(contenders, found, strict=True)
    ]
    report.table(f"Replay of {count:,} events to one client", rows)
    return rows


def _way(data: Path, rounds: int, seconds: float) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), NchanRedis(data), Ntfy(data), Nchan(data)]
    found = _each(contenders, rounds, lambda one: way(one, PACE, seconds))
    rows = [
        {
            "server": contender.name,
            "p50 ms": one["p50"],
            "p99 ms": one["p99"],
            "relay / it, p50": found[0]["p50"] / one["p50"],
            "relay / it, p99": found[0]["p99"] / one["p99"],
        }
        for contender, one in zip(contenders, found, strict=True)
    ]
    report.table(f"From the sender's POST to one subscriber, at {PACE} events/s", rows)
    for row, one in zip(rows, found, strict=True):
        row["shares"] = [(share, one[f"p{share}"]) for share in SHARES]
    return rows


def _memory(data: Path, counts: Sequence[int]) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), Nchan(data)]
    found = _each(contenders, 1, lambda one: quiet(one, counts))
    rows: list[dict[str, Any]] = [
        {"server": contender.name, "WebSockets": count, "MiB": one[str(count)]}
        for contender, one in zip(contenders, found, strict=True)
        for count in counts
    ]
    report.table("Memory with quiet WebSockets", rows)
    return rows


def _curve(data: Path, rounds: int, seconds: float, counts: Sequence[int]) -> list[dict[str, Any]]:
    data.mkdir()
    contenders: list[Contender] = [Ours(data), Nothing(data), NchanRedis(data), Ntfy(data)]
    rows: list[dict[str, Any]] = []
    for count in counts:
        found = _each(contenders, rounds, partial(ingest, connections=count, subscribers=0, seconds=seconds))
        rows += [
            {"server": contender.name, "connections": count, "events/s": one["rate"], "p99 ms": one["p99"]}
            for contender, one in zip(contenders, found, strict=True)
        ]
    report.table("Ingest of 1 KiB over connections", rows)
    return rows
