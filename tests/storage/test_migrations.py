"""Files of older schemas, with everything that one may hold: each row of each table is there after the migration."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from relay_tornado.errors import StartupError
from relay_tornado.settings import Settings
from relay_tornado.storage import migrate
from relay_tornado.storage.database import Database
from relay_tornado.storage.sqlite_compat import guard_schema
from tests.acceptance.relay import TIMEOUT
from tests.needs import needs

NAME = 'it\'s "odd"\n\U0001f600'

# By the version that brought the table or the columns.
CONTENT: dict[int, list[tuple[str, tuple[Any, ...]]]] = {
    1: [
        ("INSERT INTO meta VALUES (1, 'the-file', 70, 60, 1790000000.5, '0.1.0')", ()),
        ("INSERT INTO bucket VALUES ('b', ?, 4, json_object('name', ?))", (NAME, NAME)),
        ("INSERT INTO input VALUES ('i', 'b')", ()),
        (
            "INSERT INTO token (key, secret_hash, revision, document) VALUES ('t', '00ff', 2, json_object('d', ?))",
            (NAME,),
        ),
        ("INSERT INTO log (id, bucket, first, head) VALUES (5, 'b', 4611686018427387900, 4611686018427387899)", ()),
        ("INSERT INTO log (id, bucket) VALUES (6, 'gone')", ()),
        ("INSERT INTO epoch VALUES ('aaaaaaaaaaaa', 5, 1), ('bbbbbbbbbbbb', 5, 4611686018427387900)", ()),
        *(
            (
                "INSERT INTO event (log, seq, size, crc, received_at, input_id, method, path, query, headers,"
                " remote_ip, body) VALUES (?, ?, ?, ?, ?, 'i', ?, ?, x'', x'00ff', '::1', ?)",
                (log, seq, 900, seq % 1000, 0.1 + seq % 7, NAME, b"/\xff", bytes(range(256))),
            )
            for log, first in ((5, 4611686018427387900), (6, 1))
            for seq in range(first, first + 4)
        ),
        ("UPDATE log SET head = 4611686018427387903, bytes = 3600, last_at = 6.1 WHERE id = 5", ()),
        ("UPDATE log SET head = 4, bytes = 3600, last_at = 6.1 WHERE id = 6", ()),
        ("INSERT INTO dedupe VALUES (5, x'aa00', 4611686018427387901, 1.5, 9e9)", ()),
    ],
    2: [
        (
            "INSERT INTO event (log, seq, size, crc, received_at, input_id, method, path, query, headers, remote_ip,"
            " body, resend_of, target, force, verified, verdict) VALUES (5, 4611686018427387904, 1, 2, 6.1, 'i', 'GET',"
            " x'', x'', x'', '', x'01', 'aaaaaaaaaaaa-1', 7, 1, 0, ?)",
            (NAME,),
        ),
        ("UPDATE log SET head = 4611686018427387904 WHERE id = 5", ()),
        (
            "INSERT INTO delivery VALUES (1, 5, 4611686018427387901, 7, 1.5, 'sent', 200, 9, 2, '{\"A\":[\"b\"]}',"
            " x'ff'), (9, 6, 3, 0, 2.5, 'failed', 0, 0, 0, '{}', x'')",
            (),
        ),
    ],
    3: [
        ("UPDATE token SET used_at = 1790000060", ()),
        (
            "INSERT INTO event VALUES (5, 4611686018427387905, 1, 2, 6.1, 'i', 'GET', x'', x'', x'', '', x'01',"
            " 'aaaaaaaaaaaa-1', NULL, 0, NULL, '', 1)",
            (),
        ),
        ("UPDATE log SET head = 4611686018427387905 WHERE id = 5", ()),
        (
            "INSERT INTO consumer VALUES (3, 5, 'client', ?, 4611686018427387900,"
            " '[[4611686018427387902,4611686018427387902]]', '[[4611686018427387903,4611686018427387903]]', 1, 2.5, 9,"
            ' 2, \'{"reason":"retention","from":1,"to":2,"at":1.5,"untold":[]}\', 1.5, 2.5)',
            (NAME,),
        ),
        (
            "INSERT INTO consumer (log, kind, name, floor, created_at, updated_at) VALUES (6, 'output', '1', 2, 0, 0)",
            (),
        ),
        ("INSERT INTO parked VALUES (3, 4611686018427387900, 2, 5.5, 1.5)", ()),
        (
            "INSERT INTO dead_letter VALUES (3, 7, 2, 1.5, 5.5, 'retention'), (3, 4611686018427387901, 2, 1.5, 5.5, ?)",
            (NAME,),
        ),
    ],
}  # fmt: skip
QUEUES = [(5, "events", 0, 4611686018427387901), (5, "events", 7, 4611686018427387902), (6, "events", 0, 2)]
"""What version 2 has in place of consumers."""


def held(path: Path, columns: dict[str, list[str]] | None = None) -> dict[str, tuple[list[str], list[Any]]]:
    """The columns of each table (`columns`: of these only), and its rows."""
    with closing(sqlite3.connect(path)) as raw:
        tables = [table for (table,) in raw.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY 1")]
        found = {}
        for table in tables if columns is None else columns:
            names = [row[1] for row in raw.execute(f"PRAGMA table_info({table})")]
            names = names if columns is None else columns[table]
            found[table] = (names, raw.execute(f"SELECT {', '.join(names)} FROM {table} ORDER BY 1, 2").fetchall())
        return found


@pytest.mark.parametrize("version", range(1, migrate.latest()))
@pytest.mark.gen_test
async def test_everything_is_there_after_a_migration(version: int, tmp_path: Path) -> None:
    """As it was, in each column that there was: also of a log that was dropped and has not left yet, at the largest
    numbers, and under names of any form."""
    settings = Settings(data=tmp_path)
    path = tmp_path / "relay.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as raw:
        guard_schema(raw)
        raw.execute("PRAGMA auto_vacuum = INCREMENTAL")
        raw.execute("PRAGMA journal_mode = WAL")
        for step in migrate.steps()[:version]:
            raw.executescript(step.script)
        for number in range(1, version + 1):
            for sql, values in CONTENT[number]:
                raw.execute(sql, values)
        if version == 2:
            raw.executemany("INSERT INTO consumer VALUES (?, ?, ?, ?)", QUEUES)
        raw.execute("UPDATE log SET dropped = 1, first = head + 1, bytes = 0 WHERE id = 6")
    before = held(path)
    queues = before.pop("consumer") if version == 2 else None
    before["meta"] = (before["meta"][0], [(*row[:-1], "") for row in before["meta"][1]])
    database = await Database.open(settings)
    await database.close()
    after = held(path, {table: names for table, (names, _) in before.items()})
    after["meta"] = (after["meta"][0], [(*row[:-1], "") for row in after["meta"][1]])
    assert after == before
    if queues is not None:
        wanted = ["log", "kind", "name", "floor", "done", "tried", "gaps", "gap"]
        ((_, found),) = held(path, {"consumer": wanted}).values()
        assert found == [(log, kind, str(output), floor, "[]", "[]", 0, None) for log, kind, output, floor in QUEUES]
    copy = held(migrate.copy_of(path, migrate.latest()))
    assert copy.keys() == held(path).keys() or version < 3
    with closing(sqlite3.connect(path)) as raw:
        guard_schema(raw)
        assert raw.execute("PRAGMA foreign_key_check").fetchall() == []
        assert raw.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


COPY = """
import sqlite3, sys
from pathlib import Path
from relay_tornado.errors import StartupError
from relay_tornado.storage.migrate import backup

try:
    backup(sqlite3.connect(sys.argv[1]), Path(sys.argv[2]))
except StartupError:
    sys.exit(7)
"""


def test_a_copy_whose_last_write_fails_is_none(tmp_path: Path) -> None:
    """Each sync of it fails once: it is made as one file, which needs no write-ahead log, or it is told."""
    needs("strace", "install strace")
    source, target, seen = tmp_path / "relay.db", tmp_path / "copy.db", tmp_path / "seen"
    with closing(sqlite3.connect(source)) as raw:
        raw.execute("PRAGMA journal_mode = WAL").fetchall()
        raw.execute("CREATE TABLE one (x)")
    refused = 0
    for place in range(1, 20):
        strace = ["strace", "-qq", "-o", str(seen), "-P", f"{target}.part", "-P", f"{target}.part-journal"]
        strace += ["-e", "trace=fdatasync", "-e", f"inject=fdatasync:error=EIO:when={place}"]
        command = [*strace, sys.executable, "-c", COPY, str(source), str(target)]
        ended = subprocess.run(command, timeout=TIMEOUT, check=False).returncode
        assert [path.name for path in tmp_path.glob("copy*")] == ([] if ended else ["copy.db"]), place
        if ended:
            assert ended == 7
            refused += 1
        else:
            assert target.read_bytes()[18:20] == b"\1\1", place
            target.unlink()
        if "INJECTED" not in seen.read_text():
            break
    assert refused


def test_a_copy_tells_how_far_it_is_and_ends_when_it_is_halted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was halted leaves no file."""
    monkeypatch.setattr(migrate, "PAGES", 1)
    with closing(sqlite3.connect(tmp_path / "relay.db")) as raw:
        raw.executescript("CREATE TABLE one (x); CREATE TABLE two (x)")
        told: list[tuple[int, int]] = []
        migrate.backup(raw, tmp_path / "copy", advance=lambda *pages: told.append(pages))
        assert told == [(1, 3), (2, 3), (3, 3)]
        with pytest.raises(StartupError, match="nothing was changed"):
            migrate.backup(raw, tmp_path / "halted", lambda: True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "relay.db"]
