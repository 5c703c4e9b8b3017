"""Replay of a log to one client that reads a raw socket, from the start and the end of a long log."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from bench import report
from bench.fill import fill
from bench.load import Loop, Subscribers
from bench.servers import PinnedRelay, folder

LOG = 1_000_000
REPLAYS = (10_000, 100_000)


def measure(relay: PinnedRelay, token: tuple[str, str], since: object, count: int) -> dict[str, float]:
    """Starts the relay anew, so that nothing is in its memory, and reads `count` events: events and MB a second."""
    relay.stop()
    relay.start()
    subscribe = {"buckets": ["bench"], "since": since}
    with Loop() as loop, Subscribers(loop, relay.port, token, 1, subscribe) as subscribers:
        busy = time.process_time()
        loop.until(lambda: subscribers.received >= count, f"{count} events")
        took = time.perf_counter() - subscribers.started
        load = (time.process_time() - busy) / took
    return {"rate": subscribers.received / took, "megabytes": subscribers.bytes / took / 1e6, "load": load}


def run(quick: bool) -> list[dict[str, Any]]:
    """Measures, prints the table and returns its rows."""
    size, rounds, replays = (6_000, 1, (1_000, 5_000)) if quick else (LOG, 3, REPLAYS)
    rows = []
    with folder() as data, PinnedRelay(data / "data", search_index="none") as relay:
        bucket = relay.command("bucket", "create", "bench")
        token = relay.create_token()
        relay.stop()
        start = time.perf_counter()
        fill(data / "data", bucket, size)
        filled = size / (time.perf_counter() - start)
        relay.start()
        for count in replays:
            at_start, at_end = report.repeat(
                rounds,
                [
                    partial(measure, relay, token, "earliest", count),
                    partial(measure, relay, token, {"last": count}, count),
                ],
            )
            rows.append(
                {
                    "events": count,
                    f"from the start of {size:,}, events/s": at_start["rate"],
                    "from its end, events/s": at_end["rate"],
                    "ratio": at_start["rate"] / at_end["rate"],
                    "MB/s": at_start["megabytes"],
                    "load busy": max(at_start["load"], at_end["load"]),
                }
            )
    report.table(f"Replay to one client, from a relay just started (filled at {filled:,.0f} events/s)", rows)
    return rows
