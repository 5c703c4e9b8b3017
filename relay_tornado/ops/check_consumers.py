"""Checks the state of consumers: against itself, and against their logs."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

import msgspec

from relay_tornado.consumer_progress import WINDOW
from relay_tornado.log.consumer_rows import read_gap, read_parked, read_ranges
from relay_tornado.ops.findings import Report
from relay_tornado.ranges import Ranges
from relay_tornado.storage import migrate

FIRST_VERSION = 3
"""The first schema version whose consumers have a kind."""

_SEEK = (
    "set its position to where its client wants to go on, by `relay consumer seek`, or delete it; it may miss events, "
    "or get some once more"
)

_ANEW = (
    "delete it: the next client that subscribes with it makes it anew; then set its position to where that wants "
    "to go on, by `relay consumer seek`"
)


def check_consumers(raw: sqlite3.Connection, report: Report, names: Mapping[str, str]) -> None:
    """Checks each consumer in its own transaction, as the file may be written to. `names` are those of the buckets, by
    id."""
    if migrate.version(raw) < FIRST_VERSION:
        return
    found = raw.execute(
        "SELECT consumer.id FROM consumer JOIN log ON log.id = consumer.log WHERE log.dropped = 0 ORDER BY 1"
    ).fetchall()
    for (consumer,) in found:
        with raw:
            raw.execute("BEGIN")
            row = raw.execute(
                "SELECT bucket, first, head, kind, name, ack_wait, max_deliver, floor, done, tried, gap FROM consumer"
                " JOIN log ON log.id = consumer.log WHERE consumer.id = ? AND dropped = 0",
                (consumer,),
            ).fetchone()
            if row is not None:
                bucket_id, first, head, kind, name, wait, most, *state = row
                bucket = names.get(bucket_id, str(bucket_id))
                if wait <= 0 or most < 0:
                    message = f"the {kind} {name!r} waits {wait} s for an ack, {most} times"
                    report.add("damage", "consumer", message, _ANEW, bucket)
                for problem in _problems(raw, consumer, first, head, *state):
                    report.add("damage", "consumer", f"the {kind} {name!r} {problem}", _SEEK, bucket)
    report.consumers = len(found)


def _problems(
    raw: sqlite3.Connection, consumer: int, first: int, head: int, floor: int, done: str, tried: str, gap: str | None
) -> Iterator[str]:
    if floor > head:
        yield f"has the floor {floor}, up to which it is done with everything, but its log ends at {head}"
    settled = Ranges()
    try:
        ranges = read_ranges(done)
    except msgspec.MsgspecError:
        yield "has a record of what it is done with that can't be understood"
    else:
        settled = Ranges(ranges)
        if not _are_normal(ranges, floor, head):
            yield f"is done with {str(ranges[:5])[1:-1]}, which does not go with its floor {floor} and the head {head}"
    if gap is not None:
        try:
            read_gap(gap)
        except msgspec.MsgspecError:
            yield "has a record of its last gap that can't be understood"
    rows = raw.execute(
        "SELECT seq, attempts, due, since FROM parked WHERE consumer = ? ORDER BY 1", (consumer,)
    ).fetchall()
    parked = [row[0] for row in rows]
    try:
        read_parked(rows)
    except sqlite3.DatabaseError:
        yield "has a record of what it tries again that can't be understood"
    strange = [seq for seq in parked if seq > head or seq < 1]
    if strange:
        yield f"tries event {strange[0]} again, which its log does not hold"
    loose = [seq for seq in parked if floor < seq <= head and seq not in settled]
    if loose:
        yield f"has event {loose[0]} scheduled for another try, though it has yet to get it"
    try:
        ranges = read_ranges(tried)
    except msgspec.MsgspecError:
        yield "has a record of what it is trying that can't be understood"
    else:
        out = Ranges(ranges)
        # After an event was deleted, the consumer's state follows a moment later.
        out.cut_below(first)
        held = set(parked)
        if not _are_normal(ranges, 0, head) or len(out) > WINDOW + len(held):
            yield f"is trying {str(ranges[:5])[1:-1]}, which does not go with its floor {floor} and the head {head}"
        elif done_with := [
            seq
            for begin, end in out
            for seq in range(begin, end + 1)
            if seq not in held and (seq <= floor or seq in settled)
        ]:
            yield f"is trying event {done_with[0]}, which it is done with"
    row = raw.execute(
        "SELECT seq FROM dead_letter WHERE consumer = ? AND NOT seq BETWEEN 1 AND ? ORDER BY 1 LIMIT 1",
        (consumer, head),
    ).fetchone()
    if row is not None:
        yield f"gave up event {row[0]}, which its log never held"


def _are_normal(ranges: Sequence[tuple[int, int]], floor: int, head: int) -> bool:
    """Whether the ranges are within `floor` + 1 to `head`, and in normal form. (`list(Ranges(…))` would allocate room
    for each number in them.)"""
    within = all(floor < begin <= end <= head for begin, end in ranges)
    return within and all(each == other for each, other in zip_longest(Ranges(ranges), ranges))
