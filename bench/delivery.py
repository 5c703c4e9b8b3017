"""Delivery to many subscribers, beside `write_message` to each of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from bench import report
from bench.compare import PACES, crowd
from bench.peers import Nothing, Ours
from bench.servers import folder

EVENTS = {1: 10_000, 20: 1_000, 100: 2_000, 1000: 300}
"""How many events are sent at full speed to so many subscribers."""


def run(quick: bool) -> list[dict[str, Any]]:
    """Measures, prints the table and returns its rows."""
    seconds, rounds = (0.1, 1) if quick else (4.0, 3)
    rows = []
    with folder() as data, Ours(data) as relay, Nothing(data) as plain:
        for count in (1, 20) if quick else (1, 100, 1000):
            events = EVENTS[count] // (20 if quick else 1)
            medians = report.repeat(rounds, [partial(crowd, side, count, seconds, events) for side in (relay, plain)])
            for name, found in zip(("relay", "plain write_message"), medians, strict=True):
                rows.append(
                    {
                        "subscribers": count,
                        "server": name,
                        "events/s": found["rate"],
                        "deliveries/s": found["rate"] * count,
                        **{f"CPU µs each at {pace}/s": found[f"cpu {pace}"] for pace in PACES},
                        "KiB a connection": found["memory"],
                    }
                )
    report.table("Delivery: every event to every subscriber; the processor time has the ingest in it", rows)
    return rows
