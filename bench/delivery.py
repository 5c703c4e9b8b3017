"""Delivery to many subscribers, beside `write_message` to each of them."""

from __future__ import annotations

import time
from functools import partial
from typing import Any

from bench import report
from bench.ingest import BODY
from bench.load import Loop, Senders, Subscribers, paced
from bench.servers import PinnedRelay, Plain, folder

RATES = (20, 70)
WARM = 20
EVENTS = {1: 10_000, 20: 1_000, 100: 2_000, 1000: 300}
"""How many events are sent at full speed to so many subscribers."""
SENDERS = 16


class Side:
    """One of the two servers, with what a load on it needs."""

    def __init__(self, server: PinnedRelay | Plain, path: str, token: tuple[str, str]) -> None:
        self.server = server
        self.path = path
        self.token = token

    def measure(self, count: int, seconds: float, events: int) -> dict[str, float]:
        """One pass with so many subscribers: each rate for so many seconds, then `events` at full speed.

        Events a second, microseconds of processor time for each delivery (with the ingest of the events in it), and
        KiB of memory a connection, after each has been sent something.
        """
        self.server.stop()
        self.server.start()
        port, found = self.server.port, {}
        with Loop() as loop, Senders(loop, port, self.path, SENDERS, BODY) as senders:
            senders.post(200)
            senders.settle()
            # What the first few cost once, imports and caches, is not a connection's.
            with Subscribers(loop, port, self.token, WARM, {"buckets": ["bench"]}) as first:
                paced(self.server.cpu, loop, senders, first, WARM, 50, 0.2)
            memory = self.server.memory()
            with Subscribers(loop, port, self.token, count, {"buckets": ["bench"]}) as subscribers:
                paced(self.server.cpu, loop, senders, subscribers, count, 50, 0.2)
                found["memory"] = (self.server.memory() - memory) / count / 1024
                for rate in RATES:
                    found[f"cpu {rate}"] = paced(self.server.cpu, loop, senders, subscribers, count, rate, seconds)
                found["rate"] = self._full_speed(loop, senders, subscribers, count, events)
        return found

    def _full_speed(self, loop: Loop, senders: Senders, subscribers: Subscribers, count: int, events: int) -> float:
        """Sends as fast as answers come; events a second until everybody has the last one."""
        expected, start = subscribers.received + count * events, time.perf_counter()
        senders.post(events)
        loop.until(lambda: subscribers.received >= expected, "all deliveries", 300)
        return events / (time.perf_counter() - start)


def run(quick: bool) -> list[dict[str, Any]]:
    """Measures, prints the table and returns its rows."""
    seconds, rounds = (0.3, 1) if quick else (4.0, 3)
    rows = []
    with folder() as data, PinnedRelay(data / "data") as relay, Plain(data, False) as plain:
        sides = [
            Side(relay, relay.create_bucket("bench"), relay.create_token()),
            Side(plain, "/hook", ("", "")),
        ]
        for count in (1, 20) if quick else (1, 100, 1000):
            measures = [partial(side.measure, count, seconds, EVENTS[count] // (20 if quick else 1)) for side in sides]
            medians = report.repeat(rounds, measures)
            for name, found in zip(("relay", "plain write_message"), medians, strict=True):
                rows.append(
                    {
                        "subscribers": count,
                        "server": name,
                        "events/s": found["rate"],
                        "deliveries/s": found["rate"] * count,
                        **{f"CPU µs each at {rate}/s": found[f"cpu {rate}"] for rate in RATES},
                        "KiB a connection": found["memory"],
                    }
                )
    report.table("Delivery: every event to every subscriber; the processor time has the ingest in it", rows)
    return rows
