"""Flipped bits in relay.db and in its WAL: a loss is noticed, nothing false is given out, and no id names two events.

What is looked at after each flip: `relay check`, the witness, every event as the log reads it, every id as a cursor,
and the ids of new events.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sqlite3
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from relay_tornado.errors import CursorLost, RelayError, StartupError
from relay_tornado.ids import format_id, parse_id
from relay_tornado.log.lineage import place_cursor, position_id
from relay_tornado.log.sqlite import SqliteEventLog
from relay_tornado.model import Event, NewEvent
from relay_tornado.ops.check import check
from relay_tornado.ops.findings import Report
from relay_tornado.settings import Settings
from relay_tornado.storage.database import Database
from relay_tornado.storage.witness import Loss
from tests.faults.outcome import Outcome
from tests.ops.filling import opened

FILE_EVENTS = 1_000
WAL_EVENTS = 20
"""Few enough that no checkpoint has copied them into the file."""
FILES = ("relay.db", "relay.db-wal", "relay.witness")
PAGE = 1 << 20
RECORDS = 24 * 4096
"""The first pages of a file hold its schema, buckets, tokens, logs and epochs, each small in a page of its own."""


@dataclass
class Seen:
    """A data directory as the relay reads it."""

    refused: bool = False
    """It did not start, or the log is not there, and it says so."""
    unread: bool = False
    """Reading ended with an error that the client is told."""
    loss: Loss | None = None
    events: dict[int, Event] = field(default_factory=dict)
    ids: list[str] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    """Seqs of which a reader is told that they can't be read."""
    misread: list[str] = field(default_factory=list)
    """Cursors that were neither honoured nor told of their gap."""
    new: list[str] = field(default_factory=list)
    """The ids of events that were appended afterwards."""


def run(folder: Path, flips: int, wal_flips: int) -> Outcome:
    """Flips a bit in the file, half of them in payloads and a quarter among the records, or one in the WAL; each time
    in a fresh copy."""
    outcome = Outcome()
    randoms = random.Random(flips)
    found: Counter[str] = Counter()
    # What the log has to say of each damage is as it should be, and not for who reads the table.
    with structlog.testing.capture_logs():
        data, killed, work = folder / "data", folder / "killed", folder / "work"
        for _ in range(2):  # two epochs
            asyncio.run(_fill(data, randoms, FILE_EVENTS // 2))
        asyncio.run(_fill(data, randoms, WAL_EVENTS, killed))
        _copy(data, work)
        before = asyncio.run(_see(work, []))
        for number in range(flips):
            _copy(data, work)
            payload = number % 2 == 0
            offset = _flip(
                work / "relay.db", randoms, before if payload else None, RECORDS if number % 4 == 1 else None
            )
            report = check(work / "relay.db", _silent)
            seen = asyncio.run(_see(work, before.ids))
            _judge(before, seen, report, payload, f"a flip at {offset} of relay.db", outcome, found)
        for _ in range(wal_flips):
            _copy(killed, work)
            offset = _flip(work / "relay.db-wal", randoms)
            seen = asyncio.run(_see(work, before.ids))
            _judge_wal(before, seen, f"a flip at {offset} of the WAL", outcome, found)
    outcome.expect(found["losses"] > 0 or not wal_flips, "no flip in the WAL lost anything")
    outcome.figures = {
        "flips in payloads": found["payloads"],
        "found by relay check": found["payloads found"],
        "elsewhere": flips - found["payloads"],
        "harmless": found["harmless"],
        "told": found["told"],
        "in the WAL": wal_flips,
        "losses": found["losses"],
        "told by the witness": found["losses told"],
        "silent": found["silent"],
        "false content": found["false"],
        "false times": found["times"],
        "cursors misread": found["misread"],
        "ids used twice": found["renamed"],
    }
    return outcome


def _silent(what: str, done: int, total: int) -> None:
    """No progress is shown."""


async def _fill(data: Path, randoms: random.Random, count: int, killed: Path | None = None) -> None:
    """Appends so many events, one a commit where the directory is to be copied as a kill -9 would leave it."""
    settings = Settings(data=data)
    database = await Database.open(settings)
    try:
        async with opened(database, settings) as (log, administration):
            buckets = administration.list_buckets() or [await administration.create_bucket("orders")]
            appends = [log.append(buckets[0].id, _event(randoms)) for _ in range(0 if killed else count)]
            await asyncio.gather(*appends)
            if killed is not None:
                for _ in range(count):
                    await log.append(buckets[0].id, _event(randoms))
                killed.mkdir()
                for name in FILES:
                    shutil.copy(data / name, killed / name)
    finally:
        await database.close()


def _event(randoms: random.Random) -> NewEvent:
    body = randoms.randbytes(randoms.choice((40, 400, 1_000, 6_000)))
    return NewEvent("input", "POST", b"/path", b"a=1", b"Host: relay.test\r\nX-A: b\r\n", body, "192.0.2.1")


def _copy(source: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name in FILES:
        if (source / name).exists():
            shutil.copy(source / name, work / name)


def _flip(path: Path, randoms: random.Random, payloads: Seen | None = None, end: int | None = None) -> int:
    """Flips one bit, where `payloads` are given in one of their bodies, else before `end`; returns its offset."""
    data = bytearray(path.read_bytes())
    offset = randoms.randrange(end or len(data))
    if payloads is not None:
        body = randoms.choice(list(payloads.events.values())).body[:40]  # what is long goes on elsewhere
        offset = data.index(body) + randoms.randrange(len(body))
    data[offset] ^= 1 << randoms.randrange(8)
    path.write_bytes(data)
    return offset


async def _see(data: Path, ids: list[str]) -> Seen:
    """Opens the directory as a start of the relay does, reads the log, judges `ids` as cursors, and appends."""
    seen = Seen()
    settings = Settings(data=data)
    try:
        database = await Database.open(settings)
    except StartupError:
        return Seen(refused=True)
    try:
        seen.loss = database.loss
        async with opened(database, settings) as (log, administration):
            buckets = administration.list_buckets()
            if not buckets:
                seen.refused = True
            else:
                await _see_log(seen, log, buckets[0].id, ids)
    except (StartupError, RelayError, sqlite3.DatabaseError):
        seen.unread = True
    finally:
        await database.close()
    return seen


async def _see_log(seen: Seen, log: SqliteEventLog, bucket: str, ids: list[str]) -> None:
    bounds = await log.bounds(bucket)
    seen.ids = [position_id(bounds, seq) for seq in range(bounds.first, bounds.head + 1)]
    for text in ids:
        cursor = parse_id(text)
        known = await log.find(cursor.epoch) == bucket
        placed = place_cursor(bounds, cursor if known else None)
        if placed.gap is None and placed.after != cursor.seq:
            seen.misread.append(text)
    after = bounds.first - 1
    while after < bounds.head:
        try:
            page = await log.read(bucket, after, 256, PAGE)
        except CursorLost as error:
            seen.lost |= set(range(after + 1, error.first))
            after = error.first - 1
        except RelayError:
            seen.unread = True
            break
        else:
            seen.events |= {event.seq: event for event in page}
            after = page[-1].seq
    new = NewEvent("input", "POST", b"", b"", b"Host: x\r\n", b"new", "192.0.2.1")
    for _ in range(3):
        appended = await log.append(bucket, new)
        seen.new.append(format_id(appended.epoch, appended.seq))


def _judge(
    before: Seen, seen: Seen, report: Report, payload: bool, what: str, outcome: Outcome, found: Counter[str]
) -> None:
    missing = set(before.events) - set(seen.events)
    told = seen.refused or seen.unread or report.damaged or missing <= seen.lost
    if payload:
        found["payloads"] += 1
        found["payloads found"] += report.damaged
        outcome.expect(report.damaged, f"{what}, in a payload: relay check found nothing")
        outcome.expect(len(missing) == 1 and missing == seen.lost, f"{what}: {sorted(missing)} are missing")
    elif missing or report.damaged or seen.refused or seen.unread:
        found["told"] += told
    else:
        found["harmless"] += 1
    found["silent"] += not told
    outcome.expect(told, f"{what}: {len(missing)} events are missing, and nobody is told")
    _judge_all(before, seen, what, outcome, found)


def _judge_wal(before: Seen, seen: Seen, what: str, outcome: Outcome, found: Counter[str]) -> None:
    missing = set(before.events) - set(seen.events)
    if missing:
        found["losses"] += 1
        told = seen.loss is not None and seen.loss.events == len(missing)
        found["losses told"] += told
        found["silent"] += not told
        outcome.expect(told, f"{what}: {len(missing)} events are missing, and the witness tells {seen.loss}")
    else:
        outcome.expect(seen.loss is None, f"{what}: nothing is missing, and the witness tells {seen.loss}")
    outcome.expect(not seen.refused and len(seen.new) == 3, f"{what}: the relay takes no events")
    _judge_all(before, seen, what, outcome, found)


def _judge_all(before: Seen, seen: Seen, what: str, outcome: Outcome, found: Counter[str]) -> None:
    both = [(event, before.events[seq]) for seq, event in seen.events.items() if seq in before.events]
    false = [is_now.seq for is_now, was in both if _content(is_now) != _content(was)]
    renamed = set(seen.new) & set(before.ids)
    found["false"] += len(false)
    found["times"] += sum(is_now.received_at != was.received_at for is_now, was in both)
    found["misread"] += len(seen.misread)
    found["renamed"] += len(renamed)
    outcome.expect(not false, f"{what}: events {false} have another content")
    outcome.expect(not seen.misread, f"{what}: the cursors {seen.misread[:3]} are misread")
    outcome.expect(not renamed, f"{what}: the ids {renamed} name two events")


def _content(event: Event) -> tuple[object, ...]:
    return event.input_id, event.method, event.path, event.query, event.headers, event.body, event.remote_ip
