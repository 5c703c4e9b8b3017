"""Durable ingest, beside a plain Tornado handler that stores nothing."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from bench import report
from bench.load import Loop, Senders
from bench.servers import PinnedRelay, Plain, folder

BODY = b'{"bench": "' + b"x" * 1011 + b'"}'
"""1 KiB."""
CONNECTIONS = (1, 16, 64, 256)


def measure(
    server: PinnedRelay | Plain, path: str, connections: int, seconds: float, body: bytes = BODY
) -> dict[str, float]:
    """Requests a second, latencies in ms, the server's CPU µs a request, and how busy the load itself was (1.0: it is
    the bottleneck)."""
    with Loop() as loop, Senders(loop, server.port, path, connections, body) as senders:
        senders.post(1 << 60)
        loop.wait(time.perf_counter() + seconds / 5)
        senders.latencies.clear()
        answered, spent, busy, start = senders.answered, server.cpu(), time.process_time(), time.perf_counter()
        loop.wait(start + seconds)
        loop.until(lambda: senders.answered > answered, "an answer")
        took = time.perf_counter() - start
        count, spent, load = senders.answered - answered, server.cpu() - spent, (time.process_time() - busy) / took
        senders.limit = 0
        senders.settle()
    latencies = senders.latencies
    return {
        "rate": count / took,
        "cpu": spent / count * 1e6,
        "p50": report.percentile(latencies, 0.5) * 1000,
        "p99": report.percentile(latencies, 0.99) * 1000,
        "load": load,
    }


def run(quick: bool) -> list[dict[str, Any]]:
    """Measures, prints the table and returns its rows."""
    seconds, rounds = (0.1, 1) if quick else (3.0, 3)
    rows = []
    with folder() as data, PinnedRelay(data / "data") as relay, Plain(data, False) as plain, Plain(data, True) as fast:
        path = relay.create_bucket("bench")
        for connections in CONNECTIONS[:2] if quick else CONNECTIONS:
            durable, nothing, nothing_fast = report.repeat(
                rounds,
                [
                    partial(measure, relay, path, connections, seconds),
                    partial(measure, plain, "/hook", connections, seconds),
                    partial(measure, fast, "/hook", connections, seconds),
                ],
            )
            rows.append(
                {
                    "connections": connections,
                    "relay, stored/s": durable["rate"],
                    "plain, nothing stored/s": nothing["rate"],
                    "ratio": durable["rate"] / nothing["rate"],
                    "plain on uvloop/s": nothing_fast["rate"],
                    "ratio to it": durable["rate"] / nothing_fast["rate"],
                    "relay p50 ms": durable["p50"],
                    "relay p99 ms": durable["p99"],
                    "plain p50 ms": nothing["p50"],
                    "plain p99 ms": nothing["p99"],
                    "load busy": max(durable["load"], nothing["load"], nothing_fast["load"]),
                }
            )
    report.table("Ingest: bodies of 1 KiB, answered once committed, beside a handler that stores nothing", rows)
    return rows
