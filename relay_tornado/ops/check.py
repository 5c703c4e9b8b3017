"""Checks whether a relay's file is sound: its pages, records, logs and events; each finding says what to do.

A check changes nothing, and may run beside a relay: each look, except that at the pages, is a short transaction of its
own, and what is added or deleted meanwhile is no finding.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from relay_tornado.errors import StartupError
from relay_tornado.model import Bucket, Token, from_document
from relay_tornado.ops.check_consumers import check_consumers
from relay_tornado.ops.check_logs import Logs
from relay_tornado.ops.check_values import LARGE_TABLES, check_conditions, check_followers
from relay_tornado.ops.copying import Progress
from relay_tornado.ops.findings import MOST_TOLD, RESTORE, Report
from relay_tornado.ops.opening import open_file
from relay_tornado.storage import lock, migrate, permissions, start
from relay_tornado.storage import witness as witnesses
from relay_tornado.storage.damage import code_of
from relay_tornado.storage.database import NAME

NOT_OPENED = (
    "stop the relay, keep the directory for whoever wants to look into it, and `relay restore` the newest backup into "
    "a new one; `.recover` of SQLite's own shell may still get events out of a copy of the file"
)

_WORD = re.compile(r"\w+")


def check(path: Path, progress: Progress, *, full: bool = False) -> Report:
    """Checks everything in the file; with `full` also the indexes of the large tables against the tables (slow).

    The witness is compared if it is beside a relay.db; in a data directory it has to exist. Raises StartupError if the
    file can't be read. If SQLite finds it malformed, that is reported as damage.
    """
    report, begun = Report(path), time.monotonic()
    # Read before the file: a running relay writes the witness after the file, so it is never ahead of the file.
    witness = _look_at_witness(path, report) if path.name == NAME else None
    try:
        raw = open_file(path)
    except StartupError as error:
        if _is_damage(path, error, witness):
            report.add("damage", "unreadable", f"the file can't be opened: {_reason(error)}", NOT_OPENED)
        elif report.damaged:  # condemned by the witness
            advice = start.advice_if_condemned(path)
            report.add(
                "damage", "unreadable", f"the file can't be opened, so nothing in it was checked: {error}", advice
            )
        else:
            raise
        report.seconds = time.monotonic() - begun
        return report
    with contextlib.closing(raw):
        _within(report, "the pages", lambda: _check_pages(raw, report, full, progress))
        _within(report, "the file's own row", lambda: _check_meta(raw, report, witness))
        names: dict[str, str] = {}
        _within(report, "the records", lambda: names.update(_check_records(raw, report)))
        _within(report, "the logs", lambda: Logs(raw, report, names, progress).check())
        _within(report, "the consumers", lambda: check_consumers(raw, report, names))
        report.schema = migrate.version(raw)
        with contextlib.closing(migrate.empty(report.schema)) as model:
            _within(report, "the schema", lambda: _check_schema(raw, report, model))
            _within(report, "the small tables", lambda: check_conditions(raw, report, model))
        _within(report, "what goes with events", lambda: check_followers(raw, report))
    report.seconds = time.monotonic() - begun
    return report


def _look_at_witness(path: Path, report: Report) -> witnesses.Stamp | None:
    """Reads the witness beside the file, which may condemn it. It may be missing beside a backup named relay.db, which
    has no lock file."""
    place = path.with_name(witnesses.NAME)
    remedy = "restart the relay, which makes it anew; where nobody removed it, look at the disk"
    try:
        there = place.exists()
        stamp = witnesses.peek(place)
        if start.condemned(path):
            report.add("damage", "witness", f"the file {start.CONDEMNED}", start.advice_if_condemned(path))
        problem = "is damaged" if there else "is missing"
    except OSError as error:
        there, stamp, problem = True, None, f"can't be read ({error.strerror})"
        # A start is refused because of it.
        remedy = permissions.advice(path.parent) or f"look at the disk; if that is sound, move {place} away"
    if stamp is None and (there or path.with_name(lock.NAME).exists()):
        report.add(
            "warning",
            "witness",
            f"{witnesses.NAME} {problem}, so that a loss before now can't be noticed",
            remedy,
        )
    return stamp


def _is_damage(path: Path, error: StartupError, witness: witnesses.Stamp | None) -> bool:
    """Whether a file that can't be opened is a damaged file of a relay, rather than something else."""
    code = code_of(error.__cause__)
    if code == sqlite3.SQLITE_NOTADB or path.stat().st_size == 0:
        return witness is not None
    return code == sqlite3.SQLITE_CORRUPT


def _reason(error: StartupError) -> str:
    return "it is empty" if error.__cause__ is None else str(error.__cause__)


def _within(report: Report, what: str, look: Callable[[], None]) -> None:
    """Runs one look. A damaged page, or a value of the wrong type, ends this look only."""
    try:
        look()
    except (sqlite3.DatabaseError, TypeError, ValueError) as error:
        report.add("damage", "unreadable", f"{what} can't be read to the end ({error})")


def _check_schema(raw: sqlite3.Connection, report: Report, model: sqlite3.Connection) -> None:
    """Compares the schema with that of its version (`model`). Additional objects are no finding, except triggers, which
    change what writes do."""
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
            report.add("damage", "schema", f"the {kind} {name} is another one than the relay's")
    for kind, name in sorted(found.keys() - wanted.keys()):
        if kind == "trigger":
            report.add("damage", "schema", f"the trigger {name} is none of the relay's: nobody knows what it does")


def _words(text: str | None) -> str:
    """A statement without white space, which differs in a migrated table."""
    return "".join((text or "").split())


def _check_pages(raw: sqlite3.Connection, report: Report, full: bool, progress: Progress) -> None:
    progress("checking pages", 0, 0)
    said = {"ok"}
    for look in _looks(raw, full):
        for (message,) in raw.execute(f"PRAGMA main.{look}"):
            for line in str(message).splitlines():
                if line not in said and not line.startswith("*** in database "):  # SQLite's heading
                    report.add("damage", "pages", line)
                said.add(line)
    for table, rowid, parent, _ in raw.execute("PRAGMA main.foreign_key_check"):
        report.add("damage", "foreign_key", f"row {rowid} of {table} belongs to no {parent}")


def _looks(raw: sqlite3.Connection, full: bool) -> Iterator[str]:
    """The pragmas that check the pages. Only integrity_check, of all or of one table, compares indexes with tables."""
    if full:
        yield f"integrity_check({MOST_TOLD})"
        return
    yield f"quick_check({MOST_TOLD})"
    sql = "SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    for (table,) in raw.execute(sql).fetchall():
        if table not in LARGE_TABLES and _WORD.fullmatch(table):
            yield f"integrity_check({table})"


def _check_meta(raw: sqlite3.Connection, report: Report, witness: witnesses.Stamp | None) -> None:
    try:
        stamp = witnesses.read_stamp(raw)
    except (sqlite3.DatabaseError, TypeError) as error:
        report.add("damage", "meta", f"the table meta does not say which database this is ({error})")
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
        )
    elif witness.database != stamp.database:
        report.add(
            "warning",
            "witness",
            f"{witnesses.NAME} is another database's, so that a loss before now can't be noticed",
            "nothing: the relay makes it anew at its next start",
        )


def _check_records(raw: sqlite3.Connection, report: Report) -> Mapping[str, str]:
    """Checks the records of buckets and tokens. Returns the buckets' names by id."""
    names: dict[str, str] = {}
    with raw:
        raw.execute("BEGIN")
        claimed = dict(raw.execute("SELECT id, bucket FROM input").fetchall())
        buckets = raw.execute("SELECT id, name, document FROM bucket").fetchall()
    for bucket_id, name, document in buckets:
        report.buckets += 1
        named = names[bucket_id] = str(name)  # not a text if the row is damaged
        bucket = _decoded(report, "bucket", bucket_id, document, Bucket)
        if bucket is None:
            continue
        if (bucket.id, bucket.name) != (bucket_id, name):
            message = f"the record of bucket {bucket_id} holds another id or name than its row"
            report.add("damage", "record", message, bucket=named)
        for made in bucket.inputs:
            if claimed.pop(made.id, None) != bucket_id:
                message = f"its input {made.id} is not assigned to it in the table input"
                report.add("damage", "record", message, bucket=named)
    for input_id in claimed:
        report.add("damage", "record", f"the input {input_id} is in no bucket's record")
    for key, secret_hash, document in raw.execute("SELECT key, secret_hash, document FROM token").fetchall():
        token = _decoded(report, "token", key, document, Token)
        if token is not None and (token.key, token.secret_hash) != (key, secret_hash):
            report.add("damage", "record", f"the record of token {key} holds another key or secret than its row")
    return names


def _decoded(report: Report, kind: str, key: str, document: str, model: type[Any]) -> Any | None:
    try:
        return from_document(model, json.loads(document))
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        report.add("damage", "record", f"the record of {kind} {key} can't be understood ({error})")
        return None
