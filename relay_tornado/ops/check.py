"""Looks whether a relay's file is sound: its pages, its records, its logs, each event; and says what to do.

It changes nothing, and may look at a file that a relay serves: then each look is a short transaction of its own (but
the look at the pages), and what came or left meanwhile is no finding.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from relay_tornado.errors import StartupError
from relay_tornado.log.loading import Row, load
from relay_tornado.log.rows import one
from relay_tornado.model import Bucket, Epoch, Token, from_document
from relay_tornado.ops.check_consumers import check_consumers
from relay_tornado.ops.check_values import BIG, check_conditions, check_followers
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.opening import open_file
from relay_tornado.ops.reading import Step, read
from relay_tornado.ranges import Ranges
from relay_tornado.storage import lock, migrate
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.database import NAME

Level: TypeAlias = Literal["damage", "warning"]

MOST = 100
"""Findings of one kind that are told one by one."""

RESTORE = (
    "stop the relay, keep the directory for whoever wants to look into it, and `relay restore` the newest backup into "
    "a new one; `relay export` still gets what can be read"
)

NOT_OPENED = (
    "stop the relay, keep the directory for whoever wants to look into it, and `relay restore` the newest backup into "
    "a new one; `.recover` of SQLite's own shell may still get events out of a copy of the file"
)

_AHEAD = 60.0
"""Seconds by which a clock may be set back without a word."""
_AND_SO_ARE_OTHERS = "and every event that comes has that time until then, so that none leaves by its age"

_EPOCH = re.compile(r"[a-z0-9]{12}")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as it should be, and what to do about it. `bucket` is a name or an id, "" for the file."""

    level: Level
    kind: str
    message: str
    advice: str
    bucket: str = ""


@dataclass(slots=True)
class Report:
    """What was looked at, and what was found."""

    path: Path
    schema: int = 0
    buckets: int = 0
    consumers: int = 0
    events: int = 0
    bytes: int = 0
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)

    @property
    def damage(self) -> list[Finding]:
        """The findings that are no mere warnings."""
        return [finding for finding in self.findings if finding.level == "damage"]

    @property
    def damaged(self) -> bool:
        return bool(self.damage)

    def add(self, level: Level, kind: str, message: str, advice: str, bucket: str = "") -> None:
        """Takes a finding in, the first 100 of each kind."""
        if sum(finding.kind == kind for finding in self.findings) < MOST:
            self.findings.append(Finding(level, kind, message, advice, bucket))


def check(path: Path, progress: Progress, *, full: bool = False) -> Report:
    """Looks at everything in the file; with `full` also whether the large tables' indexes agree with these, which is
    slow.

    The witness counts where it stands beside a relay.db, and has to stand in a data directory. Raises StartupError
    where the file can't be looked at; one that SQLite finds malformed is damage.
    """
    report, begun = Report(path), time.monotonic()
    # Before the file: a relay that runs writes it after the file, so it is never ahead of what is read later.
    witness = _look_at_witness(path, report) if path.name == NAME else None
    try:
        raw = open_file(path)
    except StartupError as error:
        if not _is_damage(path, error, witness):
            raise
        report.add("damage", "unreadable", f"the file can't be opened: {_reason(error)}", NOT_OPENED)
        report.seconds = time.monotonic() - begun
        return report
    with contextlib.closing(raw):
        _within(report, "the pages", lambda: _check_pages(raw, report, full, progress))
        _within(report, "the file's own row", lambda: _check_meta(raw, report, witness))
        names: dict[str, str] = {}
        _within(report, "the records", lambda: names.update(_check_records(raw, report)))
        _within(report, "the logs", lambda: _Logs(raw, report, names, progress).check())
        _within(report, "the consumers", lambda: _check_consumers(raw, report, names))
        report.schema = migrate.version(raw)
        with contextlib.closing(model(report.schema)) as empty:
            _within(report, "the schema", lambda: _check_schema(raw, report, empty))
            _within(report, "the small tables", lambda: check_conditions(raw, empty, partial(_tell_value, report)))
        _within(report, "what goes with events", lambda: _check_followers(raw, report))
    report.seconds = time.monotonic() - begun
    return report


def _tell_value(report: Report, message: str) -> None:
    report.add("damage", "value", message, RESTORE)


def _check_followers(raw: sqlite3.Connection, report: Report) -> None:
    for count, what in check_followers(raw):
        if count:
            advice = "nothing: they take space, and nobody is given them; somebody or something changed the file"
            report.add("warning", "stray", f"{count} {what}", advice)


def _check_consumers(raw: sqlite3.Connection, report: Report, names: Mapping[str, str]) -> None:
    def tell(message: str, advice: str, bucket_id: str) -> None:
        report.add("damage", "consumer", message, advice, names.get(bucket_id, str(bucket_id)))

    report.consumers = check_consumers(raw, tell)


def _look_at_witness(path: Path, report: Report) -> witnesses.Stamp | None:
    """What the witness beside the file says. A backup may be named relay.db, too: only a data directory has a lock."""
    place = path.with_name(witnesses.NAME)
    try:
        there = place.exists()
        stamp = witnesses.peek(place)
        problem = "is damaged" if there else "is missing"
    except OSError as error:
        there, stamp, problem = True, None, f"can't be read ({error.strerror})"
    if stamp is None and (there or path.with_name(lock.NAME).exists()):
        report.add(
            "warning",
            "witness",
            f"{witnesses.NAME} {problem}, so that a loss before now can't be noticed",
            "restart the relay, which makes it anew; where nobody removed it, look at the disk",
        )
    return stamp


def _is_damage(path: Path, error: StartupError, witness: witnesses.Stamp | None) -> bool:
    """Whether a file that can't be opened was a relay's once, rather than something else."""
    code = code_of(error.__cause__)
    if code == sqlite3.SQLITE_NOTADB or path.stat().st_size == 0:
        return witness is not None
    return code == sqlite3.SQLITE_CORRUPT


def _reason(error: StartupError) -> str:
    return "it is empty" if error.__cause__ is None else str(error.__cause__)


def _within(report: Report, what: str, look: Callable[[], None]) -> None:
    """A damaged page, or a value of another type than its column's, ends one look, not all of them."""
    try:
        look()
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        report.add("damage", "unreadable", f"{what} can't be read to the end ({error})", RESTORE)


def model(version: int) -> sqlite3.Connection:
    """An empty database with the schema of this version."""
    made = sqlite3.connect(":memory:")
    if version == migrate.latest():
        made.executescript(migrate.schema())
    else:
        for step in migrate.steps()[:version]:
            made.executescript(step.script)
    return made


def _check_schema(raw: sqlite3.Connection, report: Report, model: sqlite3.Connection) -> None:
    """What a file of its version has to have, as it has to be; what it has beyond that is no finding, but for triggers,
    which change what is done to it."""
    sql = "SELECT type, name, sql FROM main.sqlite_schema WHERE name NOT LIKE 'sqlite_%'"
    wanted = {(kind, name): _words(text) for kind, name, text in model.execute(sql)}
    found = {(kind, name): _words(text) for kind, name, text in raw.execute(sql)}
    for kind, name in sorted(wanted.keys() - found.keys()):
        mend = (
            f"stop the relay, run the statement CREATE … {name} of the relay's schema.sql on the file with SQLite's "
            "own shell, and check again; somebody removed it, so compare with a backup what else was changed"
        )
        why = ", which keeps events as they are" if kind == "trigger" else ""
        report.add("damage", "schema", f"the {kind} {name} is missing{why}", RESTORE if kind == "table" else mend)
    for kind, name in sorted(wanted.keys() & found.keys()):
        if wanted[kind, name] != found[kind, name]:
            report.add("damage", "schema", f"the {kind} {name} is another one than the relay's", RESTORE)
    for kind, name in sorted(found.keys() - wanted.keys()):
        if kind == "trigger":
            report.add(
                "damage", "schema", f"the trigger {name} is none of the relay's: nobody knows what it does", RESTORE
            )


def _words(text: str | None) -> str:
    """A statement without its blanks: a migrated table has others."""
    return "".join((text or "").split())


def _check_pages(raw: sqlite3.Connection, report: Report, full: bool, progress: Progress) -> None:
    progress("checking pages", 0, 0)
    said = {"ok"}
    for look in _looks(raw, full):
        for (message,) in raw.execute(f"PRAGMA main.{look}"):
            for line in str(message).splitlines():
                if line not in said:
                    report.add("damage", "pages", line, RESTORE)
                said.add(line)
    for table, rowid, parent, _ in raw.execute("PRAGMA main.foreign_key_check"):
        report.add("damage", "foreign_key", f"row {rowid} of {table} belongs to no {parent}", RESTORE)


def _looks(raw: sqlite3.Connection, full: bool) -> Iterator[str]:
    """How SQLite is to look at the pages: it compares indexes and tables in the second way only, of all or of one."""
    if full:
        yield f"integrity_check({MOST})"
        return
    yield f"quick_check({MOST})"
    sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in raw.execute(sql).fetchall():
        if table not in BIG and _WORD.fullmatch(table):
            yield f"integrity_check({table})"


def _check_meta(raw: sqlite3.Connection, report: Report, witness: witnesses.Stamp | None) -> None:
    try:
        stamp = witnesses.read_stamp(raw)
    except (sqlite3.DatabaseError, TypeError) as error:
        report.add("damage", "meta", f"the table meta does not say which database this is ({error})", RESTORE)
        return
    lost = witnesses.loss(witness, stamp)
    if lost is not None:
        report.add(
            "damage",
            "witness",
            f"{lost.events} events ({lost.commits} commits) that were committed are not in the file any more",
            "start the relay: it keeps a copy of the WAL, tells the clients what they miss, and goes on; where senders "
            "can send again, let them. A disk that loses writes should be replaced",
        )
    elif witness is None:
        return
    elif witness.database == stamp.database and witness.appended > stamp.appended:
        report.add(
            "damage",
            "witness",
            f"the table meta counts {stamp.appended} events, {witnesses.NAME} {witness.appended}: the file was changed "
            "by something else than a relay",
            RESTORE,
        )
    elif witness.database != stamp.database:
        report.add(
            "warning",
            "witness",
            f"{witnesses.NAME} is another database's, so that a loss before now can't be noticed",
            "nothing: the relay makes it anew at its next start",
        )


def _check_records(raw: sqlite3.Connection, report: Report) -> Mapping[str, str]:
    """Returns the names of the buckets by their ids."""
    names: dict[str, str] = {}
    with raw:
        raw.execute("BEGIN")
        claimed = dict(raw.execute("SELECT id, bucket FROM input").fetchall())
        buckets = raw.execute("SELECT id, name, document FROM bucket").fetchall()
    for bucket_id, name, document in buckets:
        report.buckets += 1
        named = names[bucket_id] = str(name)  # which is no text where it is damaged
        bucket = _decoded(report, "bucket", bucket_id, document, Bucket)
        if bucket is None:
            continue
        if (bucket.id, bucket.name) != (bucket_id, name):
            report.add("damage", "record", f"the record of bucket {bucket_id} is another one's", RESTORE, named)
        for made in bucket.inputs:
            if claimed.pop(made.id, None) != bucket_id:
                report.add("damage", "record", f"its input {made.id} is not claimed by it", RESTORE, named)
    for input_id in claimed:
        report.add("damage", "record", f"the input {input_id} is in no bucket's record", RESTORE)
    for key, secret_hash, document in raw.execute("SELECT key, secret_hash, document FROM token").fetchall():
        token = _decoded(report, "token", key, document, Token)
        if token is not None and (token.key, token.secret_hash) != (key, secret_hash):
            report.add("damage", "record", f"the record of token {key} is another one's", RESTORE)
    return names


def _decoded(report: Report, kind: str, key: str, document: str, model: type[Any]) -> Any | None:
    try:
        return from_document(model, json.loads(document))
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        report.add("damage", "record", f"the record of {kind} {key} can't be understood ({error})", RESTORE)
        return None


class _Logs:
    """Every log, against its row, its epochs and its bucket."""

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
                self._report.add("damage", "log", message, RESTORE, self._names[bucket_id])

    def _check_epochs(self, row: Row, epochs: list[Epoch]) -> None:
        starts = [epoch.from_seq for epoch in epochs]
        if not epochs:
            self._tell("damage", "epoch", row, "it has no epoch, so no cursor can be honoured", RESTORE)
        elif not 1 <= starts[0] <= row.first or starts != sorted(starts) or starts[-1] > row.head + 1:
            self._tell("damage", "epoch", row, f"its epochs begin at {starts[:20]}, its head is {row.head}", RESTORE)
        for epoch in epochs:
            if _EPOCH.fullmatch(epoch.epoch) is None:
                message = f"its epoch {epoch.epoch[:40]!r} has not the form of one, so no client can name its events"
                self._tell("damage", "epoch", row, message, RESTORE)

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
                    self._tell("damage", "time", row, f"event {seq} was received before the one before it", RESTORE)
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
            if held != row.bytes:
                self._tell(
                    "warning",
                    "bytes",
                    row,
                    f"its events have {held} bytes, its log says {row.bytes}",
                    "nothing: the relay counts anew before it removes many events by size",
                )
            if newest > row.last_at:
                self._tell("damage", "time", row, "its newest event is younger than its log says", RESTORE)
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
        """The events from `start` to `most`; long holes between them are passed over, and told."""
        sql = "SELECT min(seq) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"
        while start <= most:
            for step in read(self._raw, row.key, start, most, epochs):
                yield step
                start = step.end + 1
                if not step.found.stubs and not any(step.found.events):
                    break
            found = one(self._raw, sql, row.key, start, most)
            there = start if found is None else most + 1 if found[0] is None else found[0]
            holes.append((start, there - 1))
            start = there

    def _stretch(self, row: Row) -> tuple[int, int]:
        """Where a log's events begin and end, by what is there: what its row says may be damaged, and far off."""
        sql = "SELECT min(seq), max(seq) FROM event WHERE log = ? AND seq BETWEEN ? AND ?"
        found = one(self._raw, sql, row.key, row.first, row.head)
        if found is None:
            return row.first, row.head
        least, most = found
        return (row.head + 1, row.head) if least is None else (least, most)

    def _check_above(self, row: Row) -> None:
        """Events above the head of this very moment, which one statement sees: those that come are no finding."""
        sql = (
            "SELECT count(*), min(event.seq), max(event.seq), min(log.head) FROM log JOIN event "
            "ON event.log = log.id AND event.seq > log.head WHERE log.id = ? AND log.dropped = 0"
        )
        count, least, most, head = self._raw.execute(sql, (row.key,)).fetchone()
        if count:
            how = RESTORE
            if count == most - head:  # otherwise they have a hole, over which no head moves
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
            "the relay tells clients of the gap and goes on behind it; where it matters, a backup of before has them: "
            f"`relay export BUCKET FILE --after {first - 1} --data BACKUP`, as docs/backup.md says",
        )

    def _check_strays(self, live: list[Row], dropped: list[int]) -> None:
        """Rows of events that lie in no log's stretch."""
        heads = {row.key: row for row in live}
        sql = "SELECT log, count(*), min(seq), max(seq) FROM event GROUP BY log"
        for log, count, least, _ in self._raw.execute(sql).fetchall():
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
        """Logs that are marked as dropped, and were not: that raises `first`. Their index may not know of the mark."""
        sql = "SELECT bucket, first, head FROM log WHERE +dropped = 1 AND first <= head"
        for bucket_id, first, head in self._raw.execute(sql).fetchall():
            message = f"its log, with the events {first} to {head}, is marked as deleted, and takes no events"
            self._report.add("damage", "log", message, RESTORE, self._names.get(bucket_id, str(bucket_id)))

    def _first(self, row: Row) -> int | None:
        """The oldest seq that is kept by now; None where the log was dropped meanwhile."""
        found = self._raw.execute("SELECT first FROM log WHERE id = ? AND dropped = 0", (row.key,)).fetchone()
        return None if found is None else int(found[0])

    def _still(self, row: Row) -> bool:
        known = self._raw.execute("SELECT 1 FROM bucket WHERE id = ?", (row.bucket_id,)).fetchone()
        return known is None and self._first(row) is not None

    def _tell(self, level: Level, kind: str, row: Row, message: str, advice: str) -> None:
        self._report.add(level, kind, message, advice, self._names.get(row.bucket_id, str(row.bucket_id)))


def _by_hand(sql: str) -> str:
    """How to change what a trigger keeps."""
    return (
        f"stop the relay, run `.dbconfig enable_trigger off` and `{sql}` on the file with SQLite's own shell, and "
        "check again; or restore the newest backup"
    )
