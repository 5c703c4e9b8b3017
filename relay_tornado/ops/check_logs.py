"""Checks each log against its epochs, its bucket and its events, and each event against its checksum."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from itertools import chain

from relay_tornado.log.loading import Row, load
from relay_tornado.log.rows import next_there, one
from relay_tornado.model import Epoch
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.findings import RESTORE, Level, Report
from relay_tornado.ops.reading import Step, read
from relay_tornado.ranges import Ranges

_AHEAD = 60.0
"""Seconds by which a clock may be set back without a finding."""
_AND_SO_ARE_OTHERS = "and every event that comes has that time until then, so that none leaves by its age"

_EPOCH = re.compile(r"[a-z0-9]{12}")


class Logs:
    """The check of all logs of a file; `check` runs it once."""

    def __init__(self, raw: sqlite3.Connection, report: Report, names: Mapping[str, str], progress: Progress) -> None:
        self._raw = raw
        self._report = report
        self._names = names
        self._progress = progress
        self._done = 0
        self._total = 0

    def check(self) -> None:
        with self._raw:
            self._raw.execute("BEGIN")
            loaded = load(self._raw)
        self._total = sum(row.head - row.first + 1 for row in loaded.live)
        self._progress("checking events", 0, self._total)
        without = set(self._names) - {row.bucket_id for row in loaded.live}
        for row in loaded.live:
            if row.bucket_id not in self._names and self._still(row):
                self._tell(
                    "warning",
                    "log",
                    row,
                    "its bucket is not there",
                    "nothing: the relay removes the log when it starts, unless it finds the file damaged",
                )
            self._check_epochs(row, loaded.epochs.get(row.key, []))
            self._check_events(row, loaded.epochs.get(row.key, []))
            self._check_above(row)
        self._check_strays(loaded.live, loaded.dropped)
        self._check_dropped()
        for bucket_id in without & {found for (found,) in self._raw.execute("SELECT id FROM bucket")}:
            sql = "SELECT id FROM log WHERE bucket = ? AND dropped = 0"
            found = self._raw.execute(sql, (bucket_id,)).fetchone()
            if found is None or found[0] in loaded.damaged:
                what = "no log" if found is None else "a log that does not say what it holds"
                message = f"the bucket has {what}, and takes no events"
                self._report.add("damage", "log", message, bucket=self._names[bucket_id])

    def _check_epochs(self, row: Row, epochs: list[Epoch]) -> None:
        starts = [epoch.from_seq for epoch in epochs]
        if not epochs:
            self._tell("damage", "epoch", row, "it has no epoch, so no cursor can be honoured")
        elif not 1 <= starts[0] <= row.first or starts != sorted(starts) or starts[-1] > row.head + 1:
            self._tell("damage", "epoch", row, f"its epochs begin at {starts[:20]}, its head is {row.head}")
        for epoch in epochs:
            if _EPOCH.fullmatch(epoch.epoch) is None:
                message = f"its epoch {epoch.epoch[:40]!r} has not the form of one, so no client can name its events"
                self._tell("damage", "epoch", row, message)

    def _check_events(self, row: Row, epochs: list[Epoch]) -> None:
        held, newest = 0, 0.0
        least, most = self._stretch(row)
        missing = Ranges([(row.first, least - 1), (most + 1, row.head)])
        holes: list[tuple[int, int]] = []
        for step in self._steps(row, least, most, epochs or [Epoch("", 1)], holes):
            held += step.bytes
            for seq, event in enumerate(step.found.events, step.start):
                if event is None:
                    if seq not in step.found.stubs:
                        missing.add(seq)
                    continue
                if event.received_at < newest:
                    self._tell("damage", "time", row, f"event {seq} was received before the one before it")
                newest = max(newest, event.received_at)
            self._done += step.end - step.start + 1
            self._progress("checking events", self._done, self._total)
        missing = Ranges(chain(missing, holes))
        self._report.events += max(row.head - row.first + 1 - len(missing), 0)
        self._report.bytes += held
        kept = self._first(row)
        if kept is not None:
            missing.cut_below(kept)
            for first, last in missing:
                self._tell_missing(row, first, last)
        if kept == row.first and not missing:
            self._check_totals(row, held, newest)

    def _check_totals(self, row: Row, held: int, newest: float) -> None:
        """Compares what a log's row says of its events with their bytes, and with the time of the newest one."""
        if held != row.bytes:
            self._tell(
                "warning",
                "bytes",
                row,
                f"its events have {held} bytes, its log says {row.bytes}",
                "nothing: the relay counts anew before it removes many events by size",
            )
        if newest > row.last_at:
            self._tell("damage", "time", row, "its newest event is younger than its log says")
        now = time.time()
        if newest and row.last_at > max(newest, now):
            message = f"its log says that its newest event is of the future, {_AND_SO_ARE_OTHERS}"
            mend = f"UPDATE log SET last_at = {newest!r} WHERE id = {row.key}"  # noqa: S608  # for a person, numbers only
            self._tell("damage", "time", row, message, _by_hand(mend))
        elif newest > now + _AHEAD:
            message = f"its newest event is of the future, {_AND_SO_ARE_OTHERS}"
            how = "look at the machine's clock; where that was right, the file is damaged, and a new bucket helps"
            self._tell("warning", "time", row, message, how)

    def _steps(
        self, row: Row, start: int, most: int, epochs: list[Epoch], holes: list[tuple[int, int]]
    ) -> Iterator[Step]:
        """Reads the events from `start` to `most`. Skips long holes between them, and adds these to `holes`."""
        while start <= most:
            for step in read(self._raw, row.key, start, most, epochs):
                yield step
                start = step.end + 1
                if not step.found.stubs and not any(step.found.events):
                    break
            there = next_there(self._raw, row.key, start, most)
            holes.append((start, there - 1))
            start = there

    def _stretch(self, row: Row) -> tuple[int, int]:
        """The first and last seq of a log's event rows: those in the log's row may be damaged, and far off."""
        sql = "SELECT min(seq), max(seq) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"
        found = one(self._raw, sql, row.key, row.first, row.head)
        if found is None:
            return row.first, row.head
        least, most = found
        return (row.head + 1, row.head) if least is None else (least, most)

    def _check_above(self, row: Row) -> None:
        """Reports events above the head. One statement reads both, so events that are just committed are no finding."""
        sql = (
            "SELECT count(*), min(event.seq), max(event.seq), min(log.head) FROM log JOIN event "
            "ON event.log = log.id AND event.seq > log.head WHERE log.id = ? AND log.dropped = 0"
        )
        count, least, most, head = self._raw.execute(sql, (row.key,)).fetchone()
        if count:
            how = RESTORE
            if count == most - head:  # otherwise there is a hole, and a head can't move over a hole
                mend = f"UPDATE log SET head = {most} WHERE id = {row.key}"  # noqa: S608  # for a person, numbers only
                how = (
                    f"stop the relay, run `{mend}` on the file with SQLite's own shell, and check again; or restore "
                    "the newest backup"
                )
            self._tell(
                "damage",
                "head",
                row,
                f"its head is {head}, and {count} events lie above it, from {least} to {most}: nobody reads them, and "
                "new events are refused",
                how,
            )

    def _tell_missing(self, row: Row, first: int, last: int) -> None:
        there = 0
        with contextlib.suppress(sqlite3.DatabaseError):
            sql = "SELECT count(*) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"
            there = self._raw.execute(sql, (row.key, first, last)).fetchone()[0]
        what = f"event {first}" if first == last else f"events {first} to {last}"
        kind, how = ("hole", "missing") if there == 0 else ("content", "damaged")
        verb = "is" if first == last else "are"
        self._tell(
            "damage",
            kind,
            row,
            f"{what} {verb} {how}",
            "the relay tells clients of the gap and goes on behind it; a backup from before may have them: "
            f"`relay export BUCKET FILE --after {first - 1} --data BACKUP`, as docs/backup.md says",
        )

    def _check_strays(self, live: list[Row], dropped: list[int]) -> None:
        """Reports rows of events that belong to no log, or are below the first of theirs."""
        heads = {row.key: row for row in live}
        sql = "SELECT log, count(*), min(seq) FROM event GROUP BY log"
        for log, count, least in self._raw.execute(sql).fetchall():
            row = heads.get(log)
            if row is None:
                known = self._raw.execute("SELECT 1 FROM log WHERE id = ?", (log,)).fetchone()
                if log not in dropped and known is None:
                    message = f"{count} events belong to no log"
                    self._report.add("warning", "stray", message, "nothing: they take space, and nobody reads them")
            elif least < row.first:
                mend = f"UPDATE log SET first = {least} WHERE id = {log}"  # noqa: S608  # for a person, numbers only
                self._tell(
                    "damage",
                    "first",
                    row,
                    f"events from {least} on lie below its first, {row.first}: nobody reads them",
                    _by_hand(mend),
                )

    def _check_dropped(self) -> None:
        """Reports logs that are marked as dropped and were not: a drop raises `first`. `+` skips the index, which may
        not know of the mark."""
        sql = "SELECT bucket, first, head FROM log WHERE +dropped = 1 AND first <= head"
        for bucket_id, first, head in self._raw.execute(sql).fetchall():
            message = f"its log, with the events {first} to {head}, is marked as deleted, and takes no events"
            self._report.add("damage", "log", message, bucket=self._names.get(bucket_id, str(bucket_id)))

    def _first(self, row: Row) -> int | None:
        """The oldest seq that is kept now; None if the log was dropped meanwhile."""
        found = self._raw.execute("SELECT first FROM log WHERE id = ? AND dropped = 0", (row.key,)).fetchone()
        return None if found is None else int(found[0])

    def _still(self, row: Row) -> bool:
        known = self._raw.execute("SELECT 1 FROM bucket WHERE id = ?", (row.bucket_id,)).fetchone()
        return known is None and self._first(row) is not None

    def _tell(self, level: Level, kind: str, row: Row, message: str, advice: str = RESTORE) -> None:
        self._report.add(level, kind, message, advice, self._names.get(row.bucket_id, str(row.bucket_id)))


def _by_hand(sql: str) -> str:
    """The advice to run an SQL statement that a trigger prevents."""
    return (
        f"stop the relay, run `.dbconfig enable_trigger off` and `{sql}` on the file with SQLite's own shell, and "
        "check again; or restore the newest backup"
    )
